"""What the texts of the options of `gateway keys` mean."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Final

import typer

from gateway.keys.api_key import ApiKey
from gateway.keys.errors import InvalidInputError
from gateway.model import MAX_KEY_ID, KeyLimits, Signal

_MOST_BYTES: Final = 4_096
"""Of a file that holds a key or a token."""
_MOST_ID_DIGITS: Final = len(str(MAX_KEY_ID))
_EVERYTHING: Final = "all"
_DEFAULT: Final = "default"


def parse_id(text: str) -> int:
    """Read the id of a key. Raises `typer.BadParameter`."""
    digits = text if text.isascii() and text.isdigit() and len(text) <= _MOST_ID_DIGITS else "0"
    if not 1 <= int(digits) <= MAX_KEY_ID:
        msg = "an id is a number of up to 16 digits: `gateway keys list` shows them"
        raise typer.BadParameter(msg)
    return int(digits)


def parse_signals(text: str | None) -> frozenset[Signal] | None:
    """Read a list of signals; None where there is none. Raises `InvalidInputError`."""
    if text is None:
        return None
    if text.strip().lower() == _EVERYTHING:
        return frozenset(Signal)
    names = [name.strip().lower() for name in text.split(",")]
    try:
        return frozenset(Signal(name) for name in names)
    except ValueError as failure:
        known = ", ".join(Signal)
        msg = f"--signals: there are {known}; separate several by commas, or write all"
        raise InvalidInputError(msg) from failure


def parse_limits(*given: str | None) -> dict[str, int | None]:
    """Read those limits that are given, in the order of `KeyLimits`; None = the default.

    Raises `InvalidInputError`.
    """
    from gateway.config.units import parse_byte_rate, parse_size

    limits: dict[str, int | None] = {}
    for name, text in zip(KeyLimits._fields, given, strict=True):
        if text is None:
            continue
        try:
            if text.strip().lower() == _DEFAULT:
                limits[name] = None
            elif name == "bytes":
                limits[name] = round(parse_byte_rate(text))
            elif name.startswith("bytes"):
                limits[name] = parse_size(text)
            else:
                limits[name] = int(text)
        except ValueError as failure:
            size_too = " or a size such as 5MiB" if name.startswith("bytes") else ""
            option = f"--limit-{name.replace('_', '-')}"
            msg = f"{option}: write a whole number{size_too}, 0 for no limit, or default"
            raise InvalidInputError(msg) from failure
    return limits


def duration_ms(option: str, text: str) -> int:
    """Read a duration as milliseconds. Raises `InvalidInputError` that names `option`."""
    from gateway.config.units import parse_duration

    try:
        return round(parse_duration(text) * 1000)
    except ValueError as failure:
        msg = f"{option}: {failure}"
        raise InvalidInputError(msg) from failure


def read_key(source: str) -> ApiKey:
    """Read a key from a file or standard input (-).

    One line break at its end does not belong to it. Raises `InvalidInputError`, `InvalidKeyError`.
    """
    if source == "-" and sys.stdin.isatty():
        return ApiKey.adopt(getpass.getpass("Key: ", stream=sys.stderr))
    # Each byte becomes one character: what is not ASCII is refused by `adopt`.
    text = _read_secret(source, "key").decode("latin-1")
    return ApiKey.adopt(text.removesuffix("\n").removesuffix("\r"))


def read_token(source: str) -> str:
    """Read an admin token from a file or standard input (-). Raises `InvalidInputError`."""
    return _read_secret(source, "token").decode("latin-1").strip()


def _read_secret(source: str, what: str) -> bytes:
    try:
        if source == "-":
            return sys.stdin.buffer.read(_MOST_BYTES)
        with Path(source).open("rb") as file:
            return file.read(_MOST_BYTES)
    except OSError as failure:
        # The path is not repeated: it might be the secret itself, typed in the wrong place.
        msg = f"the file with the {what} cannot be read: {failure.strerror}"
        raise InvalidInputError(msg) from failure
