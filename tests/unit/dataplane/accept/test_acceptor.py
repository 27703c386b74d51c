"""Who has connected is served in turns, client by client, a few in each turn of the loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

from gateway.dataplane.accept.protocol_detection import ProtocolDetector
from gateway.dataplane.accept.turns import TURN_STEPS
from tests.support.plane import RunningWorker, running_worker

FLOOD = "127.0.0.2"
BYSTANDER = "127.0.0.1"
MANY = 30
"""Fewer than are accepted at once."""


def connect(
    open_sockets: contextlib.ExitStack, port: int, source: str, header: bytes = b""
) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
    open_sockets.callback(client.close)
    client.sendall(header)
    return client


async def begun(gateway: RunningWorker, count: int) -> list[str]:
    """Run the loop until `count` connections have begun; return their addresses, in order.

    No turn begins more than it may.
    """
    order: list[str] = []
    seen: set[ProtocolDetector] = set()
    while len(order) < count:
        await asyncio.sleep(0)
        new = [each for each in detectors(gateway) if each not in seen]
        assert len(new) <= TURN_STEPS
        seen.update(new)
        order += [each.peer.rpartition(":")[0] for each in new]
    return order


def detectors(gateway: RunningWorker) -> Iterator[ProtocolDetector]:
    return (each for each in gateway.context.connections if isinstance(each, ProtocolDetector))


async def test_one_connection_does_not_wait_for_many_of_another_address() -> None:
    with contextlib.ExitStack() as open_sockets:
        async with running_worker() as gateway:
            for _ in range(MANY):
                connect(open_sockets, gateway.port, FLOOD)
            connect(open_sockets, gateway.port, BYSTANDER)
            order = await begun(gateway, MANY + 1)
            assert order.index(BYSTANDER) <= 1
            assert order.count(FLOOD) == MANY


async def test_behind_a_balancer_the_addresses_in_the_proxy_headers_take_turns() -> None:
    trusted = ("127.0.0.0/8",)
    with contextlib.ExitStack() as open_sockets:
        async with running_worker(proxy_protocol=True, trusted_networks=trusted) as gateway:
            flood = b"PROXY TCP4 192.0.2.66 192.0.2.1 1 2\r\n"
            clients = [connect(open_sockets, gateway.port, BYSTANDER) for _ in range(MANY + 1)]
            while gateway.worker.connections < MANY + 1:
                await asyncio.sleep(0)
            for _ in range(MANY):  # they wait for their headers
                await asyncio.sleep(0)
            for client in clients[:-1]:
                client.sendall(flood)
            clients[-1].sendall(flood.replace(b"192.0.2.66", b"192.0.2.7"))
            order = await begun(gateway, MANY + 1)
            assert order.index("192.0.2.7") <= TURN_STEPS


async def test_who_waits_for_a_turn_when_the_worker_ends_is_closed() -> None:
    with contextlib.ExitStack() as open_sockets:
        async with running_worker() as gateway:
            clients = [connect(open_sockets, gateway.port, FLOOD) for _ in range(MANY)]
            while not gateway.worker.connections:
                await asyncio.sleep(0)
            assert len(gateway.context.connections) < MANY
        for client in clients:
            client.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
        assert not len(gateway.path.acceptor._places)
