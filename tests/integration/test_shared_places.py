"""One key's uploads that never end do not stop the requests of another one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway import metrics
from gateway.dataplane.exchange.request_body import GATHERED_BYTES
from gateway.model import BackendName
from tests.support.plane import KEY, RunningWorker, backend, entry, running_worker
from tests.support.raw_http1 import RawPeer, raw_client
from tests.support.sink import RawSink

OTHER_KEY = KEY.replace("0123", "4567")
CONNECTIONS = 256
UPLOADS = CONNECTIONS + 44
LARGE = 1_000_000


def post(key: str, length: int, body: bytes) -> bytes:
    return (
        "POST /v1/traces HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/x-protobuf\r\n"
        f"Authorization: StackState {key}\r\nContent-Length: {length}\r\n\r\n"
    ).encode() + body


async def trickle(gateway: RunningWorker, stack: AsyncExitStack, length: int) -> list[RawPeer]:
    """Begin uploads of `KEY`, each with one byte of its body."""
    clients = [await stack.enter_async_context(raw_client(gateway.port)) for _ in range(UPLOADS)]
    for client in clients:
        await client.send(post(KEY, length, b"x"))
    await gateway.until(lambda: gateway.context.counters.in_flight["http"] == UPLOADS)
    return clients


async def statuses(gateway: RunningWorker, bodies: list[bytes]) -> list[str]:
    """Have `OTHER_KEY` send all bodies at once; return how each was answered."""

    async def one(body: bytes) -> str:
        async with raw_client(gateway.port) as client:
            await client.send(post(OTHER_KEY, len(body), body))
            return (await client.receive_answer()).start

    return await asyncio.gather(*map(one, bodies))


@pytest.mark.parametrize("length", [1_000, LARGE])
async def test_256_trickling_uploads_of_one_key_do_not_stop_another_one(length: int) -> None:
    bodies = [b"small"] * 40 + [bytes(GATHERED_BYTES + 1)] * 10
    async with RawSink() as sink, AsyncExitStack() as stack:
        sink.aborts_are_faults = False
        http = backend(BackendName.OTLP_HTTP, sink.http_url, max_connections=CONNECTIONS)
        keys = [entry(KEY, "1"), entry(OTHER_KEY, "2")]
        gateway = await stack.enter_async_context(
            running_worker(backends=[http], keys=keys, sweeping=False)
        )
        clients = await trickle(gateway, stack, length)
        for _ in range(3):
            assert await statuses(gateway, bodies) == ["200"] * len(bodies)
            for client in clients:
                await client.send(b"x")
        pool = gateway.path.pools[BackendName.OTLP_HTTP]
        assert len(pool.waiting) == (UPLOADS - CONNECTIONS * 3 // 4 if length == LARGE else 0)


async def test_a_slow_upload_gives_its_place_to_one_that_waits() -> None:
    async with RawSink() as sink, AsyncExitStack() as stack:
        sink.aborts_are_faults = False
        http = backend(BackendName.OTLP_HTTP, sink.http_url, max_connections=4)
        gateway = await stack.enter_async_context(
            running_worker(backends=[http], keys=[entry(KEY)], sweeping=False)
        )
        slow = [await stack.enter_async_context(raw_client(gateway.port)) for _ in range(3)]
        for client in slow:
            await client.send(post(KEY, LARGE, b"x"))
        pool = gateway.path.pools[BackendName.OTLP_HTTP]
        await gateway.until(lambda: len(list(pool._open_requests())) == 3)
        last = await stack.enter_async_context(raw_client(gateway.port))
        await last.send(post(KEY, LARGE, bytes(LARGE - 1)))
        await gateway.until(lambda: bool(pool.waiting))
        for second in range(12):
            # Until the place that was given up is taken, whoever sweeps takes one more.
            if not gateway.count(metrics.BACKEND_DISPLACED, "otlp_http", "slow_upload"):
                gateway.sweep(second)
        await gateway.until(lambda: not pool.waiting)
        await last.send(b"x")
        assert (await last.receive_answer()).start == "200"
        assert gateway.count(metrics.BACKEND_DISPLACED, "otlp_http", "slow_upload") == 1
        refused = gateway.count(metrics.REQUESTS, "http", "traces", "503", "canceled")
        assert refused == 1
