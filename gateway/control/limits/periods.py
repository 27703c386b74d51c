"""The days and months in which quotas count: those of UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

_LONGER_THAN_A_MONTH = timedelta(days=32)


class Periods(NamedTuple):
    """The day and the month of a moment, and when each ends, in Unix seconds."""

    day: str
    month: str
    day_ends_s: float
    month_ends_s: float

    @property
    def names(self) -> tuple[str, str]:
        """Return the day and the month as stores name them."""
        return self.day, self.month


def periods_at(unix_s: float) -> Periods:
    """Return the periods of a moment."""
    now = datetime.fromtimestamp(unix_s, UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    next_month = (midnight.replace(day=1) + _LONGER_THAN_A_MONTH).replace(day=1)
    return Periods(
        f"{now:%Y-%m-%d}",
        f"{now:%Y-%m}",
        (midnight + timedelta(days=1)).timestamp(),
        next_month.timestamp(),
    )
