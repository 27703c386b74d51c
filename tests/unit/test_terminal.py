from __future__ import annotations

import unicodedata

import pytest

from gateway.terminal import escaped


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain, größer, 中文, ✅", "plain, größer, 中文, ✅"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J\x7f", "\\x9b2J\\x7f"),
        ("a\u202eb\u2066c\u200f", "a\\u202eb\\u2066c\\u200f"),
        ("\U000e0041\ud800", "\\U000e0041\\ud800"),
        ("a\nb", "a\\x0ab"),
    ],
)
def test_what_could_control_a_terminal_is_written_as_its_code(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_what_is_kept_stays() -> None:
    assert escaped("a\n\t\x1b", keep="\n\t") == "a\n\t\\x1b"


def test_no_control_or_format_character_is_left() -> None:
    every = "".join(map(chr, range(0x110000)))
    assert {unicodedata.category(char) for char in escaped(every)}.isdisjoint(
        {"Cc", "Cf", "Cs", "Zl", "Zp"}
    )
