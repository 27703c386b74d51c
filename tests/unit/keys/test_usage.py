from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.keys import sqlite, usage
from gateway.keys.errors import StoreError, StoreTooNewError
from gateway.keys.record import KeyUsage
from gateway.keys.usage import UsageRecorder, UsageStore


@pytest.fixture(name="usage_store")
async def _usage_store(tmp_path: Path) -> AsyncIterator[UsageStore]:
    store = UsageStore(tmp_path / "keys.db.usage")
    await store.open(create=True)
    yield store
    await store.close()


def _never(text: str) -> None:
    pytest.fail(f"a problem was reported: {text}")


async def test_sums_add_up_and_keep_the_latest_time(usage_store: UsageStore) -> None:
    await usage_store.add({"1": KeyUsage(1, 10, 0, 500), "static:prod": KeyUsage(refusals=2)})
    await usage_store.add({"1": KeyUsage(2, 5, 1, 400)})

    assert await usage_store.load() == {
        "1": KeyUsage(3, 15, 1, 500),
        "static:prod": KeyUsage(0, 0, 2, 0),
    }


async def test_several_gateways_add_to_the_same_sums(usage_store: UsageStore) -> None:
    other = UsageStore(usage_store.path)
    await other.open(create=True)

    await asyncio.gather(
        *(store.add({"1": KeyUsage(requests=1)}) for store in (usage_store, other) * 20)
    )

    assert (await usage_store.load())["1"].requests == 40
    await other.close()


async def test_sums_of_forgotten_keys_are_dropped(usage_store: UsageStore) -> None:
    await usage_store.add({key_id: KeyUsage(requests=1) for key_id in ("1", "2", "3")})

    await usage_store.forget(["1", "3"])

    assert set(await usage_store.load()) == {"2"}


async def test_a_file_of_another_version_is_refused(usage_store: UsageStore) -> None:
    await usage_store.close()
    connection = sqlite3.connect(usage_store.path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()

    with pytest.raises(StoreTooNewError, match="another version"):
        await usage_store.open(create=True)


async def test_what_is_noted_is_written_in_sums(usage_store: UsageStore) -> None:
    recorder = UsageRecorder(usage_store, _never)
    recorder.note("1", KeyUsage(1, 10, 0, 500))
    recorder.note("1", KeyUsage(1, 10, 0, 600))
    assert await usage_store.load() == {}

    await recorder.flush()
    await recorder.flush()

    assert await usage_store.load() == {"1": KeyUsage(2, 20, 0, 600)}


async def test_usage_that_cannot_be_written_is_kept_and_reported_once(
    usage_store: UsageStore, tmp_path: Path
) -> None:
    problems: list[str] = []
    recorder = UsageRecorder(usage_store, problems.append)
    hidden = tmp_path / "hidden"
    await usage_store.close()
    usage_store.path.rename(hidden)
    usage_store._engine = sqlite.open_engine(usage_store.path, "NORMAL")
    for _ in range(2):
        recorder.note("1", KeyUsage(requests=1))
        await recorder.flush()
    assert len(problems) == 1
    assert "usage of keys cannot be written" in problems[0]

    hidden.rename(usage_store.path)
    await recorder.flush()

    assert await usage_store.load() == {"1": KeyUsage(requests=2)}


async def test_the_recorder_writes_by_itself(
    usage_store: UsageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "FLUSH_S", 0.001)
    recorder = UsageRecorder(usage_store, _never)
    recorder.note("1", KeyUsage(requests=1))
    running = asyncio.create_task(recorder.run())

    while not await usage_store.load():
        await asyncio.sleep(0)

    running.cancel()
    assert await usage_store.load() == {"1": KeyUsage(requests=1)}


async def test_a_missing_file_is_not_made_by_who_only_reads(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        await UsageStore(tmp_path / "missing.usage").open(create=False)

    assert list(tmp_path.iterdir()) == []
