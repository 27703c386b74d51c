from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway import metrics
from gateway.channel import Refused, Report, Series, Usage
from gateway.control.reports import Reports
from gateway.control.totals import Totals
from gateway.control.usage import KeyTraffic


@dataclass
class Fixture:
    totals: Totals = field(default_factory=Totals)
    traffic: KeyTraffic = field(default_factory=KeyTraffic)
    noted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)
    bugs: list[Exception] = field(default_factory=list)

    def note_usage(self, key_id: str, **numbers: Any) -> None:
        self.noted.append((key_id, numbers))

    def reports(self) -> Reports:
        return Reports(
            self.totals,
            self.traffic,
            self,
            self.refusals.append,
            lambda _, error: self.bugs.append(error),
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
    fixture.reports().take("worker", report([COUNTED], [gauge], usage))
    assert fixture.totals.counters(metrics.CONNECTIONS_REFUSED) == {("limit",): 3}
    assert fixture.totals.gauges(metrics.CONNECTIONS) == {(): 4}
    assert fixture.traffic.keys["7"].requests == {"allowed": 3, "key_expired": 1}
    assert fixture.noted == [
        ("7", {"allowed": True, "requests": 3, "body_bytes": 30, "last_used_ms": 9}),
        ("7", {"allowed": False, "requests": 1, "body_bytes": 5, "last_used_ms": 9}),
    ]
    assert fixture.refusals == [REFUSED]


def test_a_series_of_another_version_keeps_nothing_else_from_being_taken() -> None:
    fixture = Fixture()
    fixture.reports().take("worker", report([UNKNOWN, COUNTED], [UNKNOWN]))
    assert fixture.totals.counters(metrics.CONNECTIONS_REFUSED) == {("limit",): 3}
    assert fixture.refusals == [REFUSED]


def test_a_series_of_another_version_is_told_once_and_not_every_second() -> None:
    fixture = Fixture()
    reports = fixture.reports()
    for _ in range(3):
        reports.take("worker", report([UNKNOWN]))
    assert len(fixture.bugs) == 1


def test_a_worker_that_is_gone_leaves_its_counters() -> None:
    fixture = Fixture()
    reports = fixture.reports()
    reports.take("worker", report([COUNTED], [Series(metrics.CONNECTIONS.name, (), 4)]))
    reports.forget("worker")
    assert fixture.totals.gauges(metrics.CONNECTIONS) == {}
    assert fixture.totals.counters(metrics.CONNECTIONS_REFUSED) == {("limit",): 3}
