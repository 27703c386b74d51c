from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest

from gateway.keys.errors import StoreUnavailableError
from gateway.keys.stores.sqlite_watch import SqliteWatch

NEVER_S = 3_600.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "watched.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    return path


def _change(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO t VALUES (1)")
    connection.commit()
    connection.close()


async def test_a_commit_of_another_connection_ends_the_wait(file: Path) -> None:
    watch = SqliteWatch(file, interval_s=0.001, recheck_s=NEVER_S)
    watch.open()
    waiting = asyncio.create_task(watch.wait())
    await asyncio.sleep(0)
    assert not waiting.done()

    _change(file)

    await waiting
    watch.close()


async def test_a_change_before_the_wait_counts_once(file: Path) -> None:
    watch = SqliteWatch(file, interval_s=0.001, recheck_s=NEVER_S)
    watch.open()

    _change(file)

    await watch.wait()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(watch.wait(), 0.05)
    watch.close()


async def test_changes_before_it_was_opened_do_not_count(file: Path) -> None:
    _change(file)
    watch = SqliteWatch(file, interval_s=0.001, recheck_s=NEVER_S)
    watch.open()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(watch.wait(), 0.05)
    watch.close()


async def test_now_and_then_the_wait_ends_without_a_change(file: Path) -> None:
    watch = SqliteWatch(file, interval_s=0.001, recheck_s=0.005)
    watch.open()

    await watch.wait()

    watch.close()


async def test_a_file_put_in_the_place_of_the_watched_one_ends_the_wait(file: Path) -> None:
    watch = SqliteWatch(file, interval_s=0.001, recheck_s=NEVER_S)
    watch.open()
    assert not watch.is_replaced()
    copy = file.with_suffix(".copy")
    shutil.copy(file, copy)

    copy.replace(file)

    await watch.wait()
    assert watch.is_replaced()
    watch.close()


async def test_a_file_that_goes_away_is_an_error(file: Path) -> None:
    watch = SqliteWatch(file, interval_s=0.001, recheck_s=NEVER_S)
    watch.open()

    file.unlink()

    with pytest.raises(StoreUnavailableError, match=r"watched\.db: there is no such file"):
        await watch.wait()
    watch.close()


async def test_a_missing_file_is_not_created_by_watching_it(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError):
        SqliteWatch(tmp_path / "missing.db").open()

    assert list(tmp_path.iterdir()) == []


async def test_watching_does_not_keep_writers_from_writing(file: Path) -> None:
    watch = SqliteWatch(file, interval_s=0.001, recheck_s=NEVER_S)
    watch.open()
    writer = sqlite3.connect(file, timeout=0)

    for _ in range(20):
        writer.execute("INSERT INTO t VALUES (1)")
        writer.commit()
        await watch.wait()
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    writer.close()
    watch.close()


async def test_a_watch_that_is_not_open_says_so(file: Path) -> None:
    with pytest.raises(RuntimeError, match="not open"):
        await SqliteWatch(file).wait()
