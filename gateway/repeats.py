"""When something that repeats is told: the first at once, then one summary a minute with the count.

It only decides; who tells it, and how, belongs to the caller. What is remembered is bounded.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

INTERVAL_S: Final = 60.0
MAX_GROUPS: Final = 1_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Summary(Generic[T]):
    """What is to be told about one group."""

    latest: T
    count: int
    """How many it stands for."""
    within_s: float
    """The period in seconds; 0 for the first, which is told at once."""


@dataclass(slots=True)
class _Group(Generic[T]):
    latest: T
    told_at: float
    untold: int = 0


class Repeats(Generic[T]):
    """Groups of what repeats. Times are seconds of any monotonic clock.

    Beyond `max_groups` new groups are counted together, per what the caller passes as `otherwise`.
    """

    def __init__(self, interval_s: float = INTERVAL_S, max_groups: int = MAX_GROUPS) -> None:
        self._interval_s = interval_s
        self._max_groups = max_groups
        self._groups: dict[Hashable, _Group[T]] = {}

    def __len__(self) -> int:
        """Count the groups."""
        return len(self._groups)

    def add(
        self, group: Hashable, otherwise: Hashable, item: T, now: float, count: int = 1
    ) -> Summary[T] | None:
        """Add `count` of `item`; return what is to be told at once, if anything."""
        if group not in self._groups and len(self._groups) >= self._max_groups:
            group = otherwise
        found = self._groups.get(group)
        if found is None:
            self._groups[group] = _Group(item, now)
            return Summary(item, count, 0.0)
        found.latest = item
        found.untold += count
        return None

    def due(self, now: float) -> list[Summary[T]]:
        """Return the summaries that are due, and forget groups that were quiet in that time."""
        return self._due(now, self._interval_s)

    def rest(self, now: float) -> list[Summary[T]]:
        """Return everything that has not been told, at the end."""
        return self._due(now, 0.0)

    def _due(self, now: float, after_s: float) -> list[Summary[T]]:
        summaries = []
        for key, group in list(self._groups.items()):
            within_s = now - group.told_at
            if within_s < after_s:
                continue
            if group.untold == 0:
                del self._groups[key]
                continue
            summaries.append(Summary(group.latest, group.untold, within_s))
            group.untold, group.told_at = 0, now
        return summaries
