"""Traffic by tenant: which values get series, and what becomes of the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway import metrics
from gateway.channel import Report, Usage
from gateway.control.metrics.metric_totals import MetricTotals
from gateway.control.metrics.tenant_traffic import TenantTraffic
from gateway.keys.tenancy import Tenancy, tenancy


@dataclass
class Settings:
    tenant_label: str | None = "team"
    max_tenants: int = 2


@dataclass
class Fixture:
    settings: Settings = field(default_factory=Settings)
    tenancies: dict[str, Tenancy | None] = field(default_factory=dict)
    totals: MetricTotals = field(default_factory=MetricTotals)

    def __post_init__(self) -> None:
        self._traffic = TenantTraffic(lambda: self.settings, self._tenancy, self.totals)

    def _tenancy(self, key_id: str) -> Tenancy | None:
        return self.tenancies.get(key_id)

    def label(self, key_id: str, **labels: str) -> None:
        self.tenancies[key_id] = tenancy(None, labels, {})

    def report(self, *usages: Usage) -> None:
        worker: Any = "worker"
        self._traffic.worker_reported(worker, Report([], [], [], list(usages)))

    def requests(self) -> dict[tuple[str, ...], float]:
        return dict(self.totals.counters(metrics.TENANT_REQUESTS))


def used(key_id: str, requests: int = 1, outcome: str = "allowed") -> Usage:
    return Usage(key_id, outcome, requests, 10 * requests, 9)


def test_keys_are_summed_by_the_value_of_the_label() -> None:
    fixture = Fixture()
    fixture.label("1", team="a", env="x")
    fixture.label("2", team="a", env="y")
    fixture.label("3", team="b")
    fixture.report(used("1", 3), used("2", 4), used("3"), used("1", 2, "key_expired"))

    assert fixture.requests() == {
        ("a", "allowed"): 7,
        ("b", "allowed"): 1,
        ("a", "key_expired"): 2,
    }
    assert fixture.totals.counters(metrics.TENANT_BYTES)["a", "allowed"] == 70


def test_keys_without_the_label_are_none() -> None:
    fixture = Fixture()
    fixture.label("1", env="x")
    fixture.label("2")
    fixture.tenancies["static:a"] = None
    fixture.report(used("1"), used("2"), used("static:a"), used("authority:1"), used("404"))

    assert fixture.requests() == {("none", "allowed"): 5}


def test_values_beyond_the_bound_are_other_and_those_that_came_first_stay() -> None:
    fixture = Fixture()
    for number in range(1, 6):
        fixture.label(str(number), team=f"t{number}")
    for _ in range(2):
        fixture.report(*(used(str(number)) for number in range(1, 6)))
    assert fixture.requests() == {
        ("t1", "allowed"): 2,
        ("t2", "allowed"): 2,
        ("other", "allowed"): 6,
    }
    fixture.settings = Settings("team", 3)
    fixture.report(used("5"), used("4"))
    assert fixture.requests()["t5", "allowed"] == 1
    assert fixture.requests()["other", "allowed"] == 7


def test_the_bound_holds_when_another_label_is_chosen() -> None:
    fixture = Fixture()
    fixture.label("1", team="a", env="x")
    fixture.label("2", team="b", env="y")
    fixture.report(used("1"), used("2"))
    fixture.settings = Settings("env", 2)
    fixture.report(used("1"), used("2"))
    fixture.settings = Settings(None)
    fixture.report(used("1"), used("2"))

    assert fixture.requests() == {
        ("a", "allowed"): 1,
        ("b", "allowed"): 1,
        ("other", "allowed"): 2,
    }
