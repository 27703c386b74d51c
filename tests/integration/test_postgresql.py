"""Several gateways on one PostgreSQL, and what happens when it goes away."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

import asyncpg
import pytest

from gateway.keys import postgresql, source
from gateway.keys.errors import (
    StoreDamagedError,
    StoreDeniedError,
    StoreError,
    StoreTooNewError,
    StoreUnavailableError,
)
from gateway.keys.postgresql import postgresql_store
from gateway.keys.record import KeyDelta
from gateway.keys.service import KeyService
from gateway.keys.store import NewKey
from gateway.model import KeyState, Principal, digest_of
from tests.support.postgresql import PostgresqlServer, postgresql_server
from tests.unit.keys.conftest import read_all

HANG_S = 60.0
"""Long enough for anything; a test that waits so long has failed."""
NEVER_S = 3_600.0
T = TypeVar("T")


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[PostgresqlServer]:
    with postgresql_server() as server:
        yield server


@pytest.fixture(name="url")
async def _url(server: PostgresqlServer) -> str:
    server.start()
    return await server.new_database()


class Workers:
    """Apply what a service says, as its workers' keyrings do."""

    def __init__(self, keys: KeyService) -> None:
        self.keys = keys
        self.revision, entries, self.complete = keys.snapshot()
        self.keyring: dict[bytes, Principal] = dict(entries)
        self._changed = asyncio.Event()
        keys.subscribe(self._apply)

    def _apply(self, delta: KeyDelta) -> None:
        self.revision, self.complete = delta.revision, delta.complete
        self.keyring.update(delta.upserts)
        for digest in delta.removals:
            del self.keyring[digest]
        self._changed.set()

    def accepts(self, digest: bytes) -> bool:
        return digest in self.keyring and self.keyring[digest].state == KeyState.ACTIVE

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(HANG_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def gateway(url: str, **options: float) -> AsyncIterator[Workers]:
    """Run a gateway's key service on the database."""
    keys = KeyService([postgresql_store(url, **options)], tombstones_s=1_000)
    await keys.start()
    tasks = [asyncio.ensure_future(run()) for run in keys.background().values()]
    try:
        yield Workers(keys)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await keys.close()


async def is_listening(url: str, count: int) -> None:
    """Wait until so many gateways listen for changes of the database."""
    connection = await asyncpg.connect(url)
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = $1"
    )
    try:
        async with asyncio.timeout(HANG_S):
            while await connection.fetchval(query, postgresql._IDENTITY) < count:
                await asyncio.sleep(0.01)
    finally:
        await connection.close()


async def test_a_change_through_one_gateway_reaches_the_other_by_notification(url: str) -> None:
    async with gateway(url, poll_s=NEVER_S) as one, gateway(url, poll_s=NEVER_S) as other:
        await is_listening(url, 2)

        issued = await one.keys.create("agent")
        await other.until(lambda: other.accepts(issued.key.digest))
        await other.keys.delete(issued.record.id)
        await one.until(lambda: not one.accepts(issued.key.digest))

        assert one.keyring == other.keyring


async def test_a_lost_notification_is_made_up_for_by_looking(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def say_nothing(*_: object) -> None:
        """Commit without a notification, as if it were lost."""

    monkeypatch.setattr(postgresql.PostgresqlDatabase, "announce", say_nothing)
    async with gateway(url, poll_s=0.05) as one, gateway(url, poll_s=0.05) as other:
        issued = await one.keys.create("agent")
        await other.until(lambda: other.accepts(issued.key.digest))
        await one.keys.delete(issued.record.id)
        await other.until(lambda: not other.accepts(issued.key.digest))


def test_the_bounds_without_notifications_leave_room_for_the_reading() -> None:
    assert postgresql.POLL_S + source.RETRY_S <= 5.0 / 1.5


async def test_a_gateway_that_lost_its_connections_misses_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "RETRY_S", 0.05)
    async with gateway(url, poll_s=NEVER_S) as one:
        await is_listening(url, 1)
        connection = await asyncpg.connect(url)
        writer = postgresql_store(url)
        await writer.open(create=False)
        for number in range(6):
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'otlp-gateway' AND datname = current_database()"
            )
            digest = digest_of(b"%d" % number)
            await _insist(functools.partial(writer.create, NewKey(digest, f"key {number}"), 1))
            await one.until(functools.partial(one.accepts, digest))
        await writer.close()
        await connection.close()


async def _insist(what: Callable[[], Awaitable[T]]) -> T:
    """Try again until the store can be used."""
    async with asyncio.timeout(HANG_S):
        while True:
            try:
                return await what()
            except StoreUnavailableError:
                await asyncio.sleep(0.02)


async def test_a_transaction_that_commits_late_is_not_missed(url: str) -> None:
    async with gateway(url, poll_s=0.02) as one:
        connection = await asyncpg.connect(url)
        held = connection.transaction()
        await held.start()
        revision = await connection.fetchval(
            "UPDATE gateway_key_store SET revision = revision + 1 RETURNING revision"
        )
        late = digest_of(b"late")
        await connection.execute(
            "INSERT INTO gateway_keys (id, digest, name, created_ms, updated_ms, enabled, revision)"
            " VALUES (1, $1, 'late', 1, 1, true, $2)",
            late,
            revision,
        )
        # Another writer waits for the row: no revision can become visible before this one.
        other = asyncio.create_task(one.keys.create("other"))
        await _until_one_waits_for_a_lock(url)
        assert not other.done()
        assert one.keyring == {}

        await held.commit()
        issued = await other
        await one.until(lambda: one.accepts(late))

        assert one.accepts(issued.key.digest)
        await connection.close()


async def _until_one_waits_for_a_lock(url: str) -> None:
    connection = await asyncpg.connect(url)
    async with asyncio.timeout(HANG_S):
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
    await connection.close()


@pytest.mark.parametrize(
    "database, user, error, message",
    [
        ("nowhere", "postgres", StoreDeniedError, "there is no such database"),
        ("postgres", "stranger", StoreDeniedError, "it refuses the user"),
        ("postgres", "postgres", StoreUnavailableError, "no key store in this database"),
    ],
)
async def test_a_database_that_cannot_be_used_says_why(
    server: PostgresqlServer, database: str, user: str, error: type[StoreError], message: str
) -> None:
    server.start()
    url = server.url(database, user)
    with pytest.raises(error, match=message) as caught:
        await postgresql_store(url).open(create=False)
    assert str(caught.value).startswith(f"postgresql://{user}@127.0.0.1:")


async def test_a_user_that_may_not_make_tables_is_told_so(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE ROLE reader LOGIN")
    await connection.close()
    with pytest.raises(StoreDeniedError, match="lacks the right"):
        await postgresql_store(url.replace("postgres@", "reader@")).open(create=True)


async def test_a_server_that_is_not_there_is_unavailable_and_its_password_is_not_shown() -> None:
    store = postgresql_store("postgresql://me:canary@127.0.0.1:1/keys?sslmode=disable")
    with pytest.raises(StoreUnavailableError, match="cannot be reached") as caught:
        await store.open(create=True)
    assert "canary" not in str(caught.value) + store.location


async def test_a_newer_schema_is_refused_and_left_alone(url: str) -> None:
    store = postgresql_store(url)
    await store.open(create=True)
    await store.close()
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE gateway_key_store SET schema_version = 99")

    with pytest.raises(StoreTooNewError, match=r"postgresql://.*schema version 99"):
        await store.open(create=True)

    assert await connection.fetchval("SELECT schema_version FROM gateway_key_store") == 99
    await connection.close()


async def test_gateways_that_start_at_once_make_the_tables_once(url: str) -> None:
    stores = [postgresql_store(url) for _ in range(6)]
    await asyncio.gather(*(store.open(create=True) for store in stores))
    await stores[0].create(NewKey(digest_of(b"a"), "a"), 1)
    assert [len(await store.live()) for store in stores] == [1] * 6
    for store in stores:
        await store.close()


async def test_tables_that_were_dropped_are_damage(url: str) -> None:
    store = postgresql_store(url)
    await store.open(create=True)
    connection = await asyncpg.connect(url)
    await connection.execute("DROP TABLE gateway_keys, gateway_key_store")
    await connection.close()
    with pytest.raises(StoreDamagedError, match="its tables are gone"):
        await read_all(store)
    await store.close()


async def test_a_restored_backup_is_noticed_and_read_as_a_whole(url: str) -> None:
    async with gateway(url, poll_s=0.05) as one:
        kept = await one.keys.create("kept")
        connection = await asyncpg.connect(url)
        backup = await connection.fetch("SELECT * FROM gateway_keys")
        assert len(backup) == 1
        lost = await one.keys.create("made after the backup")
        assert one.accepts(lost.key.digest)

        async with connection.transaction():
            await connection.execute("CREATE TABLE saved AS SELECT * FROM gateway_keys")
            await connection.execute("CREATE TABLE head AS SELECT * FROM gateway_key_store")
            await connection.execute("TRUNCATE gateway_keys, gateway_key_store")
            await connection.execute(
                "INSERT INTO gateway_keys SELECT * FROM saved WHERE name = 'kept'"
            )
            await connection.execute("INSERT INTO gateway_key_store SELECT * FROM head")
        await one.until(lambda: not one.accepts(lost.key.digest))

        assert one.accepts(kept.key.digest)
        await connection.close()
