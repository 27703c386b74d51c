"""A PostgreSQL that neither answers nor hangs up: its network is down."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest

from gateway.keys.errors import StoreUnavailableError
from gateway.keys.following import follower
from gateway.keys.store import KeySpec
from gateway.keys.stores import postgresql_connector, postgresql_engine, postgresql_watch
from gateway.keys.stores.postgresql import postgresql_store
from tests.support.keys import HANG_S, Workers, running_keys
from tests.support.network import Network, network_to
from tests.support.postgresql import PostgresqlServer

NEVER_S = 3_600.0
_LOCKED_OUT = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@pytest.fixture(name="network")
async def _network(server: PostgresqlServer) -> AsyncIterator[Network]:
    async with network_to(server.port) as network:
        yield network


@pytest.fixture(name="url")
async def _url(server: PostgresqlServer, network: Network) -> str:
    url = await server.new_database()
    return url.replace(f":{server.port}/", f":{network.entrance}/")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for what is lost waits for ever."""
    monkeypatch.setattr(postgresql_connector, "COMMAND_TIMEOUT_S", NEVER_S)
    monkeypatch.setattr(postgresql_connector, "CONNECT_TIMEOUT_S", NEVER_S)
    monkeypatch.setattr(follower, "RETRY_S", 0.05)
    monkeypatch.setattr(postgresql_connector, "ANSWER_S", 0.5)
    monkeypatch.setattr(postgresql_watch, "OVERDUE_S", 0.5)


async def _until_it_listens(url: str, revision: int) -> None:
    """Wait until the gateway answers who asks."""
    confirmations = postgresql_store(url).confirmations
    async with asyncio.timeout(HANG_S):
        while not (await confirmations.wait(revision, HANG_S)).confirmed:
            await asyncio.sleep(0.02)


async def test_unknown_keys_are_undecided_soon_and_decided_on_again_when_it_is_back(
    network: Network, url: str
) -> None:
    async with running_keys([postgresql_store(url, poll_s=0.1)]) as one:
        issued = await one.keys.commands.create(KeySpec("agent"))
        assert one.complete
        await _until_it_listens(url, issued.record.revision)

        network.cut()
        await one.until(lambda: not one.complete)
        assert one.accepts(issued.key.digest)

        network.mend()
        await one.until(lambda: one.complete)
        another = await one.keys.commands.create(KeySpec("when it is back"))
        assert one.accepts(issued.key.digest)
        assert one.accepts(another.key.digest)


async def test_who_reads_is_told_soon(network: Network, url: str) -> None:
    async with running_keys([postgresql_store(url, poll_s=NEVER_S)]) as one:
        issued = await one.keys.commands.create(KeySpec("agent"))
        await _until_it_listens(url, issued.record.revision)

        network.cut()
        async with asyncio.timeout(HANG_S):
            with pytest.raises(StoreUnavailableError):
                await one.keys.commands.live()

        assert one.accepts(issued.key.digest)


async def test_the_timeout_in_the_url_ends_an_attempt(network: Network, url: str) -> None:
    network.cut()
    async with asyncio.timeout(HANG_S):
        with pytest.raises(StoreUnavailableError, match="does not answer in time"):
            await postgresql_store(f"{url}?connect_timeout=1").feed.open(create=True)


async def test_connections_that_died_without_a_word_are_made_anew(
    network: Network, url: str
) -> None:
    async with (
        running_keys([postgresql_store(url, poll_s=0.1)]) as one,
        running_keys([postgresql_store(url, poll_s=0.1)]) as other,
    ):
        issued = await one.keys.commands.create(KeySpec("agent"))
        await other.until(lambda: other.accepts(issued.key.digest))
        _use(one, issued.record.key_id)
        await one.keys.usage.flush()

        network.cut()  # what is open dies, as a firewall lets it
        network.mend()
        async with asyncio.timeout(HANG_S):
            another = await one.keys.commands.create(KeySpec("another"))
            await other.until(lambda: other.accepts(another.key.digest))
            _use(one, issued.record.key_id)
            await one.keys.usage.flush()
            await other.keys.commands.delete(issued.record.id)
            await one.until(lambda: not one.accepts(issued.key.digest))
            sums = await other.keys.usage.sums([issued.record.key_id])

    assert sums[issued.record.key_id].requests == 2
    assert (one.problems, other.problems) == ([], [])


async def test_a_connection_that_died_alone_is_not_used(
    network: Network, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_watch, "OVERDUE_S", NEVER_S)  # nobody else notices
    async with running_keys([postgresql_store(url, poll_s=NEVER_S)]) as one:
        issued = await one.keys.commands.create(KeySpec("agent"))
        await _until_it_listens(url, issued.record.revision)  # and does not look before it is woken

        network.cut()
        network.mend()
        async with asyncio.timeout(HANG_S):
            await one.keys.commands.create(KeySpec("another"))
            assert len(await one.keys.commands.live()) == 2


async def test_what_runs_over_a_new_connection_goes_on_while_old_ones_are_found_dead(
    server: PostgresqlServer, network: Network, url: str
) -> None:
    direct = url.replace(f":{network.entrance}/", f":{server.port}/")
    async with (
        running_keys([postgresql_store(url, poll_s=NEVER_S)]) as one,
        _connected(direct) as holder,
        _connected(direct) as watcher,
    ):
        issued = await one.keys.commands.create(KeySpec("agent"))
        await _until_it_listens(url, issued.record.revision)
        await holder.execute("BEGIN; LOCK TABLE gateway_keys IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(one.keys.commands.live())
        await _until_locked_out(watcher, 1)

        network.cut()
        network.mend()
        creating = asyncio.create_task(one.keys.commands.create(KeySpec("another")))
        await _until_locked_out(watcher, 2)  # over a new connection
        async with asyncio.timeout(HANG_S):
            with pytest.raises(StoreUnavailableError):
                await reading
            await holder.execute("COMMIT")
            another = await creating

        assert one.accepts(another.key.digest)


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()


async def _until_locked_out(connection: asyncpg.Connection[asyncpg.Record], count: int) -> None:
    """Wait until so many of the database's connections wait for a lock."""
    async with asyncio.timeout(HANG_S):
        while await connection.fetchval(_LOCKED_OUT) < count:
            await asyncio.sleep(0.01)


def _use(gateway: Workers, key_id: str) -> None:
    gateway.keys.note_usage(key_id, allowed=True, requests=1, body_bytes=1, last_used_ms=1)


def test_a_dead_connection_is_noticed_within_five_seconds() -> None:
    assert postgresql_watch.POLL_S + postgresql_watch.OVERDUE_S < 5.0
    assert postgresql_connector.ANSWER_S < 5.0
    assert postgresql_connector.POOLED_COMMAND_TIMEOUT_S <= 5.0


async def test_a_server_that_goes_away_again_and_again_is_unavailable_and_nothing_worse(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def be_gone(connection: object) -> None:
        raise ConnectionResetError(connection)

    async with running_keys([postgresql_store(url)]) as one:
        await one.keys.commands.create(KeySpec("agent"))
        monkeypatch.setattr(postgresql_engine, "ping", be_gone)
        for number in range(3):  # each over a connection that was just made
            await one.keys.commands.create(KeySpec(f"agent {number}"))
        assert len(await one.keys.commands.live()) == 4
