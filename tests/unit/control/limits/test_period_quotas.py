"""Quotas for a day and a month: counted from real tables of limits, kept in a real file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.channel import Report, Usage
from gateway.control.core.current_config import CurrentConfig
from gateway.control.limits.period_quotas import PeriodQuotas
from gateway.control.limits.periods import periods_at
from gateway.control.workers.quota_tables import QuotaTables
from gateway.dataplane.core.counters import Counters
from gateway.dataplane.exchange.quota_rows import QuotaRows
from gateway.dataplane.exchange.quotas import Quotas
from gateway.keys.errors import StoreUnavailableError
from gateway.keys.quota_store import QuotaUse, Totals
from gateway.keys.stores.sqlite_quotas import SqliteQuotaStore
from gateway.model import KeyLimits
from gateway.settings import PerKeyLimits
from tests.support.config import loaded_from
from tests.support.quota_host import Clock

BEGIN = datetime(2099, 1, 30, 23, 0, tzinfo=UTC).timestamp()
"""Later than now: stores forget old months."""


class Store(SqliteQuotaStore):
    """A file that can be out of reach."""

    is_away = False

    async def add(
        self, used: Mapping[bytes, QuotaUse], asked: Collection[bytes], periods: Collection[str]
    ) -> Totals:
        if self.is_away:
            msg = "the disk is away"
            raise StoreUnavailableError(msg)
        return await super().add(used, asked, periods)


class Host:
    """A host with one worker and a clock."""

    def __init__(self, folder: Path, clock: Clock, **quotas: Any) -> None:
        self.clock = clock
        self.tables = QuotaTables()
        self.tables.prepare(1)
        place = self.tables._tables[-1].take()
        assert place is not None
        self.worker = Quotas(PerKeyLimits(**quotas), QuotaRows.shared(place), Counters(), clock)
        self.store = Store(folder / "keys.quotas")
        self.quotas = PeriodQuotas(
            CurrentConfig(loaded_from(folder)),
            self.tables,
            None,
            self.store,
            clock,
            lambda: BEGIN + clock.now - Clock.now,
        )

    async def send(self, requests: int, size: int = 0, own: KeyLimits | None = None) -> int:
        """Send requests, and have them counted; return how many were accepted."""
        self.clock.now += 1.1
        accepted = 0
        for _ in range(requests):
            lease = self.worker.admit("key", own, size)
            if lease is not None:
                lease.end(size)
                accepted += 1
        await self.quotas.step()
        return accepted

    @property
    def refusal(self) -> tuple[str, int]:
        refusal = self.worker.refusal("key")
        return refusal.outcome.name, refusal.outcome.retry_after_s

    async def close(self) -> None:
        await self.quotas.step()
        await self.quotas.close()
        self.tables.close()


@pytest.fixture(name="clock")
def _clock() -> Clock:
    return Clock()


@pytest.fixture(name="host")
async def _host(tmp_path: Path, clock: Clock) -> AsyncIterator[Host]:
    host = Host(tmp_path, clock, requests_per_day=10, bytes_per_month=10_000)
    yield host
    await host.close()


async def test_a_key_that_has_used_up_its_day_is_refused_until_the_day_is_over(host: Host) -> None:
    assert await host.send(6) == 6
    assert await host.send(6) == 6, "it is noticed afterwards"
    assert await host.send(6) == 0
    assert host.refusal == ("quota_spent", 300)
    host.clock.now += 59 * 60 - 9
    assert await host.send(1) == 0
    assert 50 <= host.refusal[1] <= 70, "until the day is over"
    host.clock.now += 70
    assert await host.send(6) == 6
    assert await host.send(20) == 20
    assert await host.send(1) == 0


async def test_a_months_bytes_count_over_its_days(host: Host) -> None:
    assert await host.send(4, 1_500) == 4
    host.clock.now += 2 * 3600
    assert await host.send(3, 1_500) == 3
    assert await host.send(1, 1_500) == 0
    host.clock.now += 86_400
    assert await host.send(1) == 1, "a new month"


async def test_what_was_used_outlives_a_restart(tmp_path: Path, clock: Clock) -> None:
    first = Host(tmp_path, clock, requests_per_day=10)
    assert await first.send(9) == 9
    await first.close()
    again = Host(tmp_path, clock, requests_per_day=10)
    assert await again.send(1) == 1
    assert await again.send(1) == 0
    await again.close()


async def test_without_the_store_it_counts_on_and_adds_that_later(host: Host) -> None:
    assert await host.send(5) == 5
    host.store.is_away = True
    with capture_logs() as logs:
        assert await host.send(4) == 4
        assert await host.send(4) == 4
        assert await host.send(4) == 0
    assert len([log for log in logs if "cannot be stored" in log["event"]]) == 1
    host.store.is_away = False
    with capture_logs() as logs:
        await host.send(0)
    assert [log["event"] for log in logs] == ["the use of keys' quotas is stored again"]
    assert await host.send(1) == 0


async def test_a_higher_quota_is_in_force_at_the_next_count(host: Host) -> None:
    await host.send(20)
    assert await host.send(1) == 0
    higher = KeyLimits(requests_per_day=30)
    assert await host.send(1, own=higher) == 0
    assert await host.send(15, own=higher) == 15
    assert await host.send(1, own=higher) == 0
    assert await host.send(1, own=KeyLimits(requests_per_day=0)) == 0
    assert await host.send(50, own=KeyLimits(requests_per_day=0)) == 50


async def test_refused_requests_do_not_count(tmp_path: Path, clock: Clock) -> None:
    host = Host(tmp_path, clock, requests=5, requests_per_day=11)
    accepted = [await host.send(50) for _ in range(6)]
    assert 11 <= sum(accepted) <= 17
    assert accepted[-1] == 0
    await host.close()


async def test_a_row_of_a_spent_key_is_not_given_away(host: Host) -> None:
    await host.send(20)
    (view,) = host.tables.views()
    host.clock.now += 30
    assert await host.send(1) == 0
    (row,) = view.rows(0)
    rows = host.worker._rows
    assert rows is not None
    place = host.worker._accounts["key"].row
    assert not rows.is_quiet(place, int((host.clock.now + 1_000) * 20))
    assert rows.is_quiet(place, int((host.clock.now + 7_200) * 20))
    assert row.requests == 20


async def test_the_log_says_once_whose_quota_is_used_up(host: Host) -> None:
    await host.send(1)
    usage = [Usage("key", "allowed", 1, 0, 0)]
    host.quotas.worker_reported("worker", Report([], [], [], usage))
    with capture_logs() as logs:
        for _ in range(3):
            await host.send(20)
    (told,) = [log for log in logs if "used up" in log["event"]]
    assert (told["key_id"], told["quota"]) == ("key", "requests_per_day")


def test_periods_are_those_of_utc() -> None:
    periods = periods_at(datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
    assert periods.names == ("2026-12-31", "2026-12")
    new_year = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert periods.day_ends_s == periods.month_ends_s == new_year


async def test_how_much_is_used_is_shown_for_keys_in_use(host: Host) -> None:
    await host.send(1)
    usage = [Usage("key", "allowed", 1, 0, 0)]
    host.quotas.worker_reported("worker", Report([], [], [], usage))
    await host.send(4, 1_000)
    assert host.quotas.series(lambda _: "agent")["gateway_key_quota_used_ratio"] == {
        ("key", "agent", "requests_per_day"): 0.5,
        ("key", "agent", "bytes_per_month"): 0.4,
    }
    host.clock.now += 100
    await host.send(0)
    assert host.quotas.series(lambda _: "agent")["gateway_key_quota_used_ratio"] == {}


async def test_what_comes_of_a_long_request_counts_though_its_key_is_idle(host: Host) -> None:
    await host.send(1)
    lease = host.worker.admit("key")
    assert lease is not None
    await host.quotas.step()
    host.clock.now += 120
    lease.receive(6_000)
    await host.quotas.step()
    lease.end(11_000)
    await host.quotas.step()
    assert await host.send(1) == 0, "all of the month's bytes are used"
