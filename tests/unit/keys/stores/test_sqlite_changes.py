from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.keys.errors import StoreForeignError, StoreUnavailableError
from gateway.keys.record import KeyRecord
from gateway.keys.store import KeySpec, NewKey
from gateway.keys.stores.sql_store import SqlStore
from gateway.keys.stores.sqlite import sqlite_store
from gateway.model import digest_of
from tests.support.keys import changes, read_all


def _new(number: int, **more: object) -> NewKey:
    return NewKey(digest_of(b"key %d" % number), KeySpec(f"name-{number}", **more))  # type: ignore[arg-type]  # by field names


async def test_a_purge_with_nothing_to_do_waits_for_no_writer(store: SqlStore, path: Path) -> None:
    await store.repository.create(_new(1), 5)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")

    await store.feed.purge(10**15)

    writer.close()


async def test_a_restored_backup_is_read_as_a_whole(store: SqlStore, path: Path) -> None:
    first = await store.repository.create(_new(1), 5)
    await store.feed.close()
    backup = path.with_suffix(".backup")
    shutil.copy(path, backup)
    await store.feed.open(create=False)
    await store.repository.create(_new(2), 5)
    since = (await read_all(store)).revision
    await store.feed.close()
    backup.replace(path)
    await store.feed.open(create=False)

    assert await store.feed.changes(since) is None
    assert (await read_all(store)).records == [first]


async def test_another_store_in_the_same_place_is_an_error_and_not_read(
    store: SqlStore, path: Path, tmp_path: Path
) -> None:
    await store.repository.create(_new(1), 5)
    since = (await read_all(store)).revision
    other = sqlite_store(tmp_path / "other.db")
    await other.feed.open(create=True)
    await other.repository.create(_new(5), 5)
    await other.feed.close()
    await store.feed.close()
    (tmp_path / "other.db").replace(path)
    await store.feed.open(create=False)

    with pytest.raises(StoreForeignError, match="another key store"):
        await store.feed.changes(since)
    with pytest.raises(StoreForeignError, match="another key store"):
        await read_all(store)


async def test_a_store_that_is_not_open_says_so(path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="not open"):
        await sqlite_store(path).feed.live()


async def test_writers_at_the_same_time_lose_nothing_and_readers_miss_nothing(
    store: SqlStore, path: Path
) -> None:
    other = sqlite_store(path)
    await other.feed.open(create=False)
    seen: dict[int, KeyRecord] = {}
    revisions = [(await read_all(store)).revision]

    async def write(writer: SqlStore, first: int) -> list[KeyRecord]:
        keys = [
            await writer.repository.create(_new(number), 1) for number in range(first, first + 20)
        ]
        return [await writer.repository.delete(key.id, 2) if key.id % 2 else key for key in keys]

    async def read(until: asyncio.Event) -> None:
        while True:
            is_last = until.is_set()
            found = await changes(store, revisions[-1])
            seen.update((record.id, record) for record in found.records)
            revisions.append(found.revision)
            if is_last:
                return
            await asyncio.sleep(0)

    done = asyncio.Event()
    reader = asyncio.create_task(read(done))
    written = await asyncio.gather(write(store, 0), write(other, 100), write(other, 200))
    done.set()
    await reader
    await other.feed.close()

    expected = {record.id: record for records in written for record in records}
    assert seen == expected
    assert revisions == sorted(revisions)
    assert revisions[-1] == 60 + sum(key.deleted_at_ms is not None for key in expected.values())


operations = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.integers(0, 9)),
        st.tuples(st.just("delete"), st.integers(0, 9)),
        st.tuples(st.just("rotate"), st.integers(0, 9)),
        st.tuples(st.just("purge"), st.integers(0, 20)),
        st.tuples(st.just("follow"), st.integers(0, 1)),
    ),
    max_size=20,
)


@settings(max_examples=25, deadline=None)
@given(operations)
def test_who_follows_the_changes_knows_what_the_store_holds(
    operations: list[tuple[str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_follow_random_operations(Path(folder) / "keys.db", operations))


async def _follow_random_operations(path: Path, operations: list[tuple[str, int]]) -> None:
    store = sqlite_store(path)
    await store.feed.open(create=True)
    followers = [_Follower(store), _Follower(store)]
    ids: list[int] = []
    for now_ms, (operation, number) in enumerate(operations):
        if operation == "create":
            ids.append(
                (
                    await store.repository.create(
                        NewKey(digest_of(b"%d" % now_ms), KeySpec("n")), now_ms
                    )
                ).id
            )
        elif operation == "purge":
            await store.feed.purge(now_ms - number)
        elif operation == "follow":
            await followers[number].catch_up()
        elif (
            number < len(ids)
            and (await store.repository.find(ids[number])) in await store.feed.live()
        ):
            if operation == "delete":
                await store.repository.delete(ids[number], now_ms)
            else:
                new, _ = await store.repository.rotate(
                    ids[number], digest_of(b"%d" % now_ms), None, 5, now_ms
                )
                ids.append(new.id)
    everything = {record.id: record for record in (await read_all(store)).records}
    for follower in followers:
        await follower.catch_up()
        # A follower forgets tombstones by time, not by being told: it may know more of them.
        extra = follower.known.keys() - everything.keys()
        assert {key: follower.known[key] for key in everything} == everything
        assert all(follower.known[key].deleted_at_ms is not None for key in extra)
    await store.feed.close()


class _Follower:
    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._revision: int | None = None
        self.known: dict[int, KeyRecord] = {}

    async def catch_up(self) -> None:
        found = None
        if self._revision is not None:
            found = await self._store.feed.changes(self._revision)
        if found is None:
            self.known.clear()
            found = await read_all(self._store)
        self.known.update((record.id, record) for record in found.records)
        self._revision = found.revision
