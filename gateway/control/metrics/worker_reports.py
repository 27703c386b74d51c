"""Takes each worker's report apart: metrics, traffic per key, use of keys, refusals.

A part that cannot be used never keeps the others from being taken.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Protocol

from gateway import metrics
from gateway.channel import Refused, Report, Usage
from gateway.control.core.errors import ErrorReporter
from gateway.control.metrics.busiest_keys import BusiestKeys
from gateway.control.metrics.metric_totals import MetricTotals, UnknownSeriesError
from gateway.control.workers.worker_handle import WorkerObserver
from gateway.outcome import AuthOutcome


class UsedKeys(Protocol):
    """What the reports need of the key service."""

    def note_usage(
        self, key_id: str, *, allowed: bool, requests: int, body_bytes: int, last_used_ms: int
    ) -> None:
        """Add a worker's report on one key."""


class WorkerReports(WorkerObserver):
    """Adds reports to `totals`, `busiest_keys` and `keys`.

    `on_refusal` gets each refusal, `errors` series that are in no catalogue.
    """

    def __init__(
        self,
        totals: MetricTotals,
        busiest_keys: BusiestKeys,
        keys: UsedKeys,
        on_refusal: Callable[[Refused], None],
        errors: ErrorReporter,
    ) -> None:
        self._totals = totals
        self._busiest_keys = busiest_keys
        self._keys = keys
        self._on_refusal = on_refusal
        self._errors = errors
        self._reported: set[str] = set()

    def worker_reported(self, worker: Hashable, report: Report) -> None:
        """Take a report (`WorkerObserver`)."""
        try:
            self._totals.add(report.deltas)
        except UnknownSeriesError as error:
            self._report_once(error)
        try:
            self._totals.set_gauges(worker, report.gauges)
        except UnknownSeriesError as error:
            self._report_once(error)
        self._add_usage(report.usage)
        for refusal in report.refusals:
            self._on_refusal(refusal)

    def worker_gone(self, worker: Hashable) -> None:
        """Drop a worker's gauges; what it counted stays (`WorkerObserver`)."""
        self._totals.forget_gauges(worker)

    def worker_replaced(self, reason: str) -> None:
        """Count the replacement (`WorkerObserver`)."""
        self._totals.count(metrics.WORKER_RESTARTS, (reason,))

    def _add_usage(self, usages: Iterable[Usage]) -> None:
        self._busiest_keys.add(usages)
        for usage in usages:
            self._keys.note_usage(
                usage.key_id,
                allowed=usage.outcome == AuthOutcome.ALLOWED,
                requests=usage.requests,
                body_bytes=usage.bytes,
                last_used_ms=usage.last_used_ms,
            )

    def _report_once(self, error: UnknownSeriesError) -> None:
        if str(error) not in self._reported:  # it would come with every report
            self._reported.add(str(error))
            self._errors.report("report of a worker", error)
