"""The audit log, and changes of keys: what is written down, and what never is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.keys.api_key import ApiKey
from gateway.keys.audit import Action, Actor
from gateway.keys.commands import KeyCommands
from gateway.keys.errors import (
    DuplicateKeyError,
    InvalidExpiryError,
    InvalidInputError,
    KeyNotFoundError,
)
from gateway.keys.store import KeySpec, KeyUpdate
from gateway.keys.stores import sqlite_file
from gateway.keys.stores.schema import MIGRATIONS, SQLITE, migrate
from gateway.keys.stores.sql import SqlConnection
from gateway.keys.stores.sql_store import SqlStore
from gateway.keys.stores.sqlite import APPLICATION_ID, sqlite_store
from gateway.keys.times import LATEST_MS
from gateway.model import KeyLimits, Signal

NOW_MS = 1_800_000_000_000
DAY_MS = 24 * 60 * 60 * 1000
ALICE = Actor("alice", "192.0.2.7")
ADOPTED = "an-old-receiver-key-9f3b"


class Clock:
    """Unix milliseconds that the test moves."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def alice(store: SqlStore) -> KeyCommands:
    return KeyCommands(store.repository, Clock(), ALICE)


def _told(entry: Any) -> tuple[Any, ...]:
    return entry.action, entry.key_id, entry.key_name, dict(entry.changes)


async def test_every_change_is_written_down_newest_first(
    alice: KeyCommands, store: SqlStore
) -> None:
    made = (
        await alice.create(KeySpec("one", None, NOW_MS + DAY_MS, frozenset({Signal.LOGS})))
    ).record
    old = (await alice.adopt(ApiKey.adopt(ADOPTED), KeySpec("old"))).record
    await alice.update(old.id, KeyUpdate(name="older", description="d", enabled=False))
    await alice.update(made.id, KeyUpdate(signals=frozenset(Signal)))
    await alice.update(made.id, KeyUpdate(limits={"requests": 10, "bytes": 0}))
    await alice.update(made.id, KeyUpdate(limits={"requests": None, "bytes": None}))
    successor = (await alice.rotate(made.id, 5_000)).issued.record
    await alice.delete(old.id)

    assert [_told(entry) for entry in await store.repository.audit(10)] == [
        (Action.DELETE, old.id, "older", {}),
        (Action.ROTATE, made.id, "one", {"expiration": NOW_MS + 5_000, "successor": successor.id}),
        (Action.UPDATE, made.id, "one", {"limits": None}),
        (Action.UPDATE, made.id, "one", {"limits": {"requests": 10, "bytes": 0}}),
        (Action.UPDATE, made.id, "one", {"signals": None}),
        (Action.UPDATE, old.id, "older", {"name": "older", "description": "d", "enabled": False}),
        (Action.ADOPT, old.id, "old", {}),
        (Action.CREATE, made.id, "one", {"expiration": NOW_MS + DAY_MS, "signals": ["logs"]}),
    ]
    assert {(entry.by, entry.at_ms) for entry in await store.repository.audit(10)} == {
        (ALICE, NOW_MS)
    }


async def test_what_was_refused_stands_in_no_log(alice: KeyCommands, store: SqlStore) -> None:
    await alice.adopt(ApiKey.adopt(ADOPTED), KeySpec("old"))
    with pytest.raises(DuplicateKeyError):
        await alice.adopt(ApiKey.adopt(ADOPTED), KeySpec("again"))
    with pytest.raises(KeyNotFoundError):
        await alice.delete(1)
    with pytest.raises(KeyNotFoundError):
        await alice.update(1, KeyUpdate(name="x"))
    with pytest.raises(InvalidExpiryError):
        await alice.create(KeySpec("past", None, NOW_MS))

    assert [entry.action for entry in await store.repository.audit(10)] == [Action.ADOPT]


async def test_the_log_is_read_in_pages_and_by_key(alice: KeyCommands, store: SqlStore) -> None:
    first, second = [(await alice.create(KeySpec(name))).record for name in ("first", "second")]
    await alice.delete(first.id)

    newest = await store.repository.audit(2)
    rest = await store.repository.audit(2, before=newest[-1].id)

    assert [entry.key_id for entry in newest + rest] == [first.id, second.id, first.id]
    assert [entry.action for entry in await store.repository.audit(9, key_id=first.id)] == [
        Action.DELETE,
        Action.CREATE,
    ]


async def test_the_log_outlives_the_tombstone_and_never_contains_a_key(
    alice: KeyCommands, store: SqlStore
) -> None:
    issued = await alice.create(KeySpec("one"))
    adopted = await alice.adopt(ApiKey.adopt(ADOPTED), KeySpec("old"))
    rotated = await alice.rotate(adopted.record.id, 0)
    await alice.delete(issued.record.id)
    await store.feed.purge(NOW_MS + 1)

    log = await store.repository.audit(10)
    assert await store.repository.find(issued.record.id) is None
    assert Action.DELETE in {entry.action for entry in log}
    for key in (issued.key, adopted.key, rotated.issued.key):
        assert key.reveal() not in repr(log)
        assert key.digest.hex() not in repr(log)


async def test_an_update_changes_what_it_names_and_nothing_else(
    alice: KeyCommands, store: SqlStore
) -> None:
    before = (await alice.create(KeySpec("one", "text", NOW_MS + DAY_MS))).record

    signals = frozenset({Signal.TRACES, Signal.METRICS})
    limited = await alice.update(before.id, KeyUpdate(signals=signals))
    disabled = await alice.update(before.id, KeyUpdate(enabled=False))
    plain = await alice.update(before.id, KeyUpdate(description=""))

    assert (limited.signals, limited.name, limited.description) == (signals, "one", "text")
    assert (disabled.enabled, disabled.signals) == (False, signals)
    assert (plain.description, plain.enabled) == (None, False)
    assert plain.expires_at_ms == before.expires_at_ms
    assert before.revision < limited.revision < disabled.revision < plain.revision
    assert await store.feed.live() == [plain]


async def test_limits_are_changed_one_by_one(alice: KeyCommands) -> None:
    made = (await alice.create(KeySpec("one", limits=KeyLimits(requests=5)))).record

    both = await alice.update(made.id, KeyUpdate(limits={"concurrent": 2}))
    one = await alice.update(made.id, KeyUpdate(limits={"requests": None}))
    none = await alice.update(made.id, KeyUpdate(limits={"concurrent": None}))

    assert [each.limits for each in (made, both, one, none)] == [
        KeyLimits(5),
        KeyLimits(5, None, 2),
        KeyLimits(None, None, 2),
        None,
    ]
    assert (await alice.create(KeySpec("two", limits=KeyLimits()))).record.limits is None
    with pytest.raises(InvalidInputError, match="the limit bytes cannot be"):
        await alice.create(KeySpec("three", limits=KeyLimits(bytes=-1)))


async def test_all_signals_mean_those_of_later_versions_too(alice: KeyCommands) -> None:
    made = (await alice.create(KeySpec("one", signals=frozenset({Signal.LOGS})))).record
    assert made.signals == frozenset({Signal.LOGS})
    assert (await alice.update(made.id, KeyUpdate(signals=frozenset(Signal)))).signals is None
    assert (await alice.create(KeySpec("two", signals=frozenset(Signal)))).record.signals is None


@pytest.mark.parametrize(
    "update, text",
    [
        (KeyUpdate(), "nothing is to be changed"),
        (KeyUpdate(name=" "), "the name is empty"),
        (KeyUpdate(name="a\nb"), "line breaks"),
        (KeyUpdate(description="d" * 1001), "at most 1000"),
        (KeyUpdate(signals=frozenset()), "no signal is named"),
        (KeyUpdate(limits={}), "nothing is to be changed"),
        (KeyUpdate(limits={"requests": -1}), "the limit requests cannot be"),
        (KeyUpdate(limits={"bytes": 10**16}), "the limit bytes cannot be"),
        (KeyUpdate(limits={"moons": 1}), "the limit moons cannot be"),
        (KeyUpdate(name=ADOPTED), "the key itself"),
        (KeyUpdate(description=ADOPTED), "the key itself"),
        (KeyUpdate(name=ApiKey.generate().reveal()), "is a key"),
    ],
)
async def test_an_update_that_cannot_be_changes_nothing(
    alice: KeyCommands, update: KeyUpdate, text: str, store: SqlStore
) -> None:
    before = (await alice.adopt(ApiKey.adopt(ADOPTED), KeySpec("old"))).record
    with pytest.raises(InvalidInputError, match=text):
        await alice.update(before.id, update)
    assert await store.feed.live() == [before]


async def test_a_successor_does_not_expire_after_the_last_day_that_can_be_written(
    alice: KeyCommands,
) -> None:
    made = (await alice.create(KeySpec("one", None, LATEST_MS))).record
    assert (await alice.rotate(made.id, 0)).issued.record.expires_at_ms == LATEST_MS


async def test_keys_are_read_in_pages_by_id(alice: KeyCommands, store: SqlStore) -> None:
    made = sorted([(await alice.create(KeySpec(f"key {n}"))).record.id for n in range(5)])
    await alice.delete(made.pop(2))

    first = await store.feed.live(0, 3)
    second = await store.feed.live(first[-1].id, 3)

    assert [record.id for record in first + second] == made
    assert len(first) == 3


async def test_a_store_of_the_version_without_a_log_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"

    async def make_old(connection: SqlConnection) -> None:
        await migrate(connection, SQLITE, MIGRATIONS[:1])
        tables = await connection.fetch("SELECT name FROM sqlite_master WHERE type = 'table'")
        assert tables == [("gateway_key_store",), ("gateway_keys",)]

    await sqlite_file.create_file(path, APPLICATION_ID, make_old)
    store = sqlite_store(path)
    await store.feed.open(create=False)
    try:
        manager = KeyCommands(store.repository, by=ALICE)
        assert await store.repository.audit(10) == []
        made = (await manager.create(KeySpec("one"))).record
        assert [entry.key_id for entry in await store.repository.audit(10)] == [made.id]
    finally:
        await store.feed.close()
