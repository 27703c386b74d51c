"""What clients send after their answer is read over: little in a turn, clients one by one."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.dataplane.core.backlog import Backlog
from gateway.dataplane.core.lingering import READ_AT_ONCE, Lingering
from gateway.dataplane.core.open_connections import OpenConnections
from gateway.dataplane.core.seams import ServerConnection
from tests.support.polling import until

FLOOD = "192.0.2.66"


class Served:
    """A connection that has been answered."""

    def sweep(self, now: float) -> None: ...

    def holdings(self) -> tuple[tuple[str, int], ...]:
        return ()

    def start_drain(self) -> None: ...

    def abort(self) -> None: ...


class World:
    """Lingering sockets in the running loop; `ended` are their clients, in the order of ends."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.backlog = Backlog(self.loop)
        self.connections = OpenConnections()
        self.view = memoryview(bytearray(64 * 1024))
        self.lingering = Lingering(self.loop, self.view, self.backlog, self.connections)
        self.ended: list[str] = []
        self.connections.on_gone = self.ended.append
        self._server = socket.create_server(("127.0.0.1", 0), backlog=200)
        self._ends: list[socket.socket] = [self._server]

    async def transport(self) -> tuple[asyncio.Transport, socket.socket]:
        """Return both ends of a connection."""
        theirs = socket.create_connection(self._server.getsockname())
        ours, _ = self._server.accept()
        ours.setblocking(False)
        transport, _ = await self.loop.connect_accepted_socket(asyncio.Protocol, ours)
        transport.pause_reading()
        self._ends.append(theirs)
        return transport, theirs

    def take(self, client: str, transport: asyncio.Transport, ends_at: float, most: int) -> None:
        """Have a connection linger."""
        served: ServerConnection = Served()
        self.connections.add(served)
        self.connections.give_place(served, client)
        assert self.lingering.take(served, transport, client, ends_at, most)

    async def leave(self, client: str, *, most: int = 1, ends_at: float = 1e12) -> socket.socket:
        """Have a connection linger; return its client's end."""
        transport, theirs = await self.transport()
        self.take(client, transport, ends_at, most)
        return theirs

    async def leave_at_once(self, *clients: str) -> None:
        """Have a connection of each client linger that ends when it is read over."""
        ends = [await self.transport() for _ in clients]
        for client, (transport, theirs) in zip(clients, ends, strict=True):
            theirs.sendall(b"rest")
            self.take(client, transport, 1e12, 1)

    def sweep(self, now: float) -> None:
        for connection in self.connections:
            connection.sweep(now)

    async def until_gone(self) -> None:
        await until(lambda: not len(self.lingering))

    def close(self) -> None:
        for connection in self.connections:
            connection.abort()
        for end in self._ends:
            end.close()


@pytest.fixture(name="world")
async def _world() -> AsyncIterator[World]:
    world = World()
    yield world
    world.close()
    await asyncio.sleep(0)


def descriptors() -> int:
    """Count this process's open descriptors."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def most_in_a_turn(world: World) -> int:
    """Run the loop until nothing lingers; return how many ended in one turn at the most."""
    most = 0
    while before := len(world.lingering):
        await asyncio.sleep(0)
        most = max(most, before - len(world.lingering))
    return most


def be_busy(world: World) -> None:
    """Have work of use wait as long as anything lingers."""

    def more() -> None:
        if len(world.lingering):
            world.backlog.add(FLOOD, more)

    world.backlog.add(FLOOD, more)


async def test_a_turn_reads_over_only_so_many_sockets(world: World) -> None:
    await world.leave_at_once(*[FLOOD] * (5 * READ_AT_ONCE))
    assert await most_in_a_turn(world) == READ_AT_ONCE


async def test_while_work_of_use_waits_a_turn_reads_over_one(world: World) -> None:
    await world.leave_at_once(*[FLOOD] * (2 * READ_AT_ONCE))
    be_busy(world)
    assert await most_in_a_turn(world) == 1


async def test_clients_take_turns_however_many_sockets_of_one_have_something(
    world: World,
) -> None:
    await world.leave_at_once(*[FLOOD] * 40, "192.0.2.1")
    be_busy(world)
    await world.until_gone()
    assert world.ended.index("192.0.2.1") <= 1
    assert world.ended.count(FLOOD) == 40


async def test_a_client_finds_its_answer_behind_all_it_has_sent(world: World) -> None:
    transport, theirs = await world.transport()
    transport.write(b"answer")
    assert world.lingering.take(Served(), transport, FLOOD, 1e12, 1 << 30)
    theirs.settimeout(0)
    sent = 0
    while sent < 3 * len(world.view):
        with contextlib.suppress(BlockingIOError):
            sent += theirs.send(bytes(10_000))
        await asyncio.sleep(0)
    assert theirs.recv(100) == b"answer"
    assert theirs.recv(100) == b""
    theirs.shutdown(socket.SHUT_WR)
    await world.until_gone()


async def test_it_ends_when_the_client_ends_when_too_much_comes_and_after_a_time(
    world: World,
) -> None:
    ends: list[Callable[[socket.socket], object]] = [
        lambda theirs: theirs.shutdown(socket.SHUT_WR),
        lambda theirs: theirs.sendall(bytes(1_000)),
        lambda _: world.sweep(11),
    ]
    for end in ends:
        theirs = await world.leave(FLOOD, most=1_000, ends_at=10)
        theirs.sendall(bytes(999))
        world.sweep(10)
        await asyncio.sleep(0)
        assert len(world.lingering) == len(world.connections) == 1
        end(theirs)
        await world.until_gone()
        assert not len(world.connections)
        assert world.ended == [FLOOD]
        world.ended.clear()


async def test_one_that_is_closed_while_it_waits_for_its_turn_is_passed_over(world: World) -> None:
    be_busy(world)
    before = descriptors()
    await world.leave_at_once(*[FLOOD] * 10)
    while len(world.lingering) > 8:  # the others wait for their turns
        await asyncio.sleep(0)
    for connection in world.connections:
        connection.abort()
    assert not len(world.lingering)
    assert world.ended == [FLOOD] * 10
    for _ in range(10):
        await asyncio.sleep(0)
    assert descriptors() == before + 10  # the clients' ends
    (await world.leave(FLOOD, most=100_000)).close()  # which starts anew
    await world.until_gone()


async def test_what_is_still_to_be_sent_keeps_its_transport(world: World) -> None:
    transport, theirs = await world.transport()
    while not transport.get_write_buffer_size():
        transport.write(bytes(1 << 20))
    assert not world.lingering.take(Served(), transport, FLOOD, 1e12, 1)
    assert not transport.is_closing()
    theirs.close()
    transport.abort()
    await asyncio.sleep(0)
    assert not world.lingering.take(Served(), transport, FLOOD, 1e12, 1)


async def test_without_a_descriptor_a_connection_stays_as_it_is(world: World) -> None:
    transport, _ = await world.transport()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    served: ServerConnection = Served()
    world.connections.add(served)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert not world.lingering.take(served, transport, FLOOD, 1e12, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(world.connections) == [served]
    assert not transport.is_closing()
    transport.abort()
