"""What SQL stores hold and say. The same tests run on PostgreSQL:
tests/integration/test_sql_on_postgresql.py.
"""

from __future__ import annotations

import json
import sqlite3

import asyncpg
import pytest

from gateway.keys.errors import DuplicateKeyError, KeyNotFoundError, StoreDamagedError
from gateway.keys.record import KeyRecord
from gateway.keys.store import ImportedKey, KeySpec, KeyUpdate, NewKey
from gateway.keys.stores.sql_store import SqlStore
from gateway.keys.tenancy import TenancyUpdate, tenancy, tenancy_as_json
from gateway.model import KeyLimits, Signal, digest_of
from tests.support.keys import changes, read_all

DAY_MS = 86_400_000


def _new(number: int, **more: object) -> NewKey:
    return NewKey(digest_of(b"key %d" % number), KeySpec(f"name-{number}", **more))  # type: ignore[arg-type]  # by field names


async def test_a_created_key_is_read_back_as_it_was_given(store: SqlStore) -> None:
    given_key = _new(
        1,
        description="EU agents",
        expires_at_ms=9 * DAY_MS,
        signals=frozenset({Signal.LOGS, Signal.TRACES}),
        limits=KeyLimits(requests=0, concurrent=3),
    )

    created = await store.repository.create(given_key, 5)

    assert await store.repository.find(created.id) == created
    assert created == KeyRecord(
        id=created.id,
        digest=given_key.digest,
        name="name-1",
        created_ms=5,
        updated_ms=5,
        revision=1,
        description="EU agents",
        expires_at_ms=9 * DAY_MS,
        signals=given_key.spec.signals,
        limits=KeyLimits(0, None, 3),
    )
    assert [part.records async for part in store.feed.everything()] == [[], [created]]


async def test_keys_outlive_the_process(store: SqlStore) -> None:
    created = await store.repository.create(_new(1), 5)
    await store.feed.close()

    await store.feed.open(create=False)

    assert await store.feed.live() == [created]


async def test_a_deleted_key_leaves_a_tombstone_without_its_description(store: SqlStore) -> None:
    created = await store.repository.create(_new(1, description="secret plans"), 5)

    deleted = await store.repository.delete(created.id, 9)

    assert (deleted.name, deleted.deleted_at_ms, deleted.description) == ("name-1", 9, None)
    assert (deleted.revision, deleted.updated_ms) == (2, 9)
    assert await store.repository.find(created.id) == deleted
    assert await store.feed.live() == []


async def test_deleting_what_is_not_there_is_refused(store: SqlStore) -> None:
    created = await store.repository.create(_new(1), 5)
    await store.repository.delete(created.id, 20 * DAY_MS)

    with pytest.raises(KeyNotFoundError, match="already deleted on 1970-01-21"):
        await store.repository.delete(created.id, 21 * DAY_MS)
    with pytest.raises(KeyNotFoundError, match="no key with id 12345"):
        await store.repository.delete(12345, 1)


async def test_a_key_is_stored_once_and_the_refusal_names_it(store: SqlStore) -> None:
    created = await store.repository.create(_new(1), 5)

    with pytest.raises(DuplicateKeyError, match=f"exists already with id {created.id}") as caught:
        await store.repository.create(NewKey(created.digest, KeySpec("other name")), 6)

    assert caught.value.key_id == created.id


async def test_a_deleted_key_is_not_taken_again_and_the_refusal_says_when(store: SqlStore) -> None:
    created = await store.repository.create(_new(1), 5)
    await store.repository.delete(created.id, 20 * DAY_MS)

    with pytest.raises(
        DuplicateKeyError, match=f"id {created.id} and was deleted on 1970-01-21"
    ) as caught:
        await store.repository.create(NewKey(created.digest, KeySpec("other name")), 6)

    assert caught.value.key_id == created.id


async def test_a_refusal_makes_no_revision(store: SqlStore) -> None:
    await store.repository.create(_new(1), 5)

    with pytest.raises(DuplicateKeyError):
        await store.repository.create(_new(1), 6)

    assert (await read_all(store)).revision == 1


async def test_names_need_not_be_unique(store: SqlStore) -> None:
    first = await store.repository.create(NewKey(digest_of(b"a"), KeySpec("same")), 1)
    second = await store.repository.create(NewKey(digest_of(b"b"), KeySpec("same")), 1)

    assert first.id != second.id


async def test_a_successor_takes_over_what_was_set_and_both_make_one_revision(
    store: SqlStore,
) -> None:
    given = _new(1, description="d", signals=frozenset({Signal.LOGS}), limits=KeyLimits(7))
    old = await store.repository.create(given, 5)

    new, ending = await store.repository.rotate(old.id, digest_of(b"new"), 50 * DAY_MS, 1_000, 10)

    assert (new.name, new.description, new.signals) == (old.name, old.description, old.signals)
    assert new.limits == ending.limits == KeyLimits(7)
    assert (new.expires_at_ms, new.created_ms) == (50 * DAY_MS, 10)
    assert (ending.id, ending.expires_at_ms, ending.updated_ms) == (old.id, 1_010, 10)
    assert new.revision == ending.revision == 2


async def test_rotation_never_lengthens_the_life_of_the_old_key(store: SqlStore) -> None:
    old = await store.repository.create(_new(1, expires_at_ms=500), 5)

    _, ending = await store.repository.rotate(old.id, digest_of(b"new"), None, 1_000, 10)

    assert ending.expires_at_ms == 500


async def test_a_deleted_key_cannot_be_rotated(store: SqlStore) -> None:
    old = await store.repository.create(_new(1), 5)
    await store.repository.delete(old.id, 6)

    with pytest.raises(KeyNotFoundError, match="already deleted"):
        await store.repository.rotate(old.id, digest_of(b"new"), None, 1_000, 10)

    assert await store.feed.live() == []


async def test_changes_are_what_happened_since_and_nothing_else(store: SqlStore) -> None:
    await store.repository.create(_new(1), 5)
    second = await store.repository.create(_new(2), 5)
    before = (await read_all(store)).revision
    third = await store.repository.create(_new(3), 5)
    deleted = await store.repository.delete(second.id, 6)

    found = await changes(store, before)

    assert found.revision == 4
    assert {record.id: record for record in found.records} == {
        third.id: third,
        second.id: deleted,
    }
    assert (await changes(store, found.revision)).records == []


async def test_nobody_follows_a_store_that_was_not_read_as_a_whole(store: SqlStore) -> None:
    created = await store.repository.create(_new(1), 5)

    assert await store.feed.changes(0) is None
    assert (await read_all(store)).records == [created]
    assert (await changes(store, 0)).records == [created]


async def test_a_reading_of_everything_is_of_one_moment(store: SqlStore) -> None:
    keys = [await store.repository.create(_new(number), 5) for number in range(3)]

    parts = store.feed.everything()
    first = await anext(parts)
    await store.repository.delete(keys[0].id, 100)
    await store.feed.purge(101)
    rest = [record async for part in parts for record in part.records]

    assert first.revision == 3
    assert sorted(record.id for record in rest) == sorted(key.id for key in keys)
    assert await store.feed.changes(first.revision) is None


async def test_who_missed_a_purged_deletion_reads_everything(store: SqlStore) -> None:
    first = await store.repository.create(_new(1), 5)
    second = await store.repository.create(_new(2), 5)
    before = (await read_all(store)).revision
    await store.repository.delete(first.id, 100)
    await store.feed.purge(101)

    assert await store.feed.changes(before) is None
    assert [record.id for record in (await read_all(store)).records] == [second.id]
    assert await store.repository.find(first.id) is None


async def test_who_saw_the_deletion_need_not_read_everything_after_the_purge(
    store: SqlStore,
) -> None:
    first = await store.repository.create(_new(1), 5)
    await store.repository.delete(first.id, 100)
    before = (await read_all(store)).revision
    await store.feed.purge(101)

    assert (await changes(store, before)).records == []


async def test_a_purge_leaves_younger_tombstones_and_live_keys(store: SqlStore) -> None:
    old, young, live = [await store.repository.create(_new(number), 5) for number in range(3)]
    await store.repository.delete(old.id, 100)
    await store.repository.delete(young.id, 200)

    await store.feed.purge(200)

    assert [await store.repository.find(key.id) is None for key in (old, young, live)] == [
        True,
        False,
        False,
    ]


async def test_a_row_that_cannot_be_ours_is_reported_as_damage(store: SqlStore) -> None:
    created = await store.repository.create(_new(1), 5)
    async with store.feed._transactions.engine.writing() as connection:
        await connection.execute("UPDATE gateway_keys SET digest = $1", b"short")

    with pytest.raises(StoreDamagedError, match=f"key {created.id} has 5 bytes.*backup"):
        await read_all(store)


async def test_signals_of_a_later_version_mean_nothing_here(store: SqlStore) -> None:
    created = await store.repository.create(_new(1), 5)
    async with store.feed._transactions.engine.writing() as connection:
        await connection.execute("UPDATE gateway_keys SET signals = $1", '["logs", "smells"]')

    found = await store.repository.find(created.id)

    assert found is not None
    assert found.signals == frozenset({Signal.LOGS})


async def test_limits_of_a_later_version_mean_nothing_here(store: SqlStore) -> None:
    created = await store.repository.create(_new(1), 5)
    for limits, expected in (({"moons": 3, "bytes": 5}, KeyLimits(bytes=5)), ({"moons": 3}, None)):
        async with store.feed._transactions.engine.writing() as connection:
            await connection.execute("UPDATE gateway_keys SET limits = $1", json.dumps(limits))

        found = await store.repository.find(created.id)

        assert found is not None
        assert found.limits == expected
        assert (await read_all(store)).records == [found]


async def test_limits_that_are_no_numbers_are_damage(store: SqlStore) -> None:
    await store.repository.create(_new(1), 5)
    async with store.feed._transactions.engine.writing() as connection:
        await connection.execute("UPDATE gateway_keys SET limits = $1", '{"requests": "many"}')

    with pytest.raises(StoreDamagedError, match=r"no numbers.*backup"):
        await read_all(store)


async def test_the_one_row_that_orders_writers_stays_one(store: SqlStore) -> None:
    with pytest.raises((sqlite3.IntegrityError, asyncpg.CheckViolationError)):
        async with store.feed._transactions.engine.writing() as connection:
            await connection.execute("INSERT INTO gateway_key_store VALUES (2, 1, 'x', 0, 0)")


async def test_a_key_s_tenancy_is_kept_by_everything_that_copies_it(store: SqlStore) -> None:
    given = tenancy("team-a", {"team": "a"}, {"X-Scope-OrgID": "team-a"})
    old = await store.repository.create(_new(1, tenancy=given), 5)
    await store.repository.create(_new(2), 5)

    new, ending = await store.repository.rotate(old.id, digest_of(b"new"), None, 1_000, 10)
    disabled = await store.repository.update(new.id, KeyUpdate(enabled=False), 11)
    deleted = await store.repository.delete(new.id, 12)

    assert {each.tenancy for each in (old, new, ending, disabled, deleted)} == {given}
    read = {record.id: record for record in (await read_all(store)).records}
    assert [read[each.id].tenancy for each in (new, ending)] == [given, given]
    assert [type(record) for record in read.values()].count(KeyRecord) == 1
    assert {record.tenancy for record in (await changes(store, 1)).records} == {None, given}


async def test_tenancy_is_changed_by_name_and_taken_away(store: SqlStore) -> None:
    made = await store.repository.create(_new(1), 5)

    async def change(update: TenancyUpdate) -> dict[str, object]:
        record = await store.repository.update(made.id, KeyUpdate(tenancy=update), 6)
        assert await store.repository.find(made.id) == record
        return tenancy_as_json(record.tenancy)

    assert await change(TenancyUpdate("o", {"team": "a"}, {"X-T": "1"})) == {
        "owner": "o",
        "labels": {"team": "a"},
        "headers": {"X-T": "1"},
    }
    assert await change(TenancyUpdate(labels={"env": "e"}, headers={"x_t": None})) == {
        "owner": "o",
        "labels": {"env": "e", "team": "a"},
    }
    assert await change(TenancyUpdate("", replaced=frozenset({"labels"}))) == {}
    log = [dict(entry.changes) for entry in await store.repository.audit(3)]
    assert log == [
        {"owner": None, "labels": None},
        {"labels": {"env": "e", "team": "a"}, "headers": None},
        {"owner": "o", "labels": {"team": "a"}, "headers": {"X-T": "1"}},
    ]


async def test_what_nobody_wrote_as_a_tenancy_is_damage(store: SqlStore) -> None:
    await store.repository.create(_new(1), 5)
    async with store.feed._transactions.engine.writing() as connection:
        await connection.execute("UPDATE gateway_keys SET tenancy = $1", '{"labels": [1]}')

    with pytest.raises(StoreDamagedError, match="makes no sense"):
        await store.feed.live()

    async with store.feed._transactions.engine.writing() as connection:
        injected = json.dumps({"headers": {"X-Tenant": "a\r\nX-Other: b"}})
        await connection.execute("UPDATE gateway_keys SET tenancy = $1", injected)

    with pytest.raises(StoreDamagedError, match="X-Tenant cannot be sent") as caught:
        await store.feed.live()
    assert str(caught.value).isprintable()


def _imported(number: int, key_id: int | None = None, **more: object) -> ImportedKey:
    new = _new(number, **more)
    return ImportedKey(new.digest, new.spec, key_id, enabled=number % 2 == 0)


async def test_many_keys_are_stored_at_once_each_with_a_revision(store: SqlStore) -> None:
    there = await store.repository.create(_new(2), 5)
    given = tenancy("o", {"team": "a"}, {})
    many = [_imported(1, 11), _imported(2), _imported(3, tenancy=given, limits=KeyLimits(5))]
    many += [_imported(number) for number in range(4, 60)]

    added = await store.repository.add_all(many, 9)

    assert [record.name for record in added] == ["name-1", "name-3"] + [
        f"name-{number}" for number in range(4, 60)
    ]
    assert (added[0].id, added[0].enabled, added[1].tenancy) == (11, False, given)
    everything = await read_all(store)
    assert {record.id: record for record in everything.records} == {
        record.id: record for record in (there, *added)
    }
    assert everything.revision == added[-1].revision
    assert len({record.revision for record in everything.records}) == len(everything.records)
    log = await store.repository.audit(100)
    assert [entry.key_id for entry in log] == [each.id for each in (*added[::-1], there)]
    assert dict(log[-3].changes) == {"limits": {"requests": 5}, **tenancy_as_json(given)}
    known = await store.repository.known([there.digest], [11])
    assert {record.id for record in known} == {11, there.id}


async def test_of_keys_that_cannot_all_be_stored_none_is(store: SqlStore) -> None:
    there = await store.repository.create(_new(1), 5)

    with pytest.raises(DuplicateKeyError, match=f"the id {there.id} is another key's"):
        await store.repository.add_all([_imported(2), _imported(3, there.id)], 9)

    assert [record.id for record in (await read_all(store)).records] == [there.id]
    assert (await read_all(store)).revision == 1
