"""Several gateways on one PostgreSQL, and what happens when it goes away."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from gateway.keys.confirmations.gateway_rows import fleet
from gateway.keys.errors import (
    AnotherStoreError,
    StoreDamagedError,
    StoreDeniedError,
    StoreError,
    StoreTooNewError,
    StoreUnavailableError,
)
from gateway.keys.following import follower, staleness
from gateway.keys.record import KeyUsage
from gateway.keys.store import Changes, KeySpec, KeyStore, NewKey
from gateway.keys.stores import postgresql, postgresql_connector, postgresql_watch
from gateway.keys.stores.postgresql import postgresql_store
from gateway.model import digest_of
from tests.support.keys import HANG_S, Workers, read_all, running_keys
from tests.support.old_schema import check_brought_up_to_date, version_2
from tests.support.polling import until
from tests.support.postgresql import PostgresqlServer

NEVER_S = 3_600.0
T = TypeVar("T")


@pytest.fixture(name="url")
async def _url(server: PostgresqlServer) -> str:
    return await server.new_database()


@asynccontextmanager
async def gateway(
    url: str, *, poll_s: float = postgresql_watch.POLL_S, **options: Any
) -> AsyncIterator[Workers]:
    """Run a gateway's key service on the database."""
    async with running_keys([postgresql_store(url, poll_s=poll_s)], **options) as workers:
        yield workers


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Connect as somebody else than a gateway."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def is_listening(url: str, count: int) -> None:
    """Wait until so many gateways listen for changes of the database."""
    async with connected(url) as connection, asyncio.timeout(HANG_S):
        # They write their rows when they listen.
        while len((await fleet(connection, 0)).confirmed) < count:
            await asyncio.sleep(0.01)


async def test_a_change_through_one_gateway_reaches_the_other_by_notification(url: str) -> None:
    async with gateway(url, poll_s=NEVER_S) as one, gateway(url, poll_s=NEVER_S) as other:
        await is_listening(url, 2)

        issued = await one.keys.commands.create(KeySpec("agent"))
        await other.until(lambda: other.accepts(issued.key.digest))
        await other.keys.commands.delete(issued.record.id)
        await one.until(lambda: not one.accepts(issued.key.digest))

        assert one.keyring == other.keyring


async def test_a_lost_notification_is_made_up_for_by_looking(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def say_nothing(*_: object) -> None:
        """Commit without a notification, as if it were lost."""

    monkeypatch.setattr(postgresql.PostgresqlDatabase, "announce", say_nothing)
    async with gateway(url, poll_s=0.05) as one, gateway(url, poll_s=0.05) as other:
        issued = await one.keys.commands.create(KeySpec("agent"))
        await other.until(lambda: other.accepts(issued.key.digest))
        await one.keys.commands.delete(issued.record.id)
        await other.until(lambda: not other.accepts(issued.key.digest))


def test_the_bounds_without_notifications_leave_room_for_the_reading() -> None:
    assert postgresql_watch.POLL_S + follower.RETRY_S <= 5.0 / 1.5


def test_the_bounds_of_an_outage_leave_room_for_connecting() -> None:
    assert postgresql_watch.OVERDUE_S <= 2.0
    assert postgresql_connector.AGAIN_S + follower.RETRY_S < 2.0


async def test_a_gateway_that_lost_its_connections_misses_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.05)
    async with gateway(url, poll_s=NEVER_S) as one, connected(url) as connection:
        await is_listening(url, 1)
        writer = postgresql_store(url)
        await writer.feed.open(create=False)
        for number in range(6):
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'otlp-gateway%' AND datname = current_database()"
            )
            digest = digest_of(b"%d" % number)
            await _insist(
                functools.partial(
                    writer.repository.create, NewKey(digest, KeySpec(f"key {number}")), 1
                )
            )
            await one.until(functools.partial(one.accepts, digest))
        await writer.feed.close()


async def _insist(what: Callable[[], Awaitable[T]]) -> T:
    """Try again until the store can be used."""
    async with asyncio.timeout(HANG_S):
        while True:
            try:
                return await what()
            except StoreUnavailableError:
                await asyncio.sleep(0.02)


async def test_a_transaction_that_commits_late_is_not_missed(url: str) -> None:
    async with gateway(url, poll_s=0.02) as one, connected(url) as connection:
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
        other = asyncio.create_task(one.keys.commands.create(KeySpec("other")))
        await _until_one_waits_for_a_lock(url)
        assert not other.done()
        assert one.keyring == {}

        await held.commit()
        issued = await other
        await one.until(lambda: one.accepts(late))

        assert one.accepts(issued.key.digest)


async def _until_one_waits_for_a_lock(url: str) -> None:
    async with connected(url) as connection, asyncio.timeout(HANG_S):
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)


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
        await postgresql_store(url).feed.open(create=False)
    assert str(caught.value).startswith(f"postgresql://{user}@127.0.0.1:")


async def test_a_user_that_may_not_make_tables_is_told_so(url: str) -> None:
    async with connected(url) as connection:
        await connection.execute("CREATE ROLE reader LOGIN")
    with pytest.raises(StoreDeniedError, match="lacks the right"):
        await postgresql_store(url.replace("postgres@", "reader@")).feed.open(create=True)


async def test_a_server_that_is_not_there_is_unavailable_and_its_password_is_not_shown() -> None:
    store = postgresql_store("postgresql://me:canary@127.0.0.1:1/keys?sslmode=disable")
    with pytest.raises(StoreUnavailableError, match="cannot be reached") as caught:
        await store.feed.open(create=True)
    assert "canary" not in str(caught.value) + store.feed.location


async def test_a_newer_schema_is_refused_and_left_alone(url: str) -> None:
    store = postgresql_store(url)
    await store.feed.open(create=True)
    await store.feed.close()
    async with connected(url) as connection:
        await connection.execute("UPDATE gateway_key_store SET schema_version = 99")

        with pytest.raises(StoreTooNewError, match=r"postgresql://.*schema version 99"):
            await store.feed.open(create=True)

        assert await connection.fetchval("SELECT schema_version FROM gateway_key_store") == 99


async def test_tables_without_tenancy_get_it_and_keep_their_keys(url: str) -> None:
    async with connected(url) as connection:
        for statement in version_2("postgresql", digest_of(b"k")):
            await connection.execute(statement)
    store = postgresql_store(url)
    await store.feed.open(create=False)
    try:
        await check_brought_up_to_date(store)
    finally:
        await store.feed.close()


async def test_gateways_that_start_at_once_make_the_tables_once(url: str) -> None:
    stores = [postgresql_store(url) for _ in range(6)]
    await asyncio.gather(*(store.feed.open(create=True) for store in stores))
    await stores[0].repository.create(NewKey(digest_of(b"a"), KeySpec("a")), 1)
    assert [len(await store.feed.live()) for store in stores] == [1] * 6
    for store in stores:
        await store.feed.close()


async def test_tables_that_were_dropped_are_damage(url: str) -> None:
    store = postgresql_store(url)
    await store.feed.open(create=True)
    async with connected(url) as connection:
        await connection.execute("DROP TABLE gateway_keys, gateway_key_store")
    with pytest.raises(StoreDamagedError, match="its tables are gone"):
        await read_all(store)
    await store.feed.close()


async def test_a_restored_backup_is_noticed_and_read_as_a_whole(url: str) -> None:
    async with gateway(url, poll_s=0.05) as one, connected(url) as connection:
        kept = await one.keys.commands.create(KeySpec("kept"))
        backup = await connection.fetch("SELECT * FROM gateway_keys")
        assert len(backup) == 1
        lost = await one.keys.commands.create(KeySpec("made after the backup"))
        assert one.accepts(lost.key.digest)

        async with connection.transaction():
            # In the order in which gateways read, or the two may wait for each other.
            await connection.execute("LOCK TABLE gateway_key_store")
            await connection.execute("LOCK TABLE gateway_keys")
            await connection.execute("CREATE TABLE saved AS SELECT * FROM gateway_keys")
            await connection.execute("CREATE TABLE head AS SELECT * FROM gateway_key_store")
            await connection.execute("TRUNCATE gateway_keys, gateway_key_store")
            await connection.execute(
                "INSERT INTO gateway_keys SELECT * FROM saved WHERE name = 'kept'"
            )
            await connection.execute("INSERT INTO gateway_key_store SELECT * FROM head")
        await one.until(lambda: not one.accepts(lost.key.digest))

        assert one.accepts(kept.key.digest)


async def test_known_keys_go_on_while_the_server_is_away_and_changes_are_told_to_wait(
    server: PostgresqlServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.05)
    async with gateway(url, poll_s=0.05) as one:
        issued = await one.keys.commands.create(KeySpec("agent"))

        server.kill()
        await one.until_status(lambda up: not up)

        assert one.accepts(issued.key.digest)
        assert not one.complete
        with pytest.raises(StoreUnavailableError):
            await one.keys.commands.create(KeySpec("while it is away"))
        with pytest.raises(StoreUnavailableError):
            await one.keys.commands.live()

        server.start()
        await one.until(lambda: one.complete)
        another = await one.keys.commands.create(KeySpec("when it is back"))
        assert one.accepts(issued.key.digest)
        assert one.accepts(another.key.digest)


async def test_keys_that_are_too_old_are_no_longer_decided_on_until_the_server_is_back(
    server: PostgresqlServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.05)
    monkeypatch.setattr(staleness, "AGE_S", 0.01)
    async with gateway(url, poll_s=0.05, max_stale_s=0) as one:
        issued = await one.keys.commands.create(KeySpec("agent"))

        server.kill()
        await one.until(lambda: issued.key.digest not in one.keyring)
        assert not one.complete
        assert one.keys.statuses()[0].suspended

        server.start()
        await one.until(lambda: one.accepts(issued.key.digest) and one.complete)


async def test_a_gateway_starts_without_its_server_and_loads_the_keys_later(
    server: PostgresqlServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.05)
    store = postgresql_store(url)
    await store.feed.open(create=True)
    created = await store.repository.create(NewKey(digest_of(b"a"), KeySpec("a")), 1)
    await store.feed.close()
    server.kill()

    async with gateway(url) as one:
        assert not one.keys.is_loaded
        assert not one.complete

        server.start()
        await one.until(lambda: one.accepts(created.digest) and one.complete)
        assert one.keys.is_loaded


async def test_a_revocation_does_not_wait_for_a_reading_of_everything(url: str) -> None:
    async with gateway(url, poll_s=0.02) as one, gateway(url) as other:
        victims = [
            await other.keys.commands.create(KeySpec(f"victim {number}")) for number in range(2)
        ]
        await one.until(lambda: all(one.accepts(each.key.digest) for each in victims))
        reading = one.keys._followers[0]
        parts = _Halting(reading.store.feed)
        reading.store = dataclasses.replace(reading.store, feed=parts)
        loading = asyncio.create_task(reading.load())
        await parts.begun.wait()

        await other.keys.commands.delete(victims[0].record.id)
        await one.until(lambda: not one.accepts(victims[0].key.digest))
        await one.keys.commands.delete(victims[1].record.id)
        assert not one.accepts(victims[1].key.digest)

        assert not loading.done()
        parts.go_on.set()
        await loading
        assert not any(one.accepts(each.key.digest) for each in victims)


class _Halting:
    """A feed whose reading of everything halts before the first keys are given."""

    def __init__(self, feed: object) -> None:
        self._feed: Any = feed
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._feed, name)

    async def everything(self) -> AsyncGenerator[Changes, None]:
        parts = [part async for part in self._feed.everything()]
        yield parts[0]
        self.begun.set()
        await self.go_on.wait()
        for part in parts[1:]:
            yield part


async def test_usage_of_several_gateways_adds_up_and_survives_a_crash(
    server: PostgresqlServer, url: str
) -> None:
    async with gateway(url) as one, gateway(url) as other:
        issued = await one.keys.commands.create(KeySpec("agent"))
        key_id = issued.record.key_id
        await other.until(lambda: other.accepts(issued.key.digest))
        for turn in range(3):
            for keys in (one.keys, other.keys):
                keys.note_usage(
                    key_id, allowed=True, requests=2, body_bytes=10, last_used_ms=100 + turn
                )
                keys.note_usage(key_id, allowed=False, requests=1, body_bytes=0, last_used_ms=0)
            if turn == 1:
                server.kill()
            for keys in (one.keys, other.keys):
                await keys.usage.flush()
            server.start()
        await asyncio.gather(*(keys.usage.flush() for keys in (one.keys, other.keys)))

        sums = await one.keys.usage.sums([key_id])

    assert sums == {key_id: KeyUsage(requests=12, bytes=60, refusals=6, last_used_ms=102)}
    again = postgresql_store(url).usage
    await again.open(create=False)
    assert (await again.load())[key_id].requests == 12
    await again.close()


async def test_usage_is_written_in_one_statement_for_all_keys(url: str) -> None:
    async with gateway(url) as one:
        keeper = postgresql_store(url).usage
        await keeper.open(create=True)
        await keeper.add({f"{number}": KeyUsage(1, 1, 0, 5) for number in range(3_000)})
        await keeper.add({f"{number}": KeyUsage(1, 1, 0, 4) for number in reversed(range(3_000))})

        sums = await keeper.load()

        assert set(sums.values()) == {KeyUsage(2, 2, 0, 5)}
        assert len(sums) == 3_000
        assert one.keyring == {}
        await keeper.close()


async def test_the_parameters_of_libpq_are_used(server: PostgresqlServer, url: str) -> None:
    await server.execute(url, "CREATE SCHEMA elsewhere")
    parameters = (
        "options=-c%20search_path%3Delsewhere&application_name=eu&connect_timeout=9"
        "&channel_binding=prefer&sslmode=prefer"
    )
    store = postgresql_store(f"{url}?{parameters}")
    await store.feed.open(create=True)
    created = await store.repository.create(NewKey(digest_of(b"a"), KeySpec("a")), 1)

    async with connected(url) as connection:
        assert await connection.fetchval("SELECT id FROM elsewhere.gateway_keys") == created.id
        names = await connection.fetch(
            "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
        )
    assert "eu" in {row[0] for row in names}
    await store.feed.close()


async def test_a_file_that_went_away_is_named_in_words(url: str) -> None:
    store = postgresql_store(f"{url}?sslmode=verify-ca&sslrootcert=/no/ca.crt")
    with pytest.raises(StoreUnavailableError, match=r"a file that its url .* is missing"):
        await store.feed.open(create=True)


async def test_a_value_that_the_driver_refuses_is_named_in_words(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "wrong")
    with pytest.raises(StoreDeniedError, match="its url cannot be used; correct it"):
        await postgresql_store(url).feed.open(create=True)


async def test_another_store_at_the_next_start_is_an_error_and_known_keys_go_on(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.05)
    async with gateway(url, state_dir=tmp_path) as one:
        known = await one.keys.commands.create(KeySpec("known"))
    async with connected(url) as connection:
        await connection.execute("DROP TABLE gateway_key_store, gateway_keys, gateway_key_audit")
    async with gateway(url) as stranger:  # makes another store
        await stranger.keys.commands.create(KeySpec("another"))
        before = (await read_all(postgresql_store_of(stranger))).revision

        async with gateway(url, state_dir=tmp_path) as one:
            (status,) = one.keys.statuses()
            (file,) = tmp_path.glob("keys-postgresql-*.store")
            assert f"remove {file} and restart the gateway" in (status.error or "")
            await until(lambda: set(one.keyring) == {known.key.digest})
            assert not one.complete
            with pytest.raises(AnotherStoreError):
                await one.keys.commands.create(KeySpec("lost"))
            await one.until(lambda: status.errors["foreign"] > 2)
            assert set(one.keyring) == {known.key.digest}
        assert (await read_all(postgresql_store_of(stranger))).revision == before

        file.unlink()
        async with gateway(url, state_dir=tmp_path) as one:
            assert one.complete
            assert known.key.digest not in one.keyring


def postgresql_store_of(workers: Workers) -> KeyStore:
    return workers.keys._followers[0].store


async def test_tables_that_are_gone_at_the_next_start_are_not_made_anew(
    url: str, tmp_path: Path
) -> None:
    async with gateway(url, state_dir=tmp_path) as one:
        known = await one.keys.commands.create(KeySpec("known"))
    async with connected(url) as connection:
        await connection.execute("DROP TABLE gateway_key_store, gateway_keys, gateway_key_audit")

        async with gateway(url, state_dir=tmp_path) as one:
            assert set(one.keyring) == {known.key.digest}
            assert "to use a new one" in (one.keys.statuses()[0].error or "")
        assert await connection.fetchval("SELECT to_regclass('gateway_key_store')") is None
