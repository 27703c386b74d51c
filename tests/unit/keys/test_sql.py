from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.keys.embedded import sqlite_store
from gateway.keys.errors import DuplicateKeyError, KeyNotFoundError, StoreDamagedError
from gateway.keys.record import KeyRecord
from gateway.keys.schema import keys_table, store_table
from gateway.keys.sql import SqlStore
from gateway.keys.store import NewKey
from gateway.model import KeyLimits, Signal, digest_of
from tests.unit.keys.conftest import changes, read_all

DAY_MS = 86_400_000


def _new(number: int, **more: object) -> NewKey:
    return NewKey(digest_of(b"key %d" % number), f"name-{number}", **more)  # type: ignore[arg-type]  # by field names


async def test_a_created_key_is_read_back_as_it_was_given(store: SqlStore) -> None:
    given_key = _new(
        1,
        description="EU agents",
        expires_at_ms=9 * DAY_MS,
        signals=frozenset({Signal.LOGS, Signal.TRACES}),
        limits=KeyLimits(requests=0, concurrent=3),
    )

    created = await store.create(given_key, 5)

    assert await store.find(created.id) == created
    assert created == KeyRecord(
        id=created.id,
        digest=given_key.digest,
        name="name-1",
        created_ms=5,
        updated_ms=5,
        revision=1,
        description="EU agents",
        expires_at_ms=9 * DAY_MS,
        signals=given_key.signals,
        limits=KeyLimits(0, None, 3),
    )
    assert [part.records async for part in store.everything()] == [[], [created]]


async def test_keys_outlive_the_process(store: SqlStore) -> None:
    created = await store.create(_new(1), 5)
    await store.close()

    await store.open(create=False)

    assert await store.live() == [created]


async def test_a_deleted_key_leaves_a_tombstone_without_its_description(store: SqlStore) -> None:
    created = await store.create(_new(1, description="secret plans"), 5)

    deleted = await store.delete(created.id, 9)

    assert (deleted.name, deleted.deleted_at_ms, deleted.description) == ("name-1", 9, None)
    assert (deleted.revision, deleted.updated_ms) == (2, 9)
    assert await store.find(created.id) == deleted
    assert await store.live() == []


async def test_deleting_what_is_not_there_is_refused(store: SqlStore) -> None:
    created = await store.create(_new(1), 5)
    await store.delete(created.id, 20 * DAY_MS)

    with pytest.raises(KeyNotFoundError, match="already deleted on 1970-01-21"):
        await store.delete(created.id, 21 * DAY_MS)
    with pytest.raises(KeyNotFoundError, match="no key with id 12345"):
        await store.delete(12345, 1)


async def test_a_key_is_stored_once_and_the_refusal_names_it(store: SqlStore) -> None:
    created = await store.create(_new(1), 5)

    with pytest.raises(DuplicateKeyError, match=f"exists already with id {created.id}") as caught:
        await store.create(NewKey(created.digest, "other name"), 6)

    assert caught.value.key_id == created.id


async def test_a_deleted_key_is_not_taken_again_and_the_refusal_says_when(store: SqlStore) -> None:
    created = await store.create(_new(1), 5)
    await store.delete(created.id, 20 * DAY_MS)

    with pytest.raises(
        DuplicateKeyError, match=f"id {created.id} and was deleted on 1970-01-21"
    ) as caught:
        await store.create(NewKey(created.digest, "other name"), 6)

    assert caught.value.key_id == created.id


async def test_a_refusal_makes_no_revision(store: SqlStore) -> None:
    await store.create(_new(1), 5)

    with pytest.raises(DuplicateKeyError):
        await store.create(_new(1), 6)

    assert (await read_all(store)).revision == 1


async def test_names_need_not_be_unique(store: SqlStore) -> None:
    first = await store.create(NewKey(digest_of(b"a"), "same"), 1)
    second = await store.create(NewKey(digest_of(b"b"), "same"), 1)

    assert first.id != second.id


async def test_a_successor_takes_over_what_was_set_and_both_make_one_revision(
    store: SqlStore,
) -> None:
    given = _new(1, description="d", signals=frozenset({Signal.LOGS}), limits=KeyLimits(7))
    old = await store.create(given, 5)

    new, ending = await store.rotate(old.id, digest_of(b"new"), 50 * DAY_MS, 1_000, 10)

    assert (new.name, new.description, new.signals) == (old.name, old.description, old.signals)
    assert new.limits == ending.limits == KeyLimits(7)
    assert (new.expires_at_ms, new.created_ms) == (50 * DAY_MS, 10)
    assert (ending.id, ending.expires_at_ms, ending.updated_ms) == (old.id, 1_010, 10)
    assert new.revision == ending.revision == 2


async def test_rotation_never_lengthens_the_life_of_the_old_key(store: SqlStore) -> None:
    old = await store.create(_new(1, expires_at_ms=500), 5)

    _, ending = await store.rotate(old.id, digest_of(b"new"), None, 1_000, 10)

    assert ending.expires_at_ms == 500


async def test_a_deleted_key_cannot_be_rotated(store: SqlStore) -> None:
    old = await store.create(_new(1), 5)
    await store.delete(old.id, 6)

    with pytest.raises(KeyNotFoundError, match="already deleted"):
        await store.rotate(old.id, digest_of(b"new"), None, 1_000, 10)

    assert await store.live() == []


async def test_changes_are_what_happened_since_and_nothing_else(store: SqlStore) -> None:
    await store.create(_new(1), 5)
    second = await store.create(_new(2), 5)
    before = (await read_all(store)).revision
    third = await store.create(_new(3), 5)
    deleted = await store.delete(second.id, 6)

    found = await changes(store, before)

    assert found.revision == 4
    assert {record.id: record for record in found.records} == {
        third.id: third,
        second.id: deleted,
    }
    assert (await changes(store, found.revision)).records == []


async def test_nobody_follows_a_store_that_was_not_read_as_a_whole(store: SqlStore) -> None:
    created = await store.create(_new(1), 5)

    assert await store.changes(0) is None
    assert (await read_all(store)).records == [created]
    assert (await changes(store, 0)).records == [created]


async def test_a_reading_of_everything_is_of_one_moment(store: SqlStore) -> None:
    keys = [await store.create(_new(number), 5) for number in range(3)]

    parts = store.everything()
    first = await anext(parts)
    await store.delete(keys[0].id, 100)
    await store.purge(101)
    rest = [record async for part in parts for record in part.records]

    assert first.revision == 3
    assert sorted(record.id for record in rest) == sorted(key.id for key in keys)
    assert await store.changes(first.revision) is None


async def test_who_missed_a_purged_deletion_reads_everything(store: SqlStore) -> None:
    first = await store.create(_new(1), 5)
    second = await store.create(_new(2), 5)
    before = (await read_all(store)).revision
    await store.delete(first.id, 100)
    await store.purge(101)

    assert await store.changes(before) is None
    assert [record.id for record in (await read_all(store)).records] == [second.id]
    assert await store.find(first.id) is None


async def test_who_saw_the_deletion_need_not_read_everything_after_the_purge(
    store: SqlStore,
) -> None:
    first = await store.create(_new(1), 5)
    await store.delete(first.id, 100)
    before = (await read_all(store)).revision
    await store.purge(101)

    assert (await changes(store, before)).records == []


async def test_a_purge_leaves_younger_tombstones_and_live_keys(store: SqlStore) -> None:
    old, young, live = [await store.create(_new(number), 5) for number in range(3)]
    await store.delete(old.id, 100)
    await store.delete(young.id, 200)

    await store.purge(200)

    assert [await store.find(key.id) is None for key in (old, young, live)] == [True, False, False]


async def test_a_purge_with_nothing_to_do_waits_for_no_writer(store: SqlStore, path: Path) -> None:
    await store.create(_new(1), 5)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")

    await store.purge(10**15)

    writer.close()


async def test_a_restored_backup_is_read_as_a_whole(store: SqlStore, path: Path) -> None:
    first = await store.create(_new(1), 5)
    await store.close()
    backup = path.with_suffix(".backup")
    shutil.copy(path, backup)
    await store.open(create=False)
    await store.create(_new(2), 5)
    since = (await read_all(store)).revision
    await store.close()
    backup.replace(path)
    await store.open(create=False)

    assert await store.changes(since) is None
    assert (await read_all(store)).records == [first]


async def test_another_store_in_the_same_place_is_read_as_a_whole(
    store: SqlStore, path: Path, tmp_path: Path
) -> None:
    await store.create(_new(1), 5)
    since = (await read_all(store)).revision
    other = sqlite_store(tmp_path / "other.db")
    await other.open(create=True)
    foreign = [await other.create(_new(number), 5) for number in range(5, 8)]
    await other.close()
    await store.close()
    (tmp_path / "other.db").replace(path)
    await store.open(create=False)

    assert await store.changes(since) is None
    records = (await read_all(store)).records
    assert {record.id for record in records} == {record.id for record in foreign}


async def test_a_row_that_cannot_be_ours_is_reported_as_damage(store: SqlStore) -> None:
    created = await store.create(_new(1), 5)
    async with store._opened().begin() as connection:
        await connection.execute(sa.update(keys_table).values(digest=b"short"))

    with pytest.raises(StoreDamagedError, match=f"key {created.id} has 5 bytes.*backup"):
        await read_all(store)


async def test_signals_of_a_later_version_mean_nothing_here(store: SqlStore) -> None:
    created = await store.create(_new(1), 5)
    async with store._opened().begin() as connection:
        await connection.execute(sa.update(keys_table).values(signals=["logs", "smells"]))

    found = await store.find(created.id)

    assert found is not None
    assert found.signals == frozenset({Signal.LOGS})


async def test_limits_of_a_later_version_mean_nothing_here(store: SqlStore) -> None:
    created = await store.create(_new(1), 5)
    for limits, expected in (({"moons": 3, "bytes": 5}, KeyLimits(bytes=5)), ({"moons": 3}, None)):
        async with store._opened().begin() as connection:
            await connection.execute(sa.update(keys_table).values(limits=limits))

        found = await store.find(created.id)

        assert found is not None
        assert found.limits == expected
        assert (await read_all(store)).records == [found]


async def test_limits_that_are_no_numbers_are_damage(store: SqlStore) -> None:
    await store.create(_new(1), 5)
    async with store._opened().begin() as connection:
        await connection.execute(sa.update(keys_table).values(limits={"requests": "many"}))

    with pytest.raises(StoreDamagedError, match=r"no numbers.*backup"):
        await read_all(store)


async def test_a_store_that_is_not_open_says_so(path: Path) -> None:
    with pytest.raises(RuntimeError, match="not open"):
        await sqlite_store(path).live()


async def test_writers_at_the_same_time_lose_nothing_and_readers_miss_nothing(
    store: SqlStore, path: Path
) -> None:
    other = sqlite_store(path)
    await other.open(create=False)
    seen: dict[int, KeyRecord] = {}
    revisions = [(await read_all(store)).revision]

    async def write(writer: SqlStore, first: int) -> list[KeyRecord]:
        keys = [await writer.create(_new(number), 1) for number in range(first, first + 20)]
        return [await writer.delete(key.id, 2) if key.id % 2 else key for key in keys]

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
    await other.close()

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
    await store.open(create=True)
    followers = [_Follower(store), _Follower(store)]
    ids: list[int] = []
    for now_ms, (operation, number) in enumerate(operations):
        if operation == "create":
            ids.append((await store.create(NewKey(digest_of(b"%d" % now_ms), "n"), now_ms)).id)
        elif operation == "purge":
            await store.purge(now_ms - number)
        elif operation == "follow":
            await followers[number].catch_up()
        elif number < len(ids) and (await store.find(ids[number])) in await store.live():
            if operation == "delete":
                await store.delete(ids[number], now_ms)
            else:
                new, _ = await store.rotate(ids[number], digest_of(b"%d" % now_ms), None, 5, now_ms)
                ids.append(new.id)
    everything = {record.id: record for record in (await read_all(store)).records}
    for follower in followers:
        await follower.catch_up()
        # A follower forgets tombstones by time, not by being told: it may know more of them.
        extra = follower.known.keys() - everything.keys()
        assert {key: follower.known[key] for key in everything} == everything
        assert all(follower.known[key].deleted_at_ms is not None for key in extra)
    await store.close()


class _Follower:
    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._revision: int | None = None
        self.known: dict[int, KeyRecord] = {}

    async def catch_up(self) -> None:
        found = None
        if self._revision is not None:
            found = await self._store.changes(self._revision)
        if found is None:
            self.known.clear()
            found = await read_all(self._store)
        self.known.update((record.id, record) for record in found.records)
        self._revision = found.revision


async def test_the_one_row_that_orders_writers_stays_one(store: SqlStore) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        async with store._opened().begin() as connection:
            await connection.execute(
                sa.insert(store_table).values(
                    one=2, schema_version=1, store_id="x", revision=0, purged_revision=0
                )
            )
