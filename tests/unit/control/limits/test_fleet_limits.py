"""One gateway's part of the limits, by what others report; workers' tables are real ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway import metrics
from gateway.control.core.current_config import CurrentConfig
from gateway.control.limits.fleet_limits import FleetLimits
from gateway.control.limits.reports import decode, encode, owner_key
from gateway.control.workers.quota_tables import QuotaTables
from gateway.dataplane.core.counters import Counters
from gateway.dataplane.exchange.quota_rows import QuotaRows
from gateway.dataplane.exchange.quotas import Quotas
from gateway.keys.errors import StoreUnavailableError
from gateway.keys.limit_board import FRESH_S, MemoryBoard
from gateway.quota_layout import owner_of
from gateway.settings import PerKeyLimits
from tests.support.config import loaded_from
from tests.support.quota_host import Clock


class Board(MemoryBoard):
    """A board that can be out of reach."""

    is_away = False

    async def exchange(self, name: str, report: bytes) -> Mapping[str, bytes]:
        if self.is_away:
            msg = "it does not answer"
            raise StoreUnavailableError(msg)
        return await super().exchange(name, report)


class Member:
    """A gateway with one worker, over a board."""

    def __init__(self, folder: Path, board: Board, clock: Clock, scope: str = "fleet") -> None:
        self.tables = QuotaTables()
        self.tables.prepare(1)
        place = self.tables._tables[-1].take()
        assert place is not None
        self.worker = Quotas(
            PerKeyLimits(requests=100, concurrent=10), QuotaRows.shared(place), Counters(), clock
        )
        self.config = CurrentConfig(loaded_from(folder, {"limits": {"scope": scope}}))
        self.limits = FleetLimits(self.config, self.tables, board, clock)

    def send(self, requests: int) -> int:
        """Send one after the other; return how many were accepted."""
        accepted = 0
        for _ in range(requests):
            lease = self.worker.admit("key")
            if lease is not None:
                lease.end(0)
                accepted += 1
        return accepted

    def value(self, metric: metrics.Metric) -> float:
        return self.limits.series()[metric.name][()]


class Fleet:
    """Members on one board, and the time for all of them."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.board = Board(self.clock)
        self.members: list[Member] = []
        self._folder = folder
        self._numbers = itertools.count()

    def start(self, scope: str = "fleet") -> Member:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        member = Member(folder, self.board, self.clock, scope)
        self.members.append(member)
        return member

    async def second(self, *offers: int) -> list[int]:
        """Let a second pass in which each is sent so many requests; return what each accepted."""
        accepted = [0] * len(offers)
        for _ in range(20):
            self.clock.now += 0.05
            for place, offer in enumerate(offers):
                accepted[place] += self.members[place].send(offer // 20)
        for member in self.members:
            await member.limits.step()
        return accepted


@pytest.fixture(name="fleet")
def _fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    for member in fleet.members:
        member.tables.close()


async def test_members_together_get_the_limit_wherever_the_senders_are(fleet: Fleet) -> None:
    for _ in range(3):
        fleet.start()
    for offers in ((200, 200, 200), (400, 20, 0), (0, 20, 400)):
        for _ in range(3):
            await fleet.second(*offers)
        got = [await fleet.second(*offers) for _ in range(10)]
        assert 850 <= sum(map(sum, got)) <= 1150, offers
        assert all(each[1] >= min(20, offers[1]) for each in got), "it wants little"


async def test_one_alone_has_the_whole_limit(fleet: Fleet) -> None:
    fleet.start()
    for _ in range(3):
        await fleet.second(200)
    assert 90 <= (await fleet.second(200))[0] <= 110


async def test_without_the_board_parts_become_equal_and_never_all_or_nothing(fleet: Fleet) -> None:
    for _ in range(2):
        fleet.start()
    for _ in range(5):
        await fleet.second(400, 0)
    fleet.board.is_away = True
    with capture_logs() as logs:
        lapsing = [await fleet.second(400, 400) for _ in range(15)]
    assert all(one > 0 and other > 0 for one, other in lapsing[1:])
    for one, other in lapsing[-3:]:
        assert 42 <= one <= 57
        assert 42 <= other <= 57
    told = [log for log in logs if "cannot be shared" in log["event"]]
    assert len(told) == 2, "once for each gateway"
    assert fleet.members[0].value(metrics.LIMIT_SHARES_UP) == 0
    fleet.board.is_away = False
    await fleet.second(400, 0)
    assert fleet.members[0].value(metrics.LIMIT_SHARES_UP) == 1


async def test_a_gateway_that_starts_without_the_board_remembers_how_many_there_were(
    fleet: Fleet,
) -> None:
    first, _ = fleet.start(), fleet.start()
    await fleet.second(0, 0)
    await fleet.second(0, 0)
    fleet.board.is_away = True
    again = FleetLimits(first.config, first.tables, fleet.board, fleet.clock)
    await again.step()
    assert again.series()[metrics.LIMIT_GATEWAYS.name][()] == 2
    fleet.clock.now += 1
    assert first.send(100) == 50


async def test_one_that_leaves_or_says_nothing_leaves_its_part(fleet: Fleet) -> None:
    members = [fleet.start() for _ in range(3)]
    for _ in range(2):
        await fleet.second(100, 100, 100)
    await members[2].limits.close()
    fleet.members.remove(members[2])
    await fleet.second(0, 0)
    assert members[0].value(metrics.LIMIT_GATEWAYS) == 2
    fleet.members.remove(members[1])
    fleet.clock.now += FRESH_S
    await fleet.second(0)
    assert members[0].value(metrics.LIMIT_GATEWAYS) == 1
    for each in members[1:]:
        each.tables.close()


async def test_requests_at_once_are_divided_and_one_is_always_allowed(fleet: Fleet) -> None:
    members = [fleet.start() for _ in range(3)]
    for _ in range(2):
        await fleet.second(20, 20, 20)
    fleet.clock.now += 1
    open_ = [[member.worker.admit("key") for _ in range(10)] for member in members]
    assert sum(lease is not None for each in open_ for lease in each) == 10
    assert all(each[0] is not None for each in open_)


async def test_with_the_scope_host_nothing_is_shared_also_after_a_reload(fleet: Fleet) -> None:
    one, other = fleet.start(), fleet.start("host")
    assert (await fleet.second(200, 200))[1] >= 90
    assert one.value(metrics.LIMIT_GATEWAYS) == 1
    fleet.start()
    await fleet.second(200, 200, 200)
    await fleet.second(200, 200, 200)
    assert one.value(metrics.LIMIT_GATEWAYS) == 2
    one.config.loaded = other.config.loaded
    await fleet.second(200, 200, 200)
    await fleet.second(200, 200, 200)
    assert (await fleet.second(200, 200, 200))[0] >= 90


async def test_a_report_that_cannot_be_read_counts_as_a_gateway_that_wants_nothing(
    fleet: Fleet,
) -> None:
    member = fleet.start()
    await fleet.board.exchange("newer", b"\xc1")
    with capture_logs() as logs:
        await fleet.second(200)
        await fleet.second(200)
    assert member.value(metrics.LIMIT_GATEWAYS) == 2
    assert sum("cannot be read" in log["event"] for log in logs) == 1


def test_a_report_is_read_as_it_was_written() -> None:
    wanted = {owner_key(owner_of("key")): (1.5, 2.0, 3.0)}
    assert decode(encode(wanted)) == wanted


@pytest.mark.parametrize("bad", [(-1.0, 0.0, 0.0), (float("inf"), 0.0, 0.0)])
def test_a_report_with_impossible_numbers_is_refused(bad: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="negative or infinite"):
        decode(encode({b"key": bad}))
