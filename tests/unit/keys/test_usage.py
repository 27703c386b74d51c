from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.keys import usage
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
