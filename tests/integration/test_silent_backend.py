"""A backend whose process is frozen: it is left, told of, and used again when it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from gateway import metrics
from gateway.metrics import Metric
from gateway.model import BackendName
from tests.support.clients import Http2Client, http1_request
from tests.support.exchange import JSON
from tests.support.frozen import FreezableBackend, freezable_backend
from tests.support.plane import KEY, RunningWorker, backend, open_connections, running_worker
from tests.support.process import free_ports
from tests.support.raw_http1 import raw_client
from tests.support.raw_http2 import HEAD, KEYS, MESSAGE, PATH, export

GRPC, HTTP, INTAKE = BackendName.OTLP_GRPC, BackendName.OTLP_HTTP, BackendName.INTAKE
ALL = pytest.mark.parametrize("name", [GRPC, HTTP, INTAKE])
HTTP_PATHS = {HTTP: "/v1/traces", INTAKE: f"/intake?api_key={KEY}"}
FIELDS = (("content-type", JSON), ("authorization", f"StackState {KEY}"), ("content-length", "2"))
HOSTS = ("127.0.0.2", "127.0.0.3")


@asynccontextmanager
async def before(
    name: BackendName, *hosts: str
) -> AsyncIterator[tuple[RunningWorker, list[FreezableBackend]]]:
    """Run a backend at each of these hosts, and a gateway before them."""
    grpc_port, http_port = free_ports(2)
    port = grpc_port if name is GRPC else http_port
    settings = backend(name, *(f"http://{host}:{port}" for host in hosts), connect_timeout_s=0.5)
    async with AsyncExitStack() as stack:
        backends = [
            await stack.enter_async_context(freezable_backend(host, (grpc_port, http_port)))
            for host in hosts
        ]
        gateway = await stack.enter_async_context(
            running_worker(backends=(settings,), keys=KEYS, sweeping=False)
        )
        pool = gateway.path.pools[name]
        await gateway.until(lambda: open_connections(pool) == len(hosts))
        yield gateway, backends


async def is_answered(gateway: RunningWorker, name: BackendName) -> bool:
    """Send a request; return whether a backend has accepted it."""
    if name is GRPC:
        return (await export(gateway)).grpc_status == 0
    fields = FIELDS if name is HTTP else (FIELDS[0], FIELDS[2])
    return (await http1_request(gateway.port, HTTP_PATHS[name], fields, b"{}")).status == 200


def waiting(gateway: RunningWorker) -> int:
    """Count the requests in flight."""
    return sum(gateway.context.counters.in_flight.values())


async def leave_unanswered(gateway: RunningWorker, name: BackendName, backends: int) -> None:
    """Send a request to each of so many backends, one of which is frozen; give up after 5 s."""
    answered = gateway.count(metrics.REQUESTS) + backends - 1
    async with AsyncExitStack() as callers:
        if name is GRPC:
            http2 = await callers.enter_async_context(Http2Client(gateway.port))
            for _ in range(backends):
                await http2.start(PATH, HEAD, MESSAGE, end=True)
        else:
            for _ in range(backends):
                caller = await callers.enter_async_context(raw_client(gateway.port))
                await caller.send(post(HTTP_PATHS[name]))
                callers.callback(caller.reset)
        await gateway.until(lambda: gateway.count(metrics.REQUESTS) == answered)
        await gateway.until(lambda: waiting(gateway) == 1)
        gateway.sweep(5)
    await gateway.until(lambda: waiting(gateway) == 0)


def post(path: str) -> bytes:
    """Write a request over HTTP/1.1."""
    fields = "\r\n".join(f"{field}: {value}" for field, value in FIELDS)
    return f"POST {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{{}}".encode()


def is_up(gateway: RunningWorker, host: str) -> float:
    """Return the gauge of a host."""
    gauges = gateway.context.counters.gauges
    (value,) = [
        value
        for (metric, labels), value in gauges.items()
        if metric == metrics.BACKEND_UP.name and labels[1].startswith(f"{host}:")
    ]
    return value


def count(gateway: RunningWorker, metric: Metric, name: BackendName) -> float:
    return gateway.count(metric, name.value)


@ALL
async def test_a_frozen_backend_is_left_after_one_request_and_used_again_when_it_answers(
    name: BackendName,
) -> None:
    async with before(name, *HOSTS) as (gateway, backends):
        assert all([await is_answered(gateway, name) for _ in range(4)])
        backends[0].freeze()
        await leave_unanswered(gateway, name, 2)
        assert all([await is_answered(gateway, name) for _ in range(10)]), "none goes there"
        gateway.sweep(13)
        gateway.sweep(14)  # 5 s until the caller gave up, 9 s for an answer to the PING
        silent = metrics.BACKEND_SILENT_CONNECTIONS
        await gateway.until(lambda: count(gateway, silent, name) == 1)
        await gateway.until(lambda: is_up(gateway, HOSTS[0]) == 0)
        for later in range(3):
            gateway.sweep(20 + 10 * later)
            assert all([await is_answered(gateway, name) for _ in range(4)])
        assert is_up(gateway, HOSTS[0]) == 0, "its kernel makes connections, but nobody answers"
        assert is_up(gateway, HOSTS[1]) == 1
        assert count(gateway, silent, name) == 1, "told once"
        backends[0].go_on()

        def is_back() -> bool:
            gateway.sweep(60)
            return is_up(gateway, HOSTS[0]) == 1

        await gateway.until(is_back)
        assert all([await is_answered(gateway, name) for _ in range(10)])


@ALL
async def test_a_frozen_backend_is_left_though_callers_go_on_to_wait(name: BackendName) -> None:
    async with before(name, *HOSTS) as (gateway, backends):
        backends[0].freeze()
        answered = gateway.count(metrics.REQUESTS) + 1
        callers = [asyncio.create_task(is_answered(gateway, name)) for _ in range(2)]
        await gateway.until(lambda: gateway.count(metrics.REQUESTS) == answered)
        await gateway.until(lambda: waiting(gateway) == 1)
        gateway.sweep(10)
        assert all([await is_answered(gateway, name) for _ in range(10)]), "none goes there"
        gateway.sweep(18)
        gateway.sweep(19)
        await gateway.until(lambda: is_up(gateway, HOSTS[0]) == 0)
        assert count(gateway, metrics.BACKEND_SILENT_CONNECTIONS, name) == 1
        if name is GRPC:
            assert sorted([await caller for caller in callers]) == [False, True], "to be retried"
        else:  # what takes so long may still be answered
            backends[0].go_on()
            assert [await caller for caller in callers] == [True, True]


@ALL
async def test_senders_are_told_to_retry_at_once_while_the_only_backend_is_frozen(
    name: BackendName,
) -> None:
    async with before(name, HOSTS[0]) as (gateway, backends):
        backends[0].freeze()
        await leave_unanswered(gateway, name, 1)
        gateway.sweep(6)
        assert not await is_answered(gateway, name), "refused, though no deadline has passed"
        await gateway.until(lambda: is_up(gateway, HOSTS[0]) == 0)
        backends[0].go_on()

        def is_back() -> bool:
            gateway.sweep(60)
            return is_up(gateway, HOSTS[0]) == 1

        await gateway.until(is_back)
        assert await is_answered(gateway, name)


async def test_a_slow_backend_over_http1_that_answers_others_stays_up() -> None:
    """What a client gave up is no sign of silence while anything else is answered."""
    async with before(HTTP, HOSTS[0]) as (gateway, backends):
        backends[0].freeze()
        async with raw_client(gateway.port) as caller:
            fields = "\r\n".join(f"{field}: {value}" for field, value in FIELDS)
            await caller.send(
                f"POST /v1/traces HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{{}}".encode()
            )
            await gateway.until(lambda: sum(gateway.context.counters.in_flight.values()) == 1)
            (address,) = gateway.path.pools[HTTP]._addresses
            gateway.sweep(4)
            address.heard_at = gateway.context.tick  # as an answer on another connection does
            gateway.sweep(8)
            caller.reset()
        await gateway.until(lambda: waiting(gateway) == 0)
        assert not address.needs_proof
        backends[0].go_on()
        assert await is_answered(gateway, HTTP)
