"""A backend's name with several addresses, on real sockets of one port from 127.0.0.1 on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from gateway.dataplane.upstream.address import Where
from gateway.dataplane.upstream.connector import resolve_by_system
from gateway.model import BackendName
from tests.support.clients import http1_request
from tests.support.exchange import JSON, Answer
from tests.support.plane import KEY, RunningWorker, backend, running_worker
from tests.support.process import free_ports
from tests.support.raw_http2 import KEYS, export
from tests.support.sink import RawSink

GRPC, HTTP = BackendName.OTLP_GRPC, BackendName.OTLP_HTTP
BOTH = pytest.mark.parametrize("name", [GRPC, HTTP])
FIELDS = (("content-type", JSON), ("authorization", f"StackState {KEY}"), ("content-length", "2"))


class Pods:
    """Backends at 127.0.0.1 … and a name that leads to some of them."""

    def __init__(self, sinks: Sequence[RawSink]) -> None:
        self.sinks = sinks
        self.ready = list(range(len(sinks)))
        """Those that the name leads to."""

    async def resolve(self, host: str, port: int) -> list[Where]:
        assert host == "pods.test"
        return [Where(socket.AF_INET, (f"127.0.0.{number + 1}", port)) for number in self.ready]

    def counts(self) -> list[int]:
        """Return how many requests each has got since the last `take`."""
        return [len(sink.requests) for sink in self.sinks]

    def take(self) -> list[int]:
        """Return the same, and count anew."""
        counts = self.counts()
        for sink in self.sinks:
            sink.requests.clear()
        return counts


@asynccontextmanager
async def before(
    name: BackendName, ready: int, pods: int, **changes: Any
) -> AsyncIterator[tuple[RunningWorker, Pods]]:
    """Run so many pods and a gateway; the name leads to the first `ready` of them."""
    ports = free_ports(2)
    async with AsyncExitStack() as stack:
        sinks = [
            await stack.enter_async_context(
                RawSink(ports=(ports[0], ports[1]), host=f"127.0.0.{number + 1}")
            )
            for number in range(pods)
        ]
        found = Pods(sinks)
        found.ready = found.ready[:ready]
        url = f"http://pods.test:{ports[0] if name is GRPC else ports[1]}"
        gateway = await stack.enter_async_context(
            running_worker(
                backends=(backend(name, url, **changes),),
                keys=KEYS,
                resolve=found.resolve,
                sweeping=False,
            )
        )
        await connected(gateway, name, found)
        yield gateway, found


async def connected(gateway: RunningWorker, name: BackendName, pods: Pods) -> None:
    """Wait until there are connections to the ready pods, and to no others."""
    addresses = gateway.path.pools[name]._addresses
    expected = {f"127.0.0.{number + 1}" for number in pods.ready}

    def holds() -> bool:
        found = {each.where.sockaddr[0] for each in addresses if each.free}
        return found == expected == {each.where.sockaddr[0] for each in addresses}

    await gateway.until(holds)


async def send(gateway: RunningWorker, name: BackendName, count: int) -> None:
    """Send requests one after the other; each has to be accepted."""
    for _ in range(count):
        if name is GRPC:
            assert (await export(gateway)).grpc_status == 0
        else:
            answer = await http1_request(gateway.port, "/v1/traces", FIELDS, b"{}")
            assert answer.status == 200


@BOTH
async def test_a_name_is_spread_over_all_of_its_addresses(name: BackendName) -> None:
    async with before(name, 4, 4) as (gateway, pods):
        await send(gateway, name, 100)
        assert pods.take() == [25, 25, 25, 25]


@BOTH
async def test_new_addresses_are_used_and_old_ones_drained(name: BackendName) -> None:
    async with before(name, 4, 6) as (gateway, pods):
        release = asyncio.Event()
        for sink in pods.sinks[:4]:
            sink.script = lambda _: Answer(wait_for=release)
        held = [asyncio.create_task(send(gateway, name, 1)) for _ in range(4)]
        await gateway.until(lambda: pods.counts() == [1, 1, 1, 1, 0, 0])
        for sink in pods.sinks:
            sink.script = lambda _: Answer()
        pods.take()
        pods.ready = [2, 3, 4, 5]
        gateway.sweep(31)
        await gateway.until(lambda: len(gateway.path.pools[name]._addresses) == 4)
        release.set()
        await asyncio.gather(*held)
        await connected(gateway, name, pods)
        await send(gateway, name, 80)
        assert pods.take() == [0, 0, 20, 20, 20, 20]
        if name is GRPC:
            old = [side for sink in pods.sinks[:2] for side in sink.http2_connections]
            await gateway.until(lambda: all(side.closed for side in old))


@BOTH
async def test_connections_are_replaced_by_age_without_failing_a_request(
    name: BackendName,
) -> None:
    async with before(name, 2, 2, max_connection_age_s=0.001) as (gateway, pods):
        first = set(connections(gateway, name))
        seen = set(first)
        sending = [asyncio.create_task(send(gateway, name, 40)) for _ in range(4)]
        while not all(task.done() for task in sending):
            gateway.sweep()
            seen.update(connections(gateway, name))
            await asyncio.sleep(0.01)
        await asyncio.gather(*sending)
        assert sum(pods.take()) == 160
        assert len(seen - first) >= 4
        assert not first & set(connections(gateway, name))


def connections(gateway: RunningWorker, name: BackendName) -> list[object]:
    return [each for address in gateway.path.pools[name]._addresses for each in address.connections]


async def test_the_system_resolves_without_the_loop() -> None:
    found = await resolve_by_system("localhost", 4317)
    assert Where(socket.AF_INET, ("127.0.0.1", 4317)) in found
    with pytest.raises(OSError, match=r"[Nn]ame"):
        await resolve_by_system("no-such-host.invalid", 4317)
