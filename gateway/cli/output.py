"""Output of commands: results on stdout, errors on stderr, and the exit codes.

Colours and emoji appear only on a terminal. Prefixes are those of the `sts` CLI (`✅ …` on a
terminal, `[SUCCESS] …` elsewhere), so that scripts written for it keep working. What could control
a terminal is escaped, whoever chose the text. The texts of commands, and how keys are shown, do not
belong here.
"""

from __future__ import annotations

import contextlib
import enum
import os
import sys
from typing import Final, NoReturn, TextIO

import typer

from gateway.terminal import escaped, is_fancy

_CLOSED: Final = "it is closed"
_RESET: Final = "\x1b[0m"

__all__ = [
    "Colour",
    "Exit",
    "OutputError",
    "error",
    "fail",
    "give_up",
    "info",
    "is_fancy",
    "note",
    "paint",
    "success",
    "warning",
    "write",
]


class Exit(enum.IntEnum):
    """Exit codes of every command."""

    OK = 0
    BAD_INPUT = 1
    """Invalid configuration or arguments."""
    REFUSED = 2
    """The gateway, the backend or the store refused the key or the request."""
    UNREACHABLE = 3
    """No response: the gateway, the backend or the store cannot be reached."""


class OutputError(Exception):
    """Stdout cannot be written: it is closed, or what it goes to is full. The text says why."""

    def __init__(self, error: OSError | ValueError | str) -> None:
        super().__init__((getattr(error, "strerror", None) or str(error)).lower())
        self.is_reader_gone = isinstance(error, BrokenPipeError)


class Colour(enum.Enum):
    """ANSI colours that are readable on dark and light terminals."""

    RED = "\x1b[31m"
    GREEN = "\x1b[32m"
    YELLOW = "\x1b[33m"
    CYAN = "\x1b[36m"
    BOLD = "\x1b[1m"
    DIM = "\x1b[2m"


def paint(text: str, colour: Colour, stream: TextIO | None = None) -> str:
    """Colour `text` for `stream` (default: stdout) if it supports colours."""
    return f"{colour.value}{text}{_RESET}" if is_fancy(stream or sys.stdout) else text


def info(*parts: str | tuple[str, Colour], err: bool = False) -> None:
    """Write a line to stdout, or stderr; a part may have a colour."""
    stream = sys.stderr if err else sys.stdout
    shown = [
        _safe(part) if isinstance(part, str) else paint(_safe(part[0]), part[1], stream)
        for part in parts
    ]
    write("".join(shown), stream)


def success(text: str) -> None:
    """Write a success message to stdout."""
    mark = "✅" if is_fancy(sys.stdout) else "[SUCCESS]"
    write(f"{mark} {_safe(text)}", sys.stdout)


def note(text: str) -> None:
    """Write a hint to stderr; stdout is for the result."""
    write(paint(_safe(text), Colour.DIM, sys.stderr), sys.stderr)


def warning(text: str) -> None:
    """Write a warning to stderr."""
    mark = "⚠️ " if is_fancy(sys.stderr) else "[WARNING]"
    write(f"{mark} {paint(_safe(text), Colour.YELLOW, sys.stderr)}", sys.stderr)


def error(text: str) -> None:
    """Write an error to stderr: what is wrong and what to do."""
    mark = "❌" if is_fancy(sys.stderr) else "[ERROR]"
    write(f"{mark} {paint(_safe(text), Colour.RED, sys.stderr)}", sys.stderr)


def fail(text: str, code: Exit) -> NoReturn:
    """Write an error to stderr and exit with `code`."""
    error(text)
    raise typer.Exit(code)


def _safe(text: str) -> str:
    return escaped(text, keep="\n\t")


def write(text: str, stream: TextIO | None) -> None:
    r"""Write a line at once; characters that the stream cannot encode become `\xe9` and so on.

    Raises `OutputError` where stdout cannot be written; what is for stderr is lost then.
    """
    if stream is None:
        if sys.stdout is None:
            raise OutputError(_CLOSED)
        return
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except (OSError, ValueError) as error:
        give_up(stream)
        if stream is not sys.stderr:
            raise OutputError(error) from error


def give_up(stream: TextIO) -> None:
    """Have what is left in the stream's buffer go nowhere: Python writes it at the end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
