"""Times of keys: Unix milliseconds, and days as people write them (`yyyy-MM-dd`, UTC)."""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from typing import Final

from gateway.keys.errors import InvalidInputError

DAY_MS: Final = 24 * 60 * 60 * 1000
LATEST_MS: Final = 253_402_214_400_000
"""9999-12-31, the last day that can be written: no key expires later."""
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def now_unix_ms() -> int:
    """Read the clock: Unix milliseconds."""
    return time.time_ns() // 1_000_000


def describe_day(unix_ms: int) -> str:
    """Write the day (UTC) of a time in Unix milliseconds as `yyyy-MM-dd`."""
    return datetime.fromtimestamp(unix_ms // 1000, UTC).date().isoformat()


def parse_expiration(text: str) -> int:
    """Turn `yyyy-MM-dd` into Unix milliseconds of 00:00 UTC of that day, as the `sts` CLI does.

    Raises `InvalidInputError` for another form and days that do not exist.
    """
    day = parse_day(text, "the expiration")
    return int(datetime.combine(day, time_of_day(), UTC).timestamp()) * 1000


def parse_day(text: str, what: str) -> date:
    """Read a day, `yyyy-MM-dd`.

    Raises `InvalidInputError`, which calls it `what`, for another form and days that do not exist.
    """
    try:
        day = date.fromisoformat(text) if _DATE.fullmatch(text) else None
    except ValueError:
        day = None
    if day is None:
        msg = f"{what} must be a date of the form yyyy-MM-dd, as in 2030-12-31"
        raise InvalidInputError(msg)
    return day
