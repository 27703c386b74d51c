"""Newcomers at an admin address: client by client, one in a turn of the loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from gateway.control.admin.newcomers import MOST_WAITING, Newcomers
from tests.support.polling import until

FLOOD = "192.0.2.66"
PROBE = "192.0.2.1"


class World:
    """Newcomers; `begun` are their clients, in order. Those of `crowded` rest after each."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.crowded: set[str] = set()
        self.lost = 0
        self.newcomers = Newcomers(self._begin, self._lose)
        self._ends = contextlib.ExitStack()

    def _begin(self, client: str, sock: socket.socket) -> bool:
        self.begun.append(client)
        sock.close()
        return client in self.crowded

    def _lose(self) -> None:
        self.lost += 1

    def come(self, client: str) -> socket.socket:
        """Have a client connect; return its end."""
        ours, theirs = socket.socketpair()
        self._ends.enter_context(theirs)
        self.newcomers.add(client, ours)
        return theirs

    def close(self) -> None:
        self.newcomers.close()
        self._ends.close()


@pytest.fixture(name="world")
async def _world() -> AsyncIterator[World]:
    world = World()
    yield world
    world.close()


def is_closed(theirs: socket.socket) -> bool:
    theirs.settimeout(0)
    try:
        return theirs.recv(1) == b""
    except BlockingIOError:
        return False


async def test_a_turn_begins_one_and_clients_take_turns(world: World) -> None:
    for _ in range(50):
        world.come(FLOOD)
    world.come(PROBE)
    for count in range(1, 52):
        await asyncio.sleep(0)
        assert len(world.begun) == count
    assert world.begun[:3] == [FLOOD, PROBE, FLOOD]
    assert not len(world.newcomers)


async def test_who_only_takes_its_own_place_rests_and_holds_up_nobody(world: World) -> None:
    world.crowded.add(FLOOD)
    for _ in range(3):
        world.come(FLOOD)
    await asyncio.sleep(0)
    for _ in range(3):
        world.come(PROBE)
    for _ in range(3):
        await asyncio.sleep(0)
    assert world.begun[1:].count(PROBE) >= 2
    await until(lambda: len(world.begun) == 6)
    assert world.begun.count(FLOOD) == 3


async def test_of_too_many_that_wait_the_client_with_the_most_loses_its_oldest(
    world: World,
) -> None:
    probe = world.come(PROBE)
    flood = [world.come(FLOOD) for _ in range(MOST_WAITING + 9)]
    assert len(world.newcomers) == MOST_WAITING
    assert world.lost == 10
    assert [is_closed(each) for each in flood[:11]] == [True] * 10 + [False]
    assert not is_closed(probe)


async def test_those_that_wait_at_the_end_are_closed(world: World) -> None:
    world.crowded.add(FLOOD)
    waiting = [world.come(FLOOD) for _ in range(3)]
    await asyncio.sleep(0)
    world.newcomers.close()
    assert all(is_closed(each) for each in waiting)
    await asyncio.sleep(0)
    assert world.begun == [FLOOD]
