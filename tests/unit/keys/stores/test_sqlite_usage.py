from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.keys.errors import StoreTooNewError
from gateway.keys.record import KeyUsage
from gateway.keys.stores.sqlite_usage import SqliteUsage


@pytest.fixture(name="usage_store")
async def _usage_store(tmp_path: Path) -> AsyncIterator[SqliteUsage]:
    store = SqliteUsage(tmp_path / "keys.db.usage")
    await store.open(create=True)
    yield store
    await store.close()


async def test_sums_add_up_and_keep_the_latest_time(usage_store: SqliteUsage) -> None:
    await usage_store.add({"1": KeyUsage(1, 10, 0, 500), "static:prod": KeyUsage(refusals=2)})
    await usage_store.add({"1": KeyUsage(2, 5, 1, 400)})

    assert await usage_store.load() == {
        "1": KeyUsage(3, 15, 1, 500),
        "static:prod": KeyUsage(0, 0, 2, 0),
    }


async def test_several_gateways_add_to_the_same_sums(usage_store: SqliteUsage) -> None:
    other = SqliteUsage(usage_store.path)
    await other.open(create=True)

    await asyncio.gather(
        *(store.add({"1": KeyUsage(requests=1)}) for store in (usage_store, other) * 20)
    )

    assert (await usage_store.load())["1"].requests == 40
    await other.close()


async def test_sums_of_forgotten_keys_are_dropped(usage_store: SqliteUsage) -> None:
    await usage_store.add({key_id: KeyUsage(requests=1) for key_id in ("1", "2", "3")})

    await usage_store.forget(["1", "3"])

    assert set(await usage_store.load()) == {"2"}


async def test_a_file_of_another_version_is_refused(usage_store: SqliteUsage) -> None:
    await usage_store.close()
    connection = sqlite3.connect(usage_store.path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()

    with pytest.raises(StoreTooNewError, match="another version"):
        await usage_store.open(create=True)


async def test_a_missing_file_reads_as_empty_and_is_not_made_by_a_reader(tmp_path: Path) -> None:
    usage = SqliteUsage(tmp_path / "missing.usage")

    await usage.open(create=False)

    assert await usage.load() == {}
    assert list(tmp_path.iterdir()) == []
