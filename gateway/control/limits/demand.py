"""What this host's senders want of each limited key's limits, by the tables that workers count in.

What they want is what they were given and what they were refused: a key that is refused nothing
wants what it uses. What it was given in a peak is forgotten slowly, so that a sender who sends once
in some seconds finds some of it when it does.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from gateway.control.limits.reports import Triple, owner_key
from gateway.control.workers.quota_view import QuotaView, RowUse

FADING: Final = 0.6
"""What is left of a peak after a period."""


@dataclass(slots=True)
class KeyDemand:
    """One key on this host, in all tables."""

    limits: Triple = (0.0, 0.0, 0.0)
    wanted: Triple = (0.0, 0.0, 0.0)
    given: Triple = (0.0, 0.0, 0.0)
    """What of it was given."""
    rows: list[tuple[QuotaView, RowUse]] = field(default_factory=list)


class Demand:
    """Compares the tables with what stood there before. `measure` is called once in a period."""

    def __init__(self) -> None:
        self._before: dict[tuple[int, int], RowUse] = {}
        self._given: dict[bytes, Triple] = {}
        self._measured_s: float | None = None

    async def measure(
        self, views: list[QuotaView], now_s: float, used_since: float
    ) -> dict[bytes, KeyDemand]:
        """Return each key with which somebody has decided since the slot of time `used_since`.

        `now_s`: monotonic seconds.
        """
        first = self._measured_s is None
        passed_s = max(0.1, now_s - (self._measured_s or 0.0))
        self._measured_s = now_s
        found: dict[bytes, KeyDemand] = {}
        for view in views:
            for number, row in enumerate(view.rows(used_since)):
                if number % 256 == 255:  # noqa: PLR2004 - others are served in between
                    await asyncio.sleep(0)
                place = (view.number, row.number)
                before = self._before.get(place)
                self._before[place] = row
                demand = found.setdefault(owner_key(row.owner), KeyDemand())
                demand.limits = row.limits
                demand.rows.append((view, row))
                if not first:
                    given, wanted = _asked(row, before, passed_s)
                    demand.given = _sum(demand.given, given)
                    demand.wanted = _sum(demand.wanted, wanted)
        for key, demand in found.items():
            faded = self._given.get(key, (0.0, 0.0, 0.0))
            demand.wanted = _greater(demand.wanted, faded, FADING)
            demand.given = _greater(demand.given, faded, FADING)
        self._given = {key: demand.given for key, demand in found.items()}
        return found


def _asked(row: RowUse, before: RowUse | None, passed_s: float) -> tuple[Triple, Triple]:
    """Return what one table's workers gave in a second, and what they were asked for."""
    admitted = max(0.0, row.requests - (before.requests if before else 0.0))
    refused = max(0.0, row.refused - (before.refused if before else 0.0))
    size = max(0.0, row.bytes - (before.bytes if before else 0.0))
    asked = admitted + refused
    if admitted:
        wanted_bytes = size * asked / admitted / passed_s
    else:
        wanted_bytes = row.limits[1] if refused else 0.0
    concurrent = 2 * row.open + 1 if refused else row.open
    given = (admitted / passed_s, size / passed_s, row.open)
    return given, (asked / passed_s, wanted_bytes, concurrent)


def _sum(one: Triple, other: Triple) -> Triple:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _greater(one: Triple, other: Triple, factor: float) -> Triple:
    return (
        max(one[0], other[0] * factor),
        max(one[1], other[1] * factor),
        max(one[2], other[2] * factor),
    )
