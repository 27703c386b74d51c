"""Connections to SQLite files: how many there are, and what is left of them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from gateway.keys.errors import StoreUnavailableError
from gateway.keys.stores import sqlite_file
from gateway.keys.stores.sql import PARTITION, SqlConnection, fetch_value
from gateway.keys.stores.sqlite_engine import SqliteEngine, connected
from tests.support.polling import until


async def _make_numbers(connection: SqlConnection) -> None:
    await connection.execute("CREATE TABLE numbers (n INTEGER UNIQUE)")


@pytest.fixture(name="path")
async def _path(tmp_path: Path) -> Path:
    path = tmp_path / "some.db"
    await sqlite_file.create_file(path, 7, _make_numbers)
    return path


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "_connection_worker" in thread.name}


async def _ended(threads: set[threading.Thread]) -> None:
    for thread in threads:
        await asyncio.to_thread(thread.join)


async def _numbers(engine: SqliteEngine) -> list[int]:
    async with engine.reading() as connection:
        return [n for (n,) in await connection.fetch("SELECT n FROM numbers ORDER BY n")]


async def test_a_connection_that_is_in_use_when_all_are_dropped_is_closed_too(path: Path) -> None:
    before = _threads()
    engine = SqliteEngine(path, "FULL")

    async def use_after_the_end() -> None:
        async with engine.reading() as connection:
            await connection.execute("SELECT 1")
            await engine.drop_connections()
            await connection.execute("SELECT 1")

    with pytest.raises(StoreUnavailableError), sqlite_file.translated(path):
        await use_after_the_end()

    await _ended(_threads() - before)


async def test_an_engine_whose_connections_were_dropped_makes_new_ones(path: Path) -> None:
    engine = SqliteEngine(path, "FULL")
    assert await _numbers(engine) == []
    await engine.drop_connections()
    assert await _numbers(engine) == []
    await engine.drop_connections()


async def test_what_fails_is_undone_and_its_connection_used_again(path: Path) -> None:
    engine = SqliteEngine(path, "FULL")
    before = _threads()

    async def write_twice() -> None:
        async with engine.writing() as connection:
            await connection.execute("INSERT INTO numbers VALUES ($1)", 1)
            await connection.execute("INSERT INTO numbers VALUES ($1)", 1)

    with pytest.raises(sqlite3.IntegrityError):
        await write_twice()

    assert await _numbers(engine) == []
    assert len(_threads() - before) == 1
    await engine.drop_connections()


async def test_what_is_cancelled_is_undone(path: Path) -> None:
    engine = SqliteEngine(path, "FULL")
    began = asyncio.Event()

    async def write_for_ever() -> None:
        async with engine.writing() as connection:
            await connection.execute("INSERT INTO numbers VALUES ($1)", 1)
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write_for_ever())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with engine.writing() as connection:  # the lock is free
        await connection.execute("INSERT INTO numbers VALUES ($1)", 2)
    assert await _numbers(engine) == [2]
    await engine.drop_connections()


async def test_many_rows_come_in_parts_and_reading_may_end_early(path: Path) -> None:
    engine = SqliteEngine(path, "FULL")
    rows = [(number,) for number in range(PARTITION + 1)]
    async with engine.writing() as connection:
        await connection.execute_many("INSERT INTO numbers VALUES ($1)", rows)

    async with engine.reading() as connection:
        async with aclosing(connection.parts("SELECT n FROM numbers")) as parts:
            sizes = [len(part) async for part in parts]
        async with aclosing(connection.parts("SELECT n FROM numbers")) as parts:
            async for part in parts:
                assert part[0] == (0,)
                break
        assert await fetch_value(connection, "SELECT count(*) FROM numbers") == PARTITION + 1
    assert sizes == [PARTITION, 1]
    await engine.drop_connections()


async def test_some_connections_are_kept_and_the_others_closed(path: Path) -> None:
    engine = SqliteEngine(path, "FULL")
    before = _threads()
    async with AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(engine.reading())
        assert len(_threads() - before) == 8

    await until(lambda: sum(thread.is_alive() for thread in _threads() - before) <= 5)
    await engine.drop_connections()
    await _ended(_threads() - before)


async def test_a_connection_for_a_block_is_closed_after_it(path: Path) -> None:
    before = _threads()
    async with connected(path) as connection:
        assert await fetch_value(connection, "SELECT $1", "x") == "x"
    await _ended(_threads() - before)
