"""Limits of keys on a real gateway with four workers, and of the table that its workers share."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from gateway.control.workers.quota_tables import QuotaTable
from gateway.dataplane.exchange.quota_rows import QuotaRows
from gateway.quota_layout import owner_of
from gateway.settings import PerKeyLimits
from tests.support.child import start_child
from tests.support.polling import until
from tests.support.process import COMMAND, KEY, Gateway, running_gateway, workers_of
from tests.support.quota_host import quota_host
from tests.support.sink import Answer, RawSink

WORKERS: Final = 4
SECONDS: Final = 3
RACERS: Final = 3
ROUNDS: Final = 200


@asynccontextmanager
async def gateway_with(folder: Path, sink: RawSink, **per_key: Any) -> AsyncIterator[Gateway]:
    """Run a gateway whose keys have these limits."""
    changes = {
        "workers": WORKERS,
        "limits": {"per_key": per_key, "drain_timeout": "1m"},
        "backends": {"otlp_http": {"urls": [sink.http_url]}},
    }
    async with running_gateway(folder, changes) as gateway:
        yield gateway


@asynccontextmanager
async def sender(gateway: Gateway, key: str = KEY) -> AsyncIterator[Sender]:
    """Send with as many connections as there are requests at once."""
    headers = {"Authorization": f"StackState {key}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{gateway.port}",
        headers=headers,
        connector=aiohttp.TCPConnector(limit=0),
    ) as session:
        yield Sender(session)


class Sender:
    """Sends requests with one key, and counts the answers."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.tasks: list[asyncio.Task[int]] = []
        """Requests that were begun; the result is the status, 0 where the connection broke."""

    async def post(self, body: bytes = b"{}") -> int:
        try:
            async with self._session.post("/v1/traces", data=body) as answer:
                await answer.read()
                return answer.status
        except aiohttp.ClientError:
            return 0

    def begin(self, number: int) -> None:
        self.tasks += [asyncio.create_task(self.post()) for _ in range(number)]

    def count(self, status: int) -> int:
        return sum(task.done() and task.result() == status for task in self.tasks)


def worker_pids(gateway: Gateway) -> list[int]:
    return [worker.pid for worker in workers_of(gateway.program.process.pid)]


async def flood(sender: Sender, connections: int, body: bytes = b"{}") -> tuple[int, float]:
    """Send on so many connections as fast as it goes; return how much was accepted in how long."""
    begin = time.monotonic()

    async def send() -> int:
        accepted = 0
        while time.monotonic() < begin + SECONDS:
            accepted += await sender.post(body) == 200
        return accepted

    accepted = sum(await asyncio.gather(*(send() for _ in range(connections))))
    return accepted, time.monotonic() - begin


@pytest.mark.parametrize("connections", [1, 16])
async def test_a_key_gets_its_requests_however_its_connections_lie(
    tmp_path: Path, connections: int
) -> None:
    async with (
        RawSink() as sink,
        gateway_with(tmp_path, sink, requests=20) as gateway,
        sender(gateway) as client,
    ):
        accepted, seconds = await flood(client, connections)
        assert 0.9 * 20 * math.floor(seconds) <= accepted <= 1.1 * 20 * math.ceil(seconds)
        assert len(sink.requests) == accepted


@pytest.mark.parametrize("connections", [1, 16])
async def test_a_key_gets_its_bytes_however_its_connections_lie(
    tmp_path: Path, connections: int
) -> None:
    body = b"x" * 5_000
    async with (
        RawSink() as sink,
        gateway_with(tmp_path, sink, bytes="100kB/s") as gateway,
        sender(gateway) as client,
    ):
        accepted, seconds = await flood(client, connections, body)
        assert 0.9 * 20 * math.floor(seconds) <= accepted <= 1.1 * 20 * math.ceil(seconds)


async def test_concurrent_requests_are_never_too_many_and_those_of_a_dead_worker_do_not_count(
    tmp_path: Path,
) -> None:
    may_answer = asyncio.Event()
    async with (
        RawSink(lambda _: Answer(wait_for=may_answer)) as sink,
        gateway_with(tmp_path, sink, concurrent=10) as gateway,
        sender(gateway) as client,
    ):
        sink.aborts_are_faults = False
        client.begin(40)
        await until(lambda: client.count(429) == 30)
        await until(lambda: len(sink.requests) == 10)

        for pid in worker_pids(gateway):
            os.kill(pid, signal.SIGKILL)
            await gateway.program.wait_line(rf'"pid": {pid}\b.*"reason": "died"')
            await until(lambda: len(sink.canceled) == client.count(0))
            if lost := client.count(0):
                break
        client.begin(lost + 7)
        await until(lambda: client.count(429) == 30 + 7)
        await until(lambda: len(sink.requests) == 10 + lost)

        may_answer.set()
        await asyncio.gather(*client.tasks)
        assert (client.count(200), client.count(0)) == (10, lost)
        assert await client.post() == 200


async def test_limits_hold_while_a_reload_replaces_the_workers(tmp_path: Path) -> None:
    may_answer = asyncio.Event()
    async with (
        RawSink(lambda _: Answer(wait_for=may_answer)) as sink,
        gateway_with(tmp_path, sink, concurrent=6) as gateway,
        sender(gateway) as client,
    ):
        old = worker_pids(gateway)
        client.begin(6)
        await until(lambda: len(sink.requests) == 6)
        gateway.program.process.send_signal(signal.SIGHUP)
        await gateway.program.wait_line("the configuration was reloaded")
        assert len(worker_pids(gateway)) > WORKERS, "the old ones finish what is open"
        async with sender(gateway) as newcomer:
            assert [await newcomer.post() for _ in range(8)] == [429] * 8
            may_answer.set()
            await asyncio.gather(*client.tasks)
            assert client.count(200) == 6
            await until(lambda: not set(old) & set(worker_pids(gateway)))
            newcomer.begin(6)
            await asyncio.gather(*newcomer.tasks)
            assert newcomer.count(200) == 6


class Keys:
    """`gateway keys` beside a running gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._more = ("-c", gateway.config_file)

    async def run(self, *arguments: str) -> str:
        process = await start_child(
            COMMAND, "keys", *arguments, *self._more, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode()


async def test_a_keys_limits_follow_it_when_they_change_and_when_it_is_rotated_or_deleted(
    tmp_path: Path,
) -> None:
    may_answer = asyncio.Event()
    async with (
        RawSink(lambda _: Answer(wait_for=may_answer)) as sink,
        gateway_with(tmp_path, sink) as gateway,
    ):
        keys = Keys(gateway)
        made = json.loads(
            await keys.run("create", "--name", "x", "--limit-concurrent", "3", "--output", "json")
        )["ingestion-api-key"]
        key, key_id = made["apiKey"], str(made["id"])
        async with sender(gateway, key) as client:
            client.begin(8)
            await until(lambda: client.count(429) == 5)
            await keys.run("update", "--id", key_id, "--limit-concurrent", "5")
            client.begin(8)
            await until(lambda: client.count(429) == 5 + 6)
            await keys.run("update", "--id", key_id, "--limit-concurrent", "4")
            assert await client.post() == 429
            rotated = await keys.run("rotate", "--id", key_id, "--overlap", "1h")
            found = re.search(r"iapikey-\S+", rotated)
            assert found is not None, rotated
            async with sender(gateway, found[0]) as successor:
                successor.begin(8)
                await until(lambda: successor.count(429) == 4)
                assert await client.post() == 429
                await keys.run("delete", "--id", key_id)
                assert await client.post() == 401
                may_answer.set()
                await asyncio.gather(*client.tasks, *successor.tasks)
                assert (client.count(200), successor.count(200)) == (5, 4)


@pytest.mark.parametrize("limits", ["2,0", "0,2"], ids=["requests", "concurrent"])
def test_processes_that_decide_at_the_same_moment_admit_not_one_too_many(limits: str) -> None:
    table = QuotaTable(RACERS)
    progress = os.memfd_create("progress")
    os.ftruncate(progress, RACERS * 8)
    places = [place for _ in range(RACERS) if (place := table.take()) is not None]
    rows = QuotaRows.shared(places[0])
    racers = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.quota_racer"),
                *map(str, (place.fd, place.columns, place.column, progress, RACERS, ROUNDS)),
                limits,
            ],
            stdout=subprocess.PIPE,
            pass_fds=(place.fd, progress),
        )
        for place in places
    ]
    got = [json.loads(racer.communicate()[0]) for racer in racers]
    os.close(progress)
    assert [racer.returncode for racer in racers] == [0] * RACERS
    admitted = [sum(each) for each in zip(*got, strict=True)]
    assert max(admitted) == 2
    owners = {rows.find(owner_of(str(number)), 1) for number in range(1, ROUNDS + 1)}
    assert len(owners) == ROUNDS, "each key has one row"
    table.close()


HOLD: Final = """
import fcntl, sys
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(fd: int) -> Iterator[None]:
    """Have another process hold the lock of a table, and not let go of it."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(fd)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(fd,),
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"locked\n"
    holder.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        holder.kill()
        holder.communicate()


def test_a_process_that_is_stopped_while_it_gives_a_row_away_holds_nobody_up() -> None:
    with quota_host(2, PerKeyLimits(requests=10)) as host:
        first, second = host.workers
        assert sum(first.admit("known") is not None for _ in range(4)) == 4
        with locked(host.table.fd):
            assert sum(first.admit("new") is not None for _ in range(20)) == 5, "its share"
            assert sum(second.admit("known") is not None for _ in range(20)) == 6
        host.clock.now += 0.1
        assert sum(second.admit("new") is not None for _ in range(20)) == 10
        assert first.admit("new") is None, "it has found the row"
