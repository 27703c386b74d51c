"""Others' text made safe to show: what a peer sends must not steer a terminal."""

from __future__ import annotations

from typing import Final

SHORT: Final = 60
"""Characters of a name that are shown in a line."""


def printable(text: str, longest: int = SHORT) -> str:
    """Replace control characters and cut what is longer than `longest` characters."""
    shown = "".join(char if char.isprintable() else "\ufffd" for char in text[: longest + 1])
    return shown if len(text) <= longest else f"{shown[:longest]}…"
