"""No idle HTTP/1.1 connection of the installed gateway ends unannounced: age, reload, shutdown."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from tests.support.process import Gateway, running_gateway, workers_of
from tests.support.raw_http1 import RawPeer, raw_client

GET = b"GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n"


Connect = Callable[[Gateway], Awaitable[RawPeer]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connect to a gateway, until the end of the test."""
    async with AsyncExitStack() as stack:

        async def connect(gateway: Gateway) -> RawPeer:
            return await stack.enter_async_context(raw_client(gateway.port))

        yield connect


async def ask(client: RawPeer) -> bool:
    """Send a request on the open connection; return whether the answer announces its end."""
    await client.send(GET)
    answer = await client.receive_answer()
    assert answer.start == "200"
    return answer.value("connection") == "close"


async def is_closed(client: RawPeer) -> bool:
    """Return whether the end comes, and nothing before it."""
    return await client.read_to_end() == b""


async def test_past_its_age_a_connection_is_told_however_long_it_was_idle(
    tmp_path: Path, connect: Connect
) -> None:
    limits = {"limits": {"max_connection_age": "1s"}}
    async with running_gateway(tmp_path, limits) as gateway:
        client = await connect(gateway)
        assert not await ask(client)
        await asyncio.sleep(3)  # the worker looks once a second: it has seen the age by then
        assert await ask(client)
        assert await is_closed(client)


async def test_at_a_reload_idle_connections_are_told(tmp_path: Path, connect: Connect) -> None:
    changes = {"limits": {"drain_timeout": "8s"}, "workers": 1}
    async with running_gateway(tmp_path, changes) as gateway:
        clients = [await connect(gateway) for _ in range(3)]
        assert not any([await ask(client) for client in clients[:2]])
        old = await worker_of(gateway)
        gateway.program.process.send_signal(signal.SIGHUP)
        await gateway.program.wait_line("the configuration was reloaded")
        assert old.is_running()  # it waits for them
        assert await ask(clients[0])  # an old one
        assert await ask(clients[2])  # one that was never used
        assert not await ask(await connect(gateway))  # the new worker's
        assert [await is_closed(client) for client in clients] == [True] * 3


async def worker_of(gateway: Gateway) -> psutil.Process:
    """Return the only worker."""
    (worker,) = workers_of(gateway.program.process.pid)
    return worker


async def test_at_a_shutdown_every_answer_announces_the_end(
    tmp_path: Path, connect: Connect
) -> None:
    limits = {"limits": {"drain_delay": "1s", "drain_timeout": "4s"}}
    async with running_gateway(tmp_path, limits) as gateway:
        clients = [await connect(gateway) for _ in range(2)]
        assert not any([await ask(client) for client in clients])
        gateway.program.process.send_signal(signal.SIGTERM)
        await gateway.program.wait_line("draining")
        while not await ask(newcomer := await connect(gateway)):
            newcomer.close()  # the order is on its way
        assert await ask(clients[0])
        await asyncio.sleep(1.5)  # the drain has begun
        assert await ask(clients[1])
        assert [await is_closed(client) for client in clients] == [True] * 2
        assert await gateway.program.wait() == 0
