"""Terminals: what they support, and which text is safe for them. Standard library only."""

from __future__ import annotations

import os
from typing import TextIO


def is_fancy(stream: TextIO | None) -> bool:
    """Whether to write colours and emoji: the terminal supports them, and `NO_COLOR` is not set.

    See no-color.org. None: the stream was closed when the process started.
    """
    if stream is None or not stream.isatty():
        return False
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def escaped(text: str, keep: str = "") -> str:
    r"""Write what is no printable character as `\x1b`, `\u202e` and so on, but for those in `keep`.

    Text that others chose must not control the terminal: not by control characters (C0, C1), nor by
    those that change the direction of text or are not seen.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else _code(each) for each in text)


def _code(char: str) -> str:
    if char > "\x7f":
        return char.encode("ascii", "backslashreplace").decode()
    return f"\\x{ord(char):02x}"
