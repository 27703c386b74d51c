"""Makes untrusted text safe to print: a peer must not control the terminal."""

from __future__ import annotations

from typing import Final

SHORT: Final = 60
"""The most characters of a name that are shown in a line."""


def printable(text: str, longest: int = SHORT) -> str:
    """Replace control characters and cut what is longer than `longest` characters."""
    shown = "".join(char if char.isprintable() else "\ufffd" for char in text[: longest + 1])
    return shown if len(text) <= longest else f"{shown[:longest]}…"
