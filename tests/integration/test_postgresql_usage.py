"""Usage in PostgreSQL is counted once, whatever becomes of a connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from gateway.keys.daily_usage import DailyUsage, DayTraffic, ItemSums, UsageQuery
from gateway.keys.errors import StoreUnavailableError
from gateway.keys.record import KeyUsage
from gateway.keys.stores import postgresql_usage
from gateway.keys.stores.postgresql import PostgresqlDatabase
from gateway.keys.stores.postgresql_connector import Connector
from gateway.keys.stores.postgresql_usage import PostgresqlUsage
from tests.support.postgresql import PostgresqlServer

HANG_S = 60.0
DAY = "2030-03-17"
ONE_DAY = UsageQuery(DAY, DAY)
NOW_MS = 1_900_000_000_000


@pytest.fixture(name="url")
async def _url(server: PostgresqlServer) -> str:
    return await server.new_database()


class _Line:
    """A connection that can be cut before or after what is asked of it is done."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.cuts: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    async def execute(self, statement: str, *arguments: object) -> object:
        if statement == "SELECT":  # a question whether it lives is no use of it
            return await self.connection.execute(statement)
        return await self._ask(self.connection.execute, statement, *arguments)

    async def fetchval(self, statement: str, *arguments: object) -> object:
        return await self._ask(self.connection.fetchval, statement, *arguments)

    async def _ask(self, ask: Any, statement: str, *arguments: object) -> object:
        cut = self.cuts.pop(0) if self.cuts else ""
        if cut != "before":
            answer = await ask(statement, *arguments)
            if cut != "after":
                return answer
        self.connection.terminate()
        raise ConnectionResetError(cut)


class Lines(Connector):
    """A gateway's usage, over connections that are cut as `cut` says."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._line: _Line | None = None
        self.usage = PostgresqlUsage(self, PostgresqlDatabase(url).translated)

    async def connect(self) -> Any:
        cuts = self._line.cuts if self._line is not None else []
        self._line = _Line(await super().connect())
        self._line.cuts = cuts if cuts == [] else ["", *cuts]  # the tables are made first
        return self._line

    def cut(self, *cuts: str) -> None:
        """Say when the next statements' connections break: before, after, or not at all."""
        assert self._line is not None
        self._line.cuts = list(cuts)


@contextlib.asynccontextmanager
async def _lines(url: str) -> AsyncIterator[Lines]:
    lines = Lines(url)
    await lines.usage.open(create=True)
    await lines.usage.load()
    try:
        yield lines
    finally:
        await lines.usage.close()


def _daily(requests: int) -> DailyUsage:
    daily = DailyUsage()
    daily.add_traffic(DAY, "1", DayTraffic(requests, requests * 10))
    daily.add_items(DAY, "1", "traces", ItemSums(requests, requests * 10))
    return daily


def _used(requests: int) -> KeyUsage:
    return KeyUsage(requests, requests * 10, 0, NOW_MS)


@pytest.mark.parametrize(
    "cuts",
    [
        ["before"],
        ["after"],
        ["after", "before"],  # the question what was written is lost
        ["after", "after"],  # its answer is lost
        ["before", "after"],
        ["after", "", "before"],  # what was written is known, the rest is lost
        ["after", "", "after"],
        ["before", "", "after", "", "after", "after"],
    ],
)
async def test_what_is_sent_again_is_counted_once(url: str, cuts: list[str]) -> None:
    async with _lines(url) as lines:
        await lines.usage.add({"1": _used(1)})
        lines.cut(*cuts)
        pending = {"1": KeyUsage(), "2": KeyUsage()}
        total = _used(1)
        pending_days = DailyUsage()
        for round_ in range(1, 20):
            pending_days.add(_daily(round_))
            pending = {key_id: sums.plus(_used(round_)) for key_id, sums in pending.items()}
            total = total.plus(_used(round_))
            with contextlib.suppress(StoreUnavailableError):
                await lines.usage.add(pending, pending_days)
                pending = dict.fromkeys(pending, KeyUsage())
                pending_days = DailyUsage()

        assert pending["1"] == KeyUsage(), "the cuts are over"
        assert lines._line is not None
        assert lines._line.cuts == []
        assert (await lines.usage.load())["1"] == total
        (row,) = await lines.usage.periods(ONE_DAY)
        assert row.traffic == DayTraffic(sum(range(20)), 10 * sum(range(20)))
        assert row.items["traces"] == ItemSums(sum(range(20)), 10 * sum(range(20)))


async def test_a_statement_that_the_server_goes_on_with_is_waited_for(url: str) -> None:
    async with _lines(url) as lines:
        await lines.usage.add({"1": _used(1)})
        holder = await asyncpg.connect(url)
        try:
            held = holder.transaction()
            await held.start()
            await holder.execute("SELECT FROM gateway_key_usage FOR UPDATE")
            lost = asyncio.create_task(lines.usage.add({"1": _used(2)}))
            await _until_waiting(holder, 1)
            assert lines._line is not None
            lines._line.connection.terminate()
            with pytest.raises(StoreUnavailableError):
                await lost

            again = asyncio.create_task(lines.usage.add({"1": _used(2).plus(_used(4))}))
            await _until_waiting(holder, 2)
            await held.rollback()
            await again
        finally:
            await holder.close()

        assert await lines.usage.load() == {"1": _used(7)}


async def _until_waiting(connection: Any, count: int) -> None:
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with asyncio.timeout(HANG_S):
        while await connection.fetchval(query) < count:
            await asyncio.sleep(0.01)


async def test_a_statement_that_comes_too_late_is_not_carried_out(url: str) -> None:
    async with _lines(url) as lines:
        usage = lines.usage
        await usage.add({"1": _used(1)})
        lines.cut("before")
        with pytest.raises(StoreUnavailableError):
            await usage.add({"1": _used(2)})
        await usage.add({"1": _used(2)})
        connection = usage._connection
        assert connection is not None
        nothing: list[list[object]] = [[] for _ in range(5 + len(postgresql_usage._ITEM_TYPES))]
        late = (["1"], [2], [20], [0], [NOW_MS], usage._writer, 4, *nothing)

        await connection.execute(postgresql_usage._ADD, *late)

        assert await usage.load() == {"1": _used(3)}


async def test_writers_that_are_long_gone_are_forgotten(url: str) -> None:
    async with _lines(url) as lines:
        await lines.usage.add({"1": _used(1)})
        assert lines.usage._connection is not None
        await lines.usage._connection.execute(
            "UPDATE gateway_key_usage_writers SET written_at = now() - interval '31 days'"
        )
        async with _lines(url) as other:
            assert other.usage._connection is not None
            query = "SELECT count(*) FROM gateway_key_usage_writers"
            assert await other.usage._connection.fetchval(query) == 0
        await lines.usage.add({"1": _used(1)})
        assert await lines.usage.load() == {"1": _used(2)}


@pytest.mark.parametrize(
    "query, expected",
    [
        (UsageQuery("2030-02-01", "2030-02-01"), [("2030-02-01", "1", 1), ("2030-02-01", "2", 1)]),
        (
            UsageQuery("2030-01-01", "2030-12-31", "month", None, ("2030-01", "1"), 2),
            [("2030-01", "2", 1), ("2030-02", "1", 2)],
        ),
        (UsageQuery("2030-01-01", "2030-12-31", "key"), [("", "1", 3), ("", "2", 3)]),
        (UsageQuery("2030-01-01", "2030-12-31", "key", None, ("", "1")), [("", "2", 3)]),
        (UsageQuery("2030-01-01", "2030-12-31", "key", "2"), [("", "2", 3)]),
        (UsageQuery("2031-01-01", "2031-12-31"), []),
    ],
)
async def test_days_are_read_by_day_month_and_key(
    url: str, query: UsageQuery, expected: list[tuple[str, str, int]]
) -> None:
    async with _lines(url) as lines:
        daily = DailyUsage()
        for day in ("2030-01-31", "2030-02-01", "2030-02-02"):
            for key_id in ("1", "2"):
                daily.add_traffic(day, key_id, DayTraffic(1, 10))
                daily.add_items(day, key_id, "logs", ItemSums(1, 10, 1, 10.0, 2.5))
        await lines.usage.add({}, daily)

        rows = await lines.usage.periods(query)

        assert [(row.period, row.key_id, row.traffic.requests) for row in rows] == expected
        for row in rows:
            assert row.items["logs"].wy == 2.5 * row.traffic.requests


async def test_days_are_dropped_when_they_are_old(url: str) -> None:
    async with _lines(url) as lines:
        for _ in range(2):
            await lines.usage.add({}, _daily(1))
            await lines.usage.forget_days("2030-03-17")
        assert len(await lines.usage.periods(ONE_DAY)) == 1

        await lines.usage.forget_days("2030-03-18")

        assert await lines.usage.periods(ONE_DAY) == []
