from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.keys import usage
from gateway.keys.daily_usage import DailyUsage, DayTraffic, ItemSums, PeriodUsage, UsageQuery
from gateway.keys.errors import StoreUnavailableError
from gateway.keys.record import KeyUsage
from gateway.keys.stores.sqlite_engine import SqliteEngine
from gateway.keys.stores.sqlite_usage import SqliteUsage
from gateway.keys.usage import UsageRecorder


@pytest.fixture(name="usage_store")
async def _usage_store(tmp_path: Path) -> AsyncIterator[SqliteUsage]:
    store = SqliteUsage(tmp_path / "keys.db.usage")
    yield store
    await store.close()


async def _recorder(store: SqliteUsage, on_problem: Callable[[str], None]) -> UsageRecorder:
    recorder = UsageRecorder(store, on_problem)
    await recorder.start(lambda _: ())
    return recorder


def _never(text: str) -> None:
    pytest.fail(f"a problem was reported: {text}")


async def test_what_is_noted_is_written_in_sums(usage_store: SqliteUsage) -> None:
    recorder = await _recorder(usage_store, _never)
    recorder.note("1", KeyUsage(1, 10, 0, 500))
    recorder.note("1", KeyUsage(1, 10, 0, 600))
    assert await usage_store.load() == {}

    await recorder.flush()
    await recorder.flush()

    assert await usage_store.load() == {"1": KeyUsage(2, 20, 0, 600)}


async def test_usage_that_cannot_be_written_is_kept_and_reported_once(
    usage_store: SqliteUsage, tmp_path: Path
) -> None:
    problems: list[str] = []
    recorder = await _recorder(usage_store, problems.append)
    hidden = tmp_path / "hidden"
    await usage_store.close()
    usage_store.path.rename(hidden)
    usage_store._engine = SqliteEngine(usage_store.path, "NORMAL")
    for _ in range(2):
        recorder.note("1", KeyUsage(requests=1))
        await recorder.flush()
    assert len(problems) == 1
    assert "usage of keys cannot be written" in problems[0]

    hidden.rename(usage_store.path)
    await recorder.flush()

    assert await usage_store.load() == {"1": KeyUsage(requests=2)}


async def test_the_recorder_writes_by_itself(
    usage_store: SqliteUsage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "FLUSH_S", 0.001)
    recorder = await _recorder(usage_store, _never)
    recorder.note("1", KeyUsage(requests=1))
    running = asyncio.create_task(recorder.run())

    while not await usage_store.load():
        await asyncio.sleep(0)

    running.cancel()
    assert await usage_store.load() == {"1": KeyUsage(requests=1)}


DAY_MS = 86_400_000
NOON_MS = 1_900_000_000_000 - 1_900_000_000_000 % DAY_MS + DAY_MS // 2
"""2030-03-17, 12:00 UTC."""


async def test_usage_is_kept_by_day(usage_store: SqliteUsage) -> None:
    recorder = UsageRecorder(usage_store, _never, lambda: NOON_MS)
    await recorder.start(lambda _: ())
    recorder.note("2", KeyUsage(1, 10, 0, NOON_MS - DAY_MS))
    recorder.note("1", KeyUsage(2, 20, 0, NOON_MS))
    recorder.note("1", KeyUsage(refusals=3))
    recorder.note_items("1", "traces", ItemSums(2, 20))
    await recorder.flush()
    recorder.note("1", KeyUsage(1, 5, 0, NOON_MS))
    await recorder.flush()

    rows = await recorder.periods(UsageQuery("2030-03-16", "2030-03-17"))

    assert rows == [
        PeriodUsage("2030-03-16", "2", DayTraffic(1, 10, 0), {}),
        PeriodUsage("2030-03-17", "1", DayTraffic(3, 25, 3), {"traces": ItemSums(2, 20)}),
    ]


async def _with_days(usage_store: SqliteUsage) -> None:
    await usage_store.open(create=True)
    daily = DailyUsage()
    for day in ("2030-01-31", "2030-02-01", "2030-02-02"):
        for key_id in ("1", "2"):
            daily.add_traffic(day, key_id, DayTraffic(1, 10))
            daily.add_items(day, key_id, "logs", ItemSums(1, 10))
    await usage_store.add({}, daily)


@pytest.mark.parametrize(
    "query, expected",
    [
        (UsageQuery("2030-02-01", "2030-02-01"), [("2030-02-01", "1", 1), ("2030-02-01", "2", 1)]),
        (
            UsageQuery("2030-01-01", "2030-12-31", "month"),
            [("2030-01", "1", 1), ("2030-01", "2", 1), ("2030-02", "1", 2), ("2030-02", "2", 2)],
        ),
        (UsageQuery("2030-01-01", "2030-12-31", "key"), [("", "1", 3), ("", "2", 3)]),
        (UsageQuery("2030-01-01", "2030-12-31", "key", "2"), [("", "2", 3)]),
        (
            UsageQuery("2030-01-01", "2030-12-31", "month", None, ("2030-01", "2")),
            [("2030-02", "1", 2), ("2030-02", "2", 2)],
        ),
        (UsageQuery("2030-01-01", "2030-12-31", "key", None, ("", "1")), [("", "2", 3)]),
        (UsageQuery("2030-01-01", "2030-12-31", limit=1), [("2030-01-31", "1", 1)]),
        (UsageQuery("2031-01-01", "2031-12-31"), []),
    ],
)
async def test_days_are_read_by_day_month_and_key(
    usage_store: SqliteUsage, query: UsageQuery, expected: list[tuple[str, str, int]]
) -> None:
    await _with_days(usage_store)

    rows = await usage_store.periods(query)

    assert [(row.period, row.key_id, row.traffic.requests) for row in rows] == expected
    assert all(row.items["logs"].bytes == row.traffic.bytes for row in rows)


async def test_days_are_dropped_when_they_are_old(usage_store: SqliteUsage) -> None:
    await _with_days(usage_store)
    recorder = UsageRecorder(usage_store, _never, lambda: 1_896_220_800_000)  # 2030-02-02
    recorder.kept_days = 2

    await recorder.forget_old_days()

    rows = await usage_store.periods(UsageQuery("2030-01-01", "2030-12-31"))
    assert {row.period for row in rows} == {"2030-02-01", "2030-02-02"}
    rows = await usage_store.periods(UsageQuery("2030-01-31", "2030-01-31"))
    assert rows == []


async def test_a_file_of_an_older_gateway_gets_the_tables_by_day(
    usage_store: SqliteUsage,
) -> None:
    await usage_store.open(create=True)
    await usage_store.add({"1": KeyUsage(1, 10, 0, 500)})
    await usage_store.close()
    with contextlib.closing(sqlite3.connect(usage_store.path)) as connection:
        connection.execute("DROP TABLE gateway_key_usage_days")
        connection.execute("DROP TABLE gateway_key_items_days")
    reader = SqliteUsage(usage_store.path)
    await reader.open(create=False)
    assert await reader.periods(UsageQuery("2030-01-01", "2030-12-31")) == []
    await reader.close()

    await _with_days(usage_store)

    assert await usage_store.load() == {"1": KeyUsage(1, 10, 0, 500)}
    assert len(await usage_store.periods(UsageQuery("2030-01-01", "2030-12-31"))) == 6


async def test_usage_that_is_kept_nowhere_is_an_error_that_says_so() -> None:
    recorder = UsageRecorder(None, _never)
    await recorder.start(lambda _: ())

    with pytest.raises(StoreUnavailableError, match="no key store that has a place"):
        await recorder.periods(UsageQuery("2030-01-01", "2030-12-31"))
