from __future__ import annotations

from gateway.otlp.text import printable


def test_control_characters_are_replaced() -> None:
    assert printable("a\x1b[2Jb\r\n\u202e") == "a\ufffd[2Jb\ufffd\ufffd\ufffd"


def test_what_is_too_long_is_cut_visibly() -> None:
    assert printable("x" * 60) == "x" * 60
    assert printable("x" * 61) == "x" * 60 + "…"
    assert printable("abc", 2) == "ab…"
