"""How files of many keys are written, without what reads them: most commands do without."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Final

from gateway.keys.errors import InvalidInputError


class Format(enum.StrEnum):
    """How a file of many keys is written."""

    YAML = "yaml"
    CSV = "csv"
    JSONL = "jsonl"


_SUFFIXES: Final = {
    ".yaml": Format.YAML,
    ".yml": Format.YAML,
    ".csv": Format.CSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
}


def format_of(path: str, given: Format | None) -> Format:
    """Find out a file's format. Raises `InvalidInputError`."""
    found = given or _SUFFIXES.get(Path(path).suffix.lower())
    if found is None:
        msg = "the format cannot be told from the file's name: give --format yaml, csv or jsonl"
        raise InvalidInputError(msg)
    return found
