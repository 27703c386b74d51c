"""Whoever writes to a SQLite store of keys is killed in the middle of it, again and again: what was
acknowledged is there, and the store is sound.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from gateway.keys.commands import KeyCommands
from gateway.keys.record import KeyRecord
from gateway.keys.store import KeySpec
from gateway.keys.stores.sqlite import sqlite_store
from gateway.model import digest_of
from tests.support.key_writers import Acknowledged, key_writers
from tests.support.keys import read_all

KILLS: Final = int(os.environ.get("KEYS_CRASH_KILLS", "200"))
"""How many writers are killed between a create's or delete's begin and its acknowledgement."""
WRITERS: Final = 3
ENDLESS: Final = 1_000_000


async def test_two_hundred_killed_writers_leave_a_sound_store_with_all_they_acknowledged(
    tmp_path: Path,
) -> None:
    store = tmp_path / "state" / "keys.db"
    in_flight = rounds = 0
    with key_writers(store) as writers:
        while in_flight < KILLS:
            # The first rounds are short: they hit the creation of the store as well.
            within_s = 0.02 * (1 + rounds % 12)
            ended = await asyncio.to_thread(writers.round, WRITERS, ENDLESS, within_s)
            assert ended.statuses == [9] * WRITERS
            in_flight += ended.in_flight
            rounds += 1
            if store.exists():
                _check_soundness(store)
                _check_acknowledged(await _stored(store), writers.acknowledged)
            else:
                assert not writers.acknowledged.created
            assert rounds < 3 * KILLS, f"only {in_flight} writers were killed while they wrote"

    assert writers.acknowledged.created
    assert writers.acknowledged.deleted


def _check_soundness(store: Path) -> None:
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def _stored(path: Path) -> dict[int, KeyRecord]:
    store = sqlite_store(path)
    await store.feed.open(create=False)
    try:
        return {record.id: record for record in (await read_all(store)).records}
    finally:
        await store.feed.close()


def _check_acknowledged(stored: dict[int, KeyRecord], acknowledged: Acknowledged) -> None:
    gone = {key_id for key_id, record in stored.items() if record.deleted_at_ms is not None}
    for key_id, key in acknowledged.created.items():
        assert stored[key_id].digest == digest_of(key.encode())
    assert acknowledged.deleted <= gone
    assert gone <= acknowledged.deleting


async def test_a_store_whose_first_writer_was_killed_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "state" / "keys.db"
    with key_writers(path) as writers:
        await asyncio.to_thread(writers.round, 1, ENDLESS, 0.001)

    store = sqlite_store(path)
    await store.feed.open(create=True)
    try:
        issued = await KeyCommands(store.repository).create(KeySpec("after"))
        assert issued.record in await store.feed.live()
    finally:
        await store.feed.close()
