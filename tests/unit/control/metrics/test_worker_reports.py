from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway import metrics
from gateway.channel import Refused, Report, Series, Usage
from gateway.control.core.errors import ErrorReporter
from gateway.control.metrics.busiest_keys import BusiestKeys
from gateway.control.metrics.metric_totals import MetricTotals
from gateway.control.metrics.worker_reports import WorkerReports


@dataclass
class Fixture:
    totals: MetricTotals = field(default_factory=MetricTotals)
    busiest_keys: BusiestKeys = field(default_factory=BusiestKeys)
    noted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)
    errors: int = 0

    def count_error(self) -> None:
        self.errors += 1

    def note_usage(self, key_id: str, **numbers: Any) -> None:
        self.noted.append((key_id, numbers))

    def reports(self) -> WorkerReports:
        return WorkerReports(
            self.totals,
            self.busiest_keys,
            self,
            self.refusals.append,
            ErrorReporter(self.count_error),
        )


REFUSED = Refused(
    "ab12cd34", "key_unknown", 2, "10.0.0.1", "StackState", "", "ab12cd34", "grpc", "logs"
)
COUNTED = Series(metrics.CONNECTIONS_REFUSED.name, ("limit",), 3)
UNKNOWN = Series("gateway_of_another_version_total", (), 1)


def report(
    deltas: list[Series] | None = None,
    gauges: list[Series] | None = None,
    usage: list[Usage] | None = None,
) -> Report:
    return Report(deltas or [], gauges or [], [REFUSED], usage or [])


def test_each_part_of_a_report_reaches_its_place() -> None:
    fixture = Fixture()
    gauge = Series(metrics.CONNECTIONS.name, (), 4)
    usage = [Usage("7", "allowed", 3, 30, 9), Usage("7", "key_expired", 1, 5, 9)]
    fixture.reports().worker_reported("worker", report([COUNTED], [gauge], usage))
    assert fixture.totals.counters(metrics.CONNECTIONS_REFUSED) == {("limit",): 3}
    assert fixture.totals.gauges(metrics.CONNECTIONS) == {(): 4}
    assert fixture.busiest_keys.keys["7"].requests == {"allowed": 3, "key_expired": 1}
    assert fixture.noted == [
        ("7", {"allowed": True, "requests": 3, "body_bytes": 30, "last_used_ms": 9}),
        ("7", {"allowed": False, "requests": 1, "body_bytes": 5, "last_used_ms": 9}),
    ]
    assert fixture.refusals == [REFUSED]


def test_a_series_of_another_version_keeps_nothing_else_from_being_taken() -> None:
    fixture = Fixture()
    fixture.reports().worker_reported("worker", report([UNKNOWN, COUNTED], [UNKNOWN]))
    assert fixture.totals.counters(metrics.CONNECTIONS_REFUSED) == {("limit",): 3}
    assert fixture.refusals == [REFUSED]


def test_a_series_of_another_version_is_told_once_and_not_every_second() -> None:
    fixture = Fixture()
    reports = fixture.reports()
    for _ in range(3):
        reports.worker_reported("worker", report([UNKNOWN]))
    assert fixture.errors == 1


def test_a_worker_that_is_gone_leaves_its_counters() -> None:
    fixture = Fixture()
    reports = fixture.reports()
    reports.worker_reported("worker", report([COUNTED], [Series(metrics.CONNECTIONS.name, (), 4)]))
    reports.worker_gone("worker")
    assert fixture.totals.gauges(metrics.CONNECTIONS) == {}
    assert fixture.totals.counters(metrics.CONNECTIONS_REFUSED) == {("limit",): 3}
