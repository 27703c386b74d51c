"""How commands speak: results on stdout, errors on stderr, and the exit codes.

Colours and emoji stand only on a terminal. Words are those of the `sts` CLI (`✅ …` on a terminal,
`[SUCCESS] …` elsewhere), so that scripts written for it keep working. What a command says does not
belong here; how a key is shown neither.
"""

from __future__ import annotations

import enum
import sys
from typing import Final, NoReturn, TextIO

import typer

from gateway.terminal import is_fancy

_RESET: Final = "\x1b[0m"

__all__ = [
    "Colour",
    "Exit",
    "error",
    "fail",
    "info",
    "is_fancy",
    "note",
    "paint",
    "success",
    "warning",
]


class Exit(enum.IntEnum):
    """Exit codes of every command."""

    OK = 0
    BAD_INPUT = 1
    """Bad configuration or arguments."""
    REFUSED = 2
    """What was asked for was answered with a no: a key, a request, a store said so."""
    UNREACHABLE = 3
    """Nobody answered: a gateway, a backend, a store."""


class Colour(enum.Enum):
    """ANSI colours that are readable on dark and light terminals."""

    RED = "\x1b[31m"
    GREEN = "\x1b[32m"
    YELLOW = "\x1b[33m"
    CYAN = "\x1b[36m"
    BOLD = "\x1b[1m"
    DIM = "\x1b[2m"


def paint(text: str, colour: Colour, stream: TextIO | None = None) -> str:
    """Colour `text` for `stream` (stdout unless given) where colours belong there."""
    return f"{colour.value}{text}{_RESET}" if is_fancy(stream or sys.stdout) else text


def info(text: str = "") -> None:
    """Write a line to stdout."""
    _write(text, sys.stdout)


def success(text: str) -> None:
    """Say on stdout that it worked."""
    mark = "✅" if is_fancy(sys.stdout) else "[SUCCESS]"
    _write(f"{mark} {text}", sys.stdout)


def note(text: str) -> None:
    """Say on stderr what is good to know; stdout belongs to the result."""
    _write(paint(text, Colour.DIM, sys.stderr), sys.stderr)


def warning(text: str) -> None:
    """Say on stderr what the user should look at."""
    mark = "⚠️ " if is_fancy(sys.stderr) else "[WARNING]"
    _write(f"{mark} {paint(text, Colour.YELLOW, sys.stderr)}", sys.stderr)


def error(text: str) -> None:
    """Say on stderr what went wrong and what to do."""
    mark = "❌" if is_fancy(sys.stderr) else "[ERROR]"
    _write(f"{mark} {paint(text, Colour.RED, sys.stderr)}", sys.stderr)


def fail(text: str, code: Exit) -> NoReturn:
    """Say on stderr what went wrong and end the command with `code`."""
    error(text)
    raise typer.Exit(code)


def _write(text: str, stream: TextIO) -> None:
    """Write a line; characters that the stream's encoding lacks become `?`, no traceback."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    stream.flush()
