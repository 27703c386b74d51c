"""Traffic and items by key and day, as stores keep it: sums that can be added up in any order.

Days are UTC, written `yyyy-MM-dd`. How many items (spans, data points, log records) a key sent is
estimated from samples of its requests, see `estimate`; nothing here decodes them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple, TypeVar

By = Literal["day", "month", "key"]
"""What one row is for: a key and day, a key and month, a key and all days that are asked for."""

_LEAST_SAMPLES: Final = 2
"""Fewer say nothing about how much they differ."""


def day_of(unix_ms: int) -> str:
    """Return the UTC day of a time."""
    return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%d}"


class DayTraffic(NamedTuple):
    """A key's requests in one day, or several."""

    requests: int = 0
    """Those that the key was allowed."""
    bytes: int = 0
    """Of the bodies of those, as received."""
    refusals: int = 0


class ItemSums(NamedTuple):
    """What is known of a key's requests of one signal that the backend accepted.

    Of each sample there are its bytes x, its items y, and its weight w: the number of requests
    that it stands for. The last six are sums of products of these.
    """

    requests: int = 0
    bytes: int = 0
    samples: int = 0
    """Requests among them of which the items were counted."""
    wx: float = 0.0
    wy: float = 0.0
    wxx: float = 0.0
    wxy: float = 0.0
    wyy: float = 0.0
    wwxx: float = 0.0
    wwxy: float = 0.0
    wwyy: float = 0.0

    @classmethod
    def of_sample(cls, size: int, items: int, weight: float) -> ItemSums:
        """Make the sums of one sample; its request is counted apart."""
        x, y, w = float(size), float(items), weight
        return cls(
            samples=1,
            wx=w * x,
            wy=w * y,
            wxx=w * x * x,
            wxy=w * x * y,
            wyy=w * y * y,
            wwxx=w * w * x * x,
            wwxy=w * w * x * y,
            wwyy=w * w * y * y,
        )


class Estimate(NamedTuple):
    """How many items there were."""

    items: float
    error: float | None
    """The standard error, in items; 0 = counted exactly, None = unknown, there was one sample."""


def estimate(sums: ItemSums) -> Estimate | None:
    """Estimate the items of all requests by the items per byte of the samples; None without any.

    A ratio estimator with the samples' weights (Särndal, Swensson, Wretman: Model Assisted Survey
    Sampling, 5.6 and 7.3). Its error comes from how much samples differ from the common ratio. It
    is 0 where each request was a sample.
    """
    if not sums.samples or not sums.wx:
        return None
    ratio = sums.wy / sums.wx
    scale = sums.bytes / sums.wx
    items = scale * sums.wy
    residuals = sums.wyy - 2 * ratio * sums.wxy + ratio * ratio * sums.wxx
    weighted = sums.wwyy - 2 * ratio * sums.wwxy + ratio * ratio * sums.wwxx
    variance = max(0.0, scale * scale * weighted - scale * residuals)
    if sums.samples >= min(_LEAST_SAMPLES, sums.requests):
        small = sums.samples / max(1, sums.samples - 1)
        return Estimate(items, math.sqrt(variance * small))
    return Estimate(items, None)


Sums = TypeVar("Sums", DayTraffic, ItemSums)


def plus(sums: Sums, more: Sums) -> Sums:
    """Add two of a kind."""
    return type(sums)._make(map(operator.add, sums, more))


def minus(sums: Sums, part: Sums) -> Sums:
    """Take a part away."""
    return type(sums)._make(map(operator.sub, sums, part))


@dataclass(slots=True)
class DailyUsage:
    """Sums to be added to those of a store."""

    traffic: dict[tuple[str, str], DayTraffic] = field(default_factory=dict)
    """(day, key id) → requests and bytes."""
    items: dict[tuple[str, str, str], ItemSums] = field(default_factory=dict)
    """(day, key id, signal) → what is known of its items."""

    def __bool__(self) -> bool:
        return bool(self.traffic or self.items)

    def add_traffic(self, day: str, key_id: str, traffic: DayTraffic) -> None:
        """Add a key's requests."""
        known = self.traffic.get((day, key_id))
        self.traffic[day, key_id] = traffic if known is None else plus(known, traffic)

    def add_items(self, day: str, key_id: str, signal: str, sums: ItemSums) -> None:
        """Add what is known of a key's items."""
        known = self.items.get((day, key_id, signal))
        self.items[day, key_id, signal] = sums if known is None else plus(known, sums)

    def add(self, more: DailyUsage) -> None:
        """Add all of another one."""
        for where, traffic in more.traffic.items():
            self.add_traffic(*where, traffic)
        for place, sums in more.items.items():
            self.add_items(*place, sums)

    def less(self, part: DailyUsage) -> DailyUsage:
        """Return what remains without a part."""
        traffic = {
            each: minus(it, part.traffic[each]) for each, it in _both(self.traffic, part.traffic)
        }
        items = {each: minus(it, part.items[each]) for each, it in _both(self.items, part.items)}
        return DailyUsage(self.traffic | traffic, self.items | items)


_Where = TypeVar("_Where")


def _both(
    sums: Mapping[_Where, Sums], part: Mapping[_Where, Sums]
) -> Iterator[tuple[_Where, Sums]]:
    return ((where, each) for where, each in sums.items() if where in part)


class UsageQuery(NamedTuple):
    """Which rows are read, in the order of period and key."""

    since: str
    until: str
    """The first and the last day."""
    by: By = "day"
    key_id: str | None = None
    """Only this key's."""
    after: tuple[str, str] | None = None
    """Only rows behind this period and key id."""
    limit: int = 1_000


class PeriodUsage(NamedTuple):
    """One key's sums of one period."""

    period: str
    """A day, a month (`yyyy-MM`), or empty: all days that were asked for."""
    key_id: str
    traffic: DayTraffic
    items: Mapping[str, ItemSums]
    """Signal → what is known of its items."""
