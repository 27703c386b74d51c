"""Parses and formats times, sizes and rates.

Times become seconds, sizes bytes, rates events per second. A number without a unit is a number of
bytes or of events, but never a time: 5 could mean seconds or milliseconds.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {
    "B": 1,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
_NUMBER: Final = r"\d+(?:\.\d+)?"
_DURATION: Final = re.compile(rf"(?:{_NUMBER}(?:ms|s|m|h|d))+")
_DURATION_PART: Final = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")
_SIZE: Final = re.compile(rf"({_NUMBER})\s*({'|'.join(_BYTES)})?")
_RATE: Final = re.compile(rf"({_NUMBER})(?:/(s|m|h))?")

_DURATION_HELP: Final = "write a time with its unit, such as 250ms, 5s, 10m, 1h30m or 30d"
_SIZE_HELP: Final = "write a size such as 64MiB, 256KiB, 1kB or a plain number of bytes"
_RATE_HELP: Final = "write a rate such as 50/s, 1000/m or a plain number per second"


def parse_duration(value: object) -> float:
    """Read a time (`5s`, `1h30m`, `0`) as seconds; raise `ValueError` that says how to write it."""
    if isinstance(value, str) and _DURATION.fullmatch(value.strip()):
        parts = _DURATION_PART.findall(value)
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if value in (0, "0") and not isinstance(value, bool):
        return 0.0
    raise ValueError(_DURATION_HELP)


def parse_size(value: object) -> int:
    """Read a size (`64MiB`, `1000`) as bytes; raise `ValueError` that says how to write it."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(_SIZE_HELP)
    size = float(match[1]) * _BYTES[match[2] or "B"]
    if not size.is_integer():
        msg = "must be a whole number of bytes"
        raise ValueError(msg)
    return int(size)


def parse_rate(value: object) -> float:
    """Read a rate (`50/s`, `20`) as events per second; raise `ValueError` that says how."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(_RATE_HELP)
    return float(match[1]) / _SECONDS[match[2] or "s"]


def parse_byte_rate(value: object) -> float:
    """Read bytes per second (`1MiB/s`, `1MiB`, `1000`); raise `ValueError` that says how."""
    return float(parse_size(value.removesuffix("/s") if isinstance(value, str) else value))


def duration_text(seconds: float) -> str:
    """Write a time with the largest unit that leaves a whole number: `90s`, `10m`, `250ms`."""
    milliseconds = round(seconds * 1000)
    for unit in ("d", "h", "m", "s"):
        scale = round(_SECONDS[unit] * 1000)
        if milliseconds and milliseconds % scale == 0:
            return f"{milliseconds // scale}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


def size_text(size: int) -> str:
    """Write a size with the largest binary unit that leaves a whole number: `64MiB`, `1000`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return str(size)


def byte_rate_text(rate: float) -> str:
    """Write bytes per second: `1MiB/s`."""
    return f"{size_text(round(rate))}/s"


def rate_text(rate: float) -> str:
    """Write a rate per second: `50/s`."""
    return f"{rate:g}/s"


def _as_text(pattern: str, *examples: str) -> dict[str, object]:
    return {"type": "string", "pattern": rf"^\s*{pattern}\s*$", "examples": list(examples)}


_TIME_TEXT: Final = _as_text(rf"({_NUMBER}(ms|s|m|h|d))+", "250ms", "5s", "10m", "1h30m")
_ZERO: Final = {"enum": [0, "0"]}
_WHOLE: Final = {"type": "integer", "minimum": 0}
_UNITS: Final = "|".join(_BYTES)
# What editors are told (JSON Schema); what is valid is decided by the functions above.
_TIMEOUT_SCHEMA: Final = _TIME_TEXT
_DURATION_SCHEMA: Final = {"anyOf": [_TIME_TEXT, _ZERO]}
_SIZE_SCHEMA: Final = {
    "anyOf": [_as_text(rf"{_NUMBER}\s*({_UNITS})?", "64MiB", "256KiB"), _WHOLE],
}
_RATE_SCHEMA: Final = {
    "anyOf": [
        _as_text(rf"{_NUMBER}(/(s|m|h))?", "50/s", "1000/m"),
        {"type": "number", "minimum": 0},
    ],
}
_BYTE_RATE_SCHEMA: Final = {
    "anyOf": [_as_text(rf"{_NUMBER}\s*({_UNITS})?(/s)?", "1MiB/s"), _WHOLE],
}

_AMBIGUOUS_ZERO: Final = "0 could mean 'immediately' or 'never': set a time above 0"


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError(_AMBIGUOUS_ZERO)
    return seconds


def _parse_timeout(value: object) -> float:
    return _positive(parse_duration(value))


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(duration_text, return_type=str, when_used="json"),
    WithJsonSchema(_DURATION_SCHEMA),
]
"""Seconds, where the meaning of 0 is clear."""
Timeout = Annotated[
    float,
    BeforeValidator(_parse_timeout),
    PlainSerializer(duration_text, return_type=str, when_used="json"),
    WithJsonSchema(_TIMEOUT_SCHEMA),
]
"""Seconds above 0, where 0 could mean both 'immediately' and 'never'."""
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(size_text, return_type=str, when_used="json"),
    WithJsonSchema(_SIZE_SCHEMA),
]
"""Bytes."""
PositiveSize = Annotated[Size, Field(gt=0)]
"""Bytes, at least one."""
Rate = Annotated[
    float,
    BeforeValidator(parse_rate),
    PlainSerializer(rate_text, return_type=str, when_used="json"),
    WithJsonSchema(_RATE_SCHEMA),
]
"""Events per second; 0 = no limit."""
ByteRate = Annotated[
    float,
    BeforeValidator(parse_byte_rate),
    PlainSerializer(byte_rate_text, return_type=str, when_used="json"),
    WithJsonSchema(_BYTE_RATE_SCHEMA),
]
"""Bytes per second; 0 = no limit."""
