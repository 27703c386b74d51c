"""Gateways and commands that reach their PostgreSQL through a real PgBouncer, in both modes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import asyncpg
import pytest

from gateway.keys.confirmations import notifications
from gateway.keys.following import follower
from gateway.keys.store import Confirmation, KeySpec
from gateway.keys.stores import postgresql_watch
from gateway.keys.stores.postgresql import postgresql_store
from tests.support.gateway_rows import known_gateways, name_of, say_nothing, until_known
from tests.support.keys import HANG_S, Workers, running_keys
from tests.support.pgbouncer import PgBouncer, PoolMode, pgbouncer
from tests.support.postgresql import PostgresqlServer
from tests.support.process import COMMAND

POLL_S = 0.1
GATEWAYS = 5


@pytest.fixture(name="modes", scope="module")
def _modes(one_server: PostgresqlServer) -> Iterator[dict[PoolMode, PgBouncer]]:
    one_server.start()
    with (
        pgbouncer(one_server, "transaction", 2) as transaction,
        pgbouncer(one_server, "session", 3) as session,
    ):
        yield {"transaction": transaction, "session": session}


@pytest.fixture(name="bouncer", params=["transaction", "session"])
def _bouncer(request: pytest.FixtureRequest, modes: dict[PoolMode, PgBouncer]) -> PgBouncer:
    return modes[request.param]


@pytest.fixture(name="direct")
async def _direct(server: PostgresqlServer) -> str:
    return await server.new_database()


@pytest.fixture(name="url")
def _url(bouncer: PgBouncer, direct: str) -> str:
    return bouncer.url(direct)


@contextlib.asynccontextmanager
async def _gateways(url: str, count: int) -> AsyncIterator[list[Workers]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running_keys([postgresql_store(url, poll_s=POLL_S)]))
            for _ in range(count)
        ]


async def test_more_gateways_than_connections_share_a_database_and_starve_nobody(url: str) -> None:
    async with asyncio.timeout(HANG_S), _gateways(url, GATEWAYS) as gateways:
        # Each writes several at once, beside the reading of all others.
        issued = await asyncio.gather(
            *(
                each.keys.commands.create(KeySpec(f"agent {number}"))
                for each in gateways
                for number in range(4)
            )
        )
        digests = [each.key.digest for each in issued]
        for each in gateways:
            await each.until(functools.partial(_accepts, each, digests))
        for key in issued[::2]:
            await gateways[0].keys.commands.delete(key.record.id)
        for each in gateways:
            await each.until(functools.partial(_refuses, each, digests[::2]))
            assert each.keyring == gateways[0].keyring
            assert each.complete
            assert (each.problems, each.keys.statuses()[0].errors) == ([], {})


def _accepts(gateway: Workers, digests: Sequence[bytes]) -> bool:
    return all(map(gateway.accepts, digests))


def _refuses(gateway: Workers, digests: Sequence[bytes]) -> bool:
    return not any(map(gateway.accepts, digests))


async def test_a_direct_gateway_beside_is_told_at_once_and_tells_by_the_look(
    direct: str, url: str
) -> None:
    async with (
        running_keys([postgresql_store(direct, poll_s=3_600.0)]) as notified,
        running_keys([postgresql_store(url, poll_s=POLL_S)]) as looking,
    ):
        by_pooler = await looking.keys.commands.create(KeySpec("by the pooler"))
        await notified.until(lambda: notified.accepts(by_pooler.key.digest))
        direct_one = await notified.keys.commands.create(KeySpec("direct"))
        await looking.until(lambda: looking.accepts(direct_one.key.digest))


def test_a_look_every_poll_makes_a_change_known_within_five_seconds() -> None:
    connecting = reading = postgresql_watch.OVERDUE_S / 2
    assert postgresql_watch.POLL_S + connecting + reading <= 5.0
    assert postgresql_watch.POLL_S + follower.RETRY_S + reading <= 5.0


async def test_nothing_stays_on_the_servers_connections(
    modes: dict[PoolMode, PgBouncer], direct: str
) -> None:
    url = modes["transaction"].url(direct)
    async with _gateways(url, 2) as (one, other):
        issued = await one.keys.commands.create(KeySpec("agent"))
        await other.until(lambda: other.accepts(issued.key.digest))
        one.keys.note_usage(
            issued.record.key_id, allowed=True, requests=3, body_bytes=9, last_used_ms=1
        )
        await one.keys.usage.flush()

        # Two transactions at once: each sees one of the two connections that all have used.
        states = await asyncio.gather(*(_state_of_a_connection(url) for _ in range(2)))

    assert {process for process, *_ in states} != {states[0][0]}
    assert [state for _, *state in states] == [[0, 0, "0", 0]] * 2


async def _state_of_a_connection(url: str) -> tuple[int, int, int, str, int]:
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        async with connection.transaction():
            row = await connection.fetchrow(
                "SELECT pg_backend_pid(), (SELECT count(*) FROM pg_prepared_statements WHERE"
                " name <> ''), (SELECT count(*) FROM pg_listening_channels()),"
                " current_setting('lock_timeout'), (SELECT count(*) FROM pg_locks WHERE"
                " locktype = 'advisory'), pg_sleep(0.5)"
            )
    finally:
        await connection.close()
    assert row is not None
    return row[0], row[1], row[2], row[3], row[4]


async def test_usage_of_several_gateways_adds_up(url: str) -> None:
    async with _gateways(url, 2) as (one, other):
        issued = await one.keys.commands.create(KeySpec("agent"))
        await other.until(lambda: other.accepts(issued.key.digest))
        for each in (one, other):
            each.keys.note_usage(
                issued.record.key_id, allowed=True, requests=3, body_bytes=9, last_used_ms=1
            )
            await each.keys.usage.flush()
        (sums,) = (await one.keys.usage.sums([issued.record.key_id])).values()

    assert (sums.requests, sums.bytes) == (6, 18)


async def test_a_change_is_in_force_when_all_gateways_have_found_it(
    direct: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "AGAIN_S", 0.05)
    async with (
        _gateways(url, 2) as pooled,
        running_keys([postgresql_store(direct, poll_s=3_600.0)]) as unpooled,
    ):
        gateways = [*pooled, unpooled]
        names = {name_of(each) for each in gateways}
        await until_known(direct, names)
        for asker in (pooled[0], unpooled):
            issued = await asker.keys.commands.create(KeySpec("agent"))
            told = await asker.keys.commands.in_force(issued.record, 0.0, HANG_S)

            assert told == Confirmation(frozenset(names), frozenset())
            assert [_accepts(each, [issued.key.digest]) for each in gateways] == [True] * 3

    assert await known_gateways(direct) == frozenset()  # each takes its row away when it ends


async def test_a_gateway_behind_the_pooler_that_has_not_confirmed_is_named(
    direct: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "AGAIN_S", 0.05)
    async with (
        _gateways(url, 2) as (one, stuck),
        running_keys([postgresql_store(direct, poll_s=3_600.0)]) as unpooled,
    ):
        await until_known(direct, {name_of(each) for each in (one, stuck, unpooled)})
        stuck.keys.publish_confirmed = say_nothing  # type: ignore[method-assign] # hung
        for asker in (one, unpooled):
            issued = await asker.keys.commands.create(KeySpec("agent"))
            async with asyncio.timeout(HANG_S):
                pending: frozenset[str] = frozenset()
                while pending != {name_of(stuck)}:
                    told = await asker.keys.commands.in_force(issued.record, 0.0, 0.5)
                    pending = told.pending


async def test_a_gateway_that_was_not_heard_of_is_named_and_not_waited_for(
    direct: str, url: str
) -> None:
    async with _gateways(url, 1) as (one,):
        await until_known(direct, {name_of(one)})
        await _execute(
            direct,
            "INSERT INTO gateway_key_gateways VALUES"
            " ('far 7-a', 0, now() - interval '60 s'), ('gone 8-b', 0, now() - interval '1 day')",
        )
        issued = await one.keys.commands.create(KeySpec("agent"))
        told = await one.keys.commands.in_force(issued.record, 0.0, HANG_S)

        assert told == Confirmation(frozenset({name_of(one)}), frozenset({"far 7-a"}))


async def test_a_gateway_that_may_not_write_its_row_says_so_and_works(
    server: PostgresqlServer, direct: str
) -> None:
    async with running_keys([postgresql_store(direct)]) as one:
        await until_known(direct, {name_of(one)})
    await _execute(direct, "DROP TABLE IF EXISTS gateway_key_gateways")
    user = f"limited_{direct.rpartition('_')[2]}"
    await _execute(
        direct,
        f"CREATE ROLE {user} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {user};"
        " REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    )
    limited = server.url(direct.rpartition("/")[2], user)
    async with running_keys([postgresql_store(limited, poll_s=POLL_S)]) as two:
        await two.until(lambda: any("gateway_key_gateways" in each for each in two.problems))
        issued = await two.keys.commands.create(KeySpec("another"))
        told = await two.keys.commands.in_force(issued.record, 0.0, HANG_S)

        assert told.confirmed == {name_of(two)}  # it is connected, and answers
        (problem,) = (each for each in two.problems if "gateway_key_gateways" in each)
        assert "it cannot write the table gateway_key_gateways (permission denied" in problem
        assert two.keys.statuses()[0].up


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_commands_work_and_wait_for_all_gateways(
    direct: str, url: str, tmp_path: Path
) -> None:
    config = tmp_path / "keys.yaml"
    config.write_text(f"keys: {{stores: ['{url}']}}\n")
    async with _gateways(url, GATEWAYS) as gateways:
        await until_known(direct, {name_of(each) for each in gateways})
        created = await asyncio.to_thread(_command, config, "create", "--name", "n")
        for each in gateways:
            await each.until(lambda: len(each.keyring) == 1)  # noqa: B023 - used at once
        listed = await asyncio.to_thread(_command, config, "list")

    assert created.returncode == 0, created.stderr
    assert created.stderr == f"in force on {GATEWAYS} gateways\n"
    assert "n " in listed.stdout


def _command(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "keys", *arguments, "--config", config],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


async def test_a_pooler_that_goes_away_makes_unknown_keys_undecided_until_it_is_back(
    server: PostgresqlServer, direct: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.05)
    with contextlib.ExitStack() as poolers:
        bouncer = poolers.enter_context(pgbouncer(server, "transaction", 2))
        async with _gateways(bouncer.url(direct), 1) as (one,):
            issued = await one.keys.commands.create(KeySpec("agent"))
            poolers.close()
            await one.until(lambda: not one.complete)
            assert one.accepts(issued.key.digest)

            poolers.enter_context(pgbouncer(server, "transaction", 2, bouncer.port))
            await one.until(lambda: one.complete)
            another = await one.keys.commands.create(KeySpec("when it is back"))
            assert one.accepts(another.key.digest)
