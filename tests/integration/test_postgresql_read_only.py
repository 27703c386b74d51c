"""A PostgreSQL that cannot be written: a real standby, and default_transaction_read_only."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from gateway.keys.errors import StoreUnavailableError
from gateway.keys.following import follower
from gateway.keys.store import Confirmation, KeySpec
from gateway.keys.stores.postgresql import postgresql_store
from tests.support.gateway_rows import name_of, until_known
from tests.support.keys import HANG_S, read_all, running_keys
from tests.support.postgresql import PostgresqlServer, postgresql_server
from tests.support.process import COMMAND, running_gateway

POLL_S = 0.1
WHY = "read-only (a standby, a read replica, or default_transaction_read_only)"


@pytest.fixture(name="url")
async def _url(server: PostgresqlServer) -> str:
    return await server.new_database()


async def _make_read_only(server: PostgresqlServer, url: str, *, on: bool = True) -> None:
    name = url.rpartition("/")[2]
    value = "on" if on else "off"
    await server.execute(
        server.url("postgres"), f"ALTER DATABASE {name} SET default_transaction_read_only = {value}"
    )


async def test_a_gateway_reads_a_read_only_database_and_says_so(
    server: PostgresqlServer, url: str
) -> None:
    async with running_keys([postgresql_store(url)]) as one:
        issued = await one.keys.commands.create(KeySpec("agent"))
    await _make_read_only(server, url)

    async with running_keys([postgresql_store(url, poll_s=POLL_S)]) as one:
        assert one.accepts(issued.key.digest)
        assert one.complete
        assert one.keys.statuses()[0].read_only
        with pytest.raises(StoreUnavailableError) as refused:
            await one.keys.commands.create(KeySpec("another"))
        await one.keys.purge()
        one.keys.note_usage(
            issued.record.key_id, allowed=True, requests=1, body_bytes=1, last_used_ms=1
        )
        await one.keys.usage.flush()
        assert one.keys.statuses()[0].up
        assert one.keys.statuses()[0].errors == {}

    assert WHY in str(refused.value)
    assert "use the primary's url" in str(refused.value)
    assert [WHY in problem for problem in one.problems] == [True]  # usage is not written


async def test_tables_are_not_made_in_a_read_only_database(
    server: PostgresqlServer, url: str
) -> None:
    await _make_read_only(server, url)

    with pytest.raises(StoreUnavailableError) as refused:
        await postgresql_store(url).feed.open(create=True)
    async with running_keys([postgresql_store(url)]) as one:
        assert one.keys.statuses()[0].error == str(refused.value)
        assert not one.complete

    assert f"the key store is not there yet, and the database is {WHY}" in str(refused.value)
    assert "start a gateway on the primary first" in str(refused.value)
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT to_regclass('gateway_key_store')") is None
    await connection.close()


async def test_commands_and_the_log_and_readyz_say_that_it_is_read_only(
    server: PostgresqlServer, url: str, tmp_path: Path
) -> None:
    async with running_keys([postgresql_store(url)]) as one:
        await one.keys.commands.create(KeySpec("agent"))
    await _make_read_only(server, url)

    async with running_gateway(tmp_path, {"keys": {"stores": [url]}}) as gateway:
        await gateway.program.wait_line("the key store is up to date, and read-only")
        _, answer = await gateway.get("/readyz")
        created = await asyncio.to_thread(_command, gateway.config_file, "create", "--name", "n")
        listed = await asyncio.to_thread(_command, gateway.config_file, "list")

    assert '"read_only":true' in answer.replace(" ", "")
    assert created.returncode == 3
    assert WHY in created.stderr
    assert "use the primary's url" in created.stderr
    assert "Traceback" not in created.stderr
    assert "agent" in listed.stdout


def _command(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "keys", *arguments, "--config", config],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


# A real standby


@pytest.fixture(name="primary")
def _primary() -> Iterator[PostgresqlServer]:
    with postgresql_server() as server:
        yield server


@pytest.fixture(name="standby")
def _standby(primary: PostgresqlServer) -> Iterator[PostgresqlServer]:
    with postgresql_server(primary) as server:
        yield server


async def test_a_gateway_on_a_standby_follows_its_primary_and_survives_a_failover(
    primary: PostgresqlServer, standby: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.05)
    url = await primary.new_database()
    writer = postgresql_store(url, poll_s=POLL_S)
    async with running_keys([writer]) as upstream:
        first = await upstream.keys.commands.create(KeySpec("first"))
        await until_known(url, {name_of(upstream)})
        copy = url.replace(f":{primary.port}/", f":{standby.port}/")
        await _until_copied(copy, first.record.revision)

        async with running_keys([postgresql_store(copy, poll_s=POLL_S)]) as one:
            status = one.keys.statuses()[0]
            assert one.accepts(first.key.digest)
            assert (status.read_only, one.complete) == (True, True)

            second = await upstream.keys.commands.create(KeySpec("second"))
            told = await upstream.keys.commands.in_force(second.record, 0.0, HANG_S)
            assert told == Confirmation(
                frozenset({name_of(upstream)}), frozenset(), has_standbys=True
            )
            await one.until(lambda: one.accepts(second.key.digest))
            with pytest.raises(StoreUnavailableError, match="use the primary's url"):
                await one.keys.commands.delete(first.record.id)

            primary.kill()
            await one.until(lambda: not one.complete)  # what it lacks may exist
            assert (status.up, status.cut_off) == (True, True)
            assert one.accepts(second.key.digest)

            await asyncio.to_thread(standby.promote)
            await one.until(lambda: one.complete and not status.read_only)
            third = await one.keys.commands.create(KeySpec("third"))
            assert one.accepts(third.key.digest)
            async with asyncio.timeout(HANG_S):  # it hears now, too
                told = await one.keys.commands.in_force(third.record, 0.0, 0.2)
                while not told.confirmed:
                    told = await one.keys.commands.in_force(third.record, 0.0, 0.2)


async def _until_copied(url: str, revision: int) -> None:
    """Wait until a standby has the primary's key store up to `revision`."""
    async with asyncio.timeout(HANG_S):
        while True:
            store = postgresql_store(url)
            try:
                await store.feed.open(create=False)
                if (await read_all(store)).revision >= revision:
                    return
            except StoreUnavailableError:
                await asyncio.sleep(0.05)
            finally:
                await store.feed.close()
