"""`gateway keys` on a PostgreSQL that running gateways share: real processes, a real server."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.cli.keys import stored_keys
from gateway.keys.confirmations import notifications
from gateway.keys.confirmations.gateway_rows import fleet
from gateway.keys.following import follower
from gateway.keys.store import Confirmation, KeySpec
from gateway.keys.stores.postgresql import postgresql_store
from tests.support.each_worker import statuses_of
from tests.support.gateway_rows import name_of, say_nothing
from tests.support.keys import HANG_S, Workers, running_keys
from tests.support.postgresql import PostgresqlServer
from tests.support.process import COMMAND, running_gateway

LONG_AGO_S = 0.2


@dataclass(frozen=True, slots=True)
class Keys:
    """`gateway keys` on one database."""

    config: Path
    url: str

    async def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(self._run, *arguments)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, "keys", *arguments, "--config", self.config],
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )

    async def json(self, *arguments: str) -> Any:
        done = await self.run(*arguments, "--output", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(name="keys")
async def _keys(server: PostgresqlServer, tmp_path: Path) -> Keys:
    url = await server.new_database()
    config = tmp_path / "keys.yaml"
    config.write_text(f"keys: {{stores: ['{url}']}}\n")
    return Keys(config, url)


@asynccontextmanager
async def _gateway(keys: Keys, *, confirms: bool = True) -> AsyncIterator[Workers]:
    """Run a gateway's key service whose workers confirm at once, or never; it is connected."""
    async with running_keys([postgresql_store(keys.url)]) as workers:
        if not confirms:
            workers.keys.publish_confirmed = say_nothing  # type: ignore[method-assign] # hung
        await _until_connected(keys.url, name_of(workers))
        yield workers


async def _until_connected(url: str, name: str = "") -> None:
    """Wait until the gateway, or any, is connected as one that can be asked."""
    async with _asker(url) as connection, asyncio.timeout(HANG_S):
        while not any(name in each for each in (await fleet(connection, 0)).known):
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _asker(url: str, **settings: str) -> AsyncIterator[notifications.Connection]:
    connection = await asyncpg.connect(url, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close()


# Listing


async def test_the_list_shows_the_usage_that_all_gateways_have_written(keys: Keys) -> None:
    async with _gateway(keys) as one, _gateway(keys) as other:
        issued = await one.keys.commands.create(KeySpec("n"))
        await other.until(lambda: other.accepts(issued.key.digest))
        for workers, last_used_ms in ((one, 1_900_000_000_000), (other, 1_800_000_000_000)):
            workers.keys.note_usage(
                issued.record.key_id,
                allowed=True,
                requests=2,
                body_bytes=5,
                last_used_ms=last_used_ms,
            )
        one.keys.note_usage(
            issued.record.key_id, allowed=False, requests=3, body_bytes=0, last_used_ms=0
        )

    assert "| 2030-03-17 17:46:40" in (await keys.run("list")).stdout
    (listed,) = (await keys.json("list"))["ingestion-api-keys"]
    assert listed["lastUsedTimestamp"] == 1_900_000_000_000
    assert listed["usage"] == {"requests": 4, "bytes": 10, "refusals": 3}


async def test_the_list_needs_no_usage_of_which_there_is_none_yet(keys: Keys) -> None:
    await keys.json("create", "--name", "n")

    done = await keys.run("list")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].endswith("| -        ")


# Waiting


async def test_a_command_returns_when_all_gateways_have_its_change(keys: Keys) -> None:
    async with _gateway(keys) as one, _gateway(keys) as other:
        created = await keys.run("create", "--name", "n")
        known = [workers.keys.snapshot()[0] for workers in (one, other)]
        (key,) = (await keys.json("list"))["ingestion-api-keys"]
        deleted = await keys.run("delete", "--id", str(key["id"]))
        states = [[each.state for each in workers.keyring.values()] for workers in (one, other)]

    assert known == [2, 2]
    assert states == [[1], [1]]
    assert created.stdout.startswith("[SUCCESS] Ingestion API Key generated: iapikey-")
    assert [done.stderr for done in (created, deleted)] == ["in force on 2 gateways\n"] * 2


async def test_a_command_names_the_gateway_that_has_not_confirmed(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stored_keys, "ANSWER_S", LONG_AGO_S)
    async with _gateway(keys), _gateway(keys, confirms=False) as stuck:
        stored = stored_keys.StoredKeys(postgresql_store(keys.url))
        created = await asyncio.to_thread(stored.create, KeySpec("n"), None)
        host, process = name_of(stuck).split(" ")

    assert created["name"] == "n"
    assert capsys.readouterr().err == (
        f"[WARNING] stored and in force on 1 gateway, but gateway {host} ({process}) has not"
        " confirmed the change within 0.2 s: it takes effect there when that gateway is well again;"
        " its log says what keeps it\n"
    )


async def test_without_a_gateway_a_command_does_not_wait(keys: Keys) -> None:
    done = await keys.run("create", "--name", "n")

    assert done.returncode == 0
    assert done.stderr == "stored; no gateway is connected that could confirm it\n"


async def test_real_gateways_refuse_a_key_when_its_deletion_returns(
    keys: Keys, tmp_path: Path
) -> None:
    store = {"keys": {"stores": [keys.url]}}
    async with running_gateway(tmp_path, store) as gateway:
        await _until_connected(keys.url)
        created = (await keys.json("create", "--name", "n"))["ingestion-api-key"]
        accepted = await statuses_of(f"http://127.0.0.1:{gateway.port}", created["apiKey"])
        deleted = await keys.run("delete", "--id", str(created["id"]))
        refused = await statuses_of(f"http://127.0.0.1:{gateway.port}", created["apiKey"])

    assert deleted.stderr == "in force on 1 gateway\n"
    assert (accepted, refused) == ({503}, {401})  # 503: no backend is configured


# The question itself


async def test_a_gateway_that_ends_is_not_waited_for(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "AGAIN_S", 0.02)
    async with _asker(keys.url) as connection:
        async with _gateway(keys, confirms=False):
            asking = asyncio.create_task(notifications.wait_for_gateways(connection, 10**9, HANG_S))
            await asyncio.sleep(0)
        answers = await asking

    assert answers == Confirmation(frozenset(), frozenset())


async def test_a_gateway_that_is_asked_looks_for_a_change_that_nobody_announced(
    keys: Keys,
) -> None:
    async with _gateway(keys) as workers, _asker(keys.url) as connection:
        await connection.execute("UPDATE gateway_key_store SET revision = revision + 1")
        answers = await notifications.wait_for_gateways(connection, 1, HANG_S)
        name = name_of(workers)

    assert answers == Confirmation(frozenset({name}), frozenset())


async def test_an_older_gateway_is_not_waited_for_and_noise_is_left_alone(keys: Keys) -> None:
    async with (
        _gateway(keys) as workers,
        _asker(keys.url, application_name="otlp-gateway"),
        _asker(keys.url) as connection,
    ):
        for noise in ("", "x", "0123456789abcdef -1", "0123456789abcdef 1; DROP"):
            await connection.execute(notifications._NOTIFY, notifications.ASK_CHANNEL, noise)
        answers = await notifications.wait_for_gateways(connection, 0, HANG_S)

        assert answers.confirmed == {name_of(workers)}
        assert workers.problems == []


async def test_another_user_of_the_database_can_ask_too(keys: Keys) -> None:
    async with _gateway(keys) as workers, _asker(keys.url) as connection:
        await connection.execute("CREATE ROLE helpdesk LOGIN")
        async with _asker(keys.url.replace("postgres@", "helpdesk@")) as stranger:
            answers = await notifications.wait_for_gateways(stranger, 0, HANG_S)
        assert answers.confirmed == {name_of(workers)}


class _Deaf:
    """A connection that is told nothing, as behind a pooler in transaction mode."""

    def __init__(self, connection: notifications.Connection) -> None:
        self._connection: Any = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def add_listener(self, *_: object) -> None:
        """Lose the listener."""


async def test_who_gets_no_notifications_goes_by_the_rows(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "AGAIN_S", 0.02)
    async with _gateway(keys) as workers, _asker(keys.url) as connection:
        deaf: Any = _Deaf(connection)
        answers = await notifications.wait_for_gateways(deaf, 0, HANG_S)
        name = name_of(workers)

    assert answers == Confirmation(frozenset({name}), frozenset())


async def test_a_gateway_that_lost_all_connections_misses_no_change_and_can_be_asked_again(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.05)
    async with _gateway(keys) as workers, _asker(keys.url) as connection:
        for round_ in range(3):
            await connection.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
                " WHERE application_name LIKE 'otlp-gateway%' AND datname = current_database()"
            )
            done = await keys.run("create", "--name", f"key {round_}")
            assert done.returncode == 0, done.stderr
            await workers.until(lambda: len(workers.keyring) == round_ + 1)  # noqa: B023 - awaited
            await _until_connected(keys.url, name_of(workers))

        answers = await notifications.wait_for_gateways(connection, 3, HANG_S)

        assert answers == Confirmation(frozenset({name_of(workers)}), frozenset())
