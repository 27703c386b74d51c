"""Where a worker's report goes: totals, per-key traffic, the keys' usage, refusals.

One report is one call; what one part cannot use never keeps the others from theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Protocol

from gateway.channel import Refused, Report, Usage
from gateway.control.totals import Totals, UnknownSeriesError
from gateway.control.usage import KeyTraffic
from gateway.outcome import AuthOutcome


class UsageKeeper(Protocol):
    """What is asked of the key service."""

    def note_usage(
        self, key_id: str, *, allowed: bool, requests: int, body_bytes: int, last_used_ms: int
    ) -> None:
        """Take over a worker's report on one key."""


class Reports:
    """Distributes reports. `on_refusal` gets each refusal, `on_bug` what should not be there."""

    def __init__(
        self,
        totals: Totals,
        traffic: KeyTraffic,
        keys: UsageKeeper,
        on_refusal: Callable[[Refused], None],
        on_bug: Callable[[str, Exception], None],
    ) -> None:
        self._totals = totals
        self._traffic = traffic
        self._keys = keys
        self._on_refusal = on_refusal
        self._on_bug = on_bug
        self._told: set[str] = set()

    def take(self, worker: Hashable, report: Report) -> None:
        """Take one report of `worker`."""
        self._take_series(lambda: self._totals.add(report.deltas))
        self._take_series(lambda: self._totals.set_gauges(worker, report.gauges))
        self._take_usage(report.usage)
        for refusal in report.refusals:
            self._on_refusal(refusal)

    def forget(self, worker: Hashable) -> None:
        """Drop what belongs to a worker that is gone."""
        self._totals.forget_gauges(worker)

    def _take_usage(self, usages: Iterable[Usage]) -> None:
        self._traffic.add(usages)
        for usage in usages:
            self._keys.note_usage(
                usage.key_id,
                allowed=usage.outcome == AuthOutcome.ALLOWED,
                requests=usage.requests,
                body_bytes=usage.bytes,
                last_used_ms=usage.last_used_ms,
            )

    def _take_series(self, take: Callable[[], None]) -> None:
        try:
            take()
        except UnknownSeriesError as error:
            if str(error) not in self._told:  # it would come with every report: once is enough
                self._told.add(str(error))
                self._on_bug("report of a worker", error)
