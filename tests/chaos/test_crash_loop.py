"""Workers that die again and again: every connection is answered, or ends so that its client can
try again; none hangs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import psutil

from gateway import metrics
from tests.support.clients import http1_request
from tests.support.exchange import PROTOBUF
from tests.support.polling import WAIT_S, until
from tests.support.process import KEY, Gateway, running_gateway, workers_of
from tests.support.sink import RawSink

FIELDS: Final = (
    ("content-type", PROTOBUF),
    ("authorization", f"StackState {KEY}"),
    ("content-length", "2"),
)
BROKEN: Final = 0
"""Instead of a status: the connection ended without an answer, which clients see and try again."""


def workers(gateway: Gateway) -> list[psutil.Process]:
    return workers_of(gateway.program.process.pid)


def kill_all(gateway: Gateway) -> list[psutil.Process]:
    killed = workers(gateway)
    for worker in killed:
        with suppress(psutil.NoSuchProcess):
            worker.kill()
    return killed


def are_gone(killed: list[psutil.Process]) -> bool:
    return not any(worker.is_running() for worker in killed)


@asynccontextmanager
async def dying_at_once(gateway: Gateway) -> AsyncIterator[None]:
    """Kill every worker as soon as it is there, until the end of the block."""

    async def kill() -> None:
        while True:
            kill_all(gateway)
            await asyncio.sleep(0.02)

    killer = asyncio.create_task(kill())
    try:
        yield
    finally:
        killer.cancel()
        await asyncio.gather(killer, return_exceptions=True)


async def send(gateway: Gateway) -> int:
    """Send one request on a new connection. Raises `TimeoutError` when nothing becomes of it."""
    try:
        return (await http1_request(gateway.port, "/v1/traces", FIELDS, b"\x0a\x00")).status
    except ConnectionError:
        return BROKEN


def running_before(sink: RawSink, workers: int) -> dict[str, object]:
    return {"backends": {"otlp_http": {"urls": [sink.http_url]}}, "workers": workers}


async def counted(gateway: Gateway, series: str) -> float:
    _, page = await gateway.get("/metrics")
    found = re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)
    assert found, series
    return float(found[1])


async def until_accepting(gateway: Gateway) -> None:
    """Wait until a worker accepts."""
    async with asyncio.timeout(WAIT_S):
        while not await counted(gateway, metrics.WORKERS.name):
            await asyncio.sleep(0.02)


async def test_connections_that_come_while_no_worker_is_left_are_served_by_the_next(
    tmp_path: Path,
) -> None:
    async with RawSink() as sink, running_gateway(tmp_path, running_before(sink, 1)) as gateway:
        ends: list[int] = []
        for _ in range(5):
            await until_accepting(gateway)
            killed = kill_all(gateway)
            await until(partial(are_gone, killed))
            ends += await asyncio.gather(*(send(gateway) for _ in range(10)))
        assert set(ends) <= {200, BROKEN}  # broken where this machine takes seconds for a start
        assert 200 in ends


async def test_where_no_worker_gets_ready_connections_end_and_do_not_hang(tmp_path: Path) -> None:
    refused = f'{metrics.CONNECTIONS_REFUSED.name}{{reason="no_worker"}}'
    async with RawSink() as sink, running_gateway(tmp_path, running_before(sink, 2)) as gateway:
        assert await send(gateway) == 200
        async with dying_at_once(gateway):
            ends = [await send(gateway) for _ in range(10)]
            ends += await asyncio.gather(*(send(gateway) for _ in range(50)))
            assert set(ends) == {BROKEN}
            assert await counted(gateway, refused) > 0
            assert await counted(gateway, metrics.WORKERS.name) == 0
            await gateway.program.wait_line("no worker accepts connections")
            # The crash loop is told, in the log and in a metric.
            await gateway.program.wait_line("workers in this place die again and again")
            assert await counted(gateway, metrics.WORKERS_UNSTEADY.name) > 0
        await gateway.program.wait_line("a worker accepts connections again")
        assert await send(gateway) == 200
