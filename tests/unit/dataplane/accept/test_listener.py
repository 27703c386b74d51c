from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane.accept.listener import (
    LOOK_AGAIN_S,
    MAX_AT_ONCE,
    PATIENCE_S,
    Balance,
    Listener,
)
from gateway.settings import ListenerSettings
from tests.support.plane import listening_socket
from tests.support.polling import until


def spread(connections: int, order: list[int], workers: int = 2) -> list[int]:
    """Let workers wake up in `order`, again and again, until all pending connections are taken."""
    counts = [0] * workers
    rules = [Balance() for _ in range(workers)]
    now = 0.0
    while connections:
        for index in order:
            now += LOOK_AGAIN_S / 10
            others = counts[:index] + counts[index + 1 :]
            if connections and rules[index].may_accept(counts[index], others, now):
                counts[index] += 1
                connections -= 1
    return counts


def test_sixteen_connections_become_eight_and_eight() -> None:
    assert spread(16, [0, 1]) == [8, 8]


@given(st.integers(0, 2**32))
def test_sixteen_connections_become_eight_and_eight_in_whatever_order_workers_wake_up(
    seed: int,
) -> None:
    order = [0] * 5 + [1] * 5
    random.Random(seed).shuffle(order)
    assert spread(16, order) == [8, 8]


@given(st.permutations([0, 1, 2]), st.integers(1, 500))
def test_no_worker_gets_further_ahead_than_one_connection_and_a_sixteenth(
    order: list[int], connections: int
) -> None:
    counts = spread(connections, order, workers=3)
    assert sum(counts) == connections
    assert max(counts) - min(counts) <= 1 + (max(counts) >> 4)


def test_two_busy_workers_share_a_thousand_connections_in_few_turns() -> None:
    counts, rules, turns = [0, 0], [Balance(), Balance()], 0
    while sum(counts) < 1000:
        index = turns % 2
        for _ in range(MAX_AT_ONCE):
            if not rules[index].may_accept(counts[index], [counts[1 - index]], 0.0):
                break
            counts[index] += 1
        turns += 1
    assert turns < 100
    assert abs(counts[0] - counts[1]) <= 1 + (max(counts) >> 4)


def test_a_single_worker_never_waits() -> None:
    rule = Balance()
    assert all(rule.may_accept(count, [], 0.0) for count in range(1000))


def test_a_worker_with_as_many_connections_as_the_least_loaded_accepts_at_once() -> None:
    rule = Balance()
    assert rule.may_accept(5, [5, 9], 0.0)
    assert rule.may_accept(4, [5, 9], 0.0)


def test_a_worker_that_is_ahead_leaves_a_connection_to_others_for_20_ms_at_most() -> None:
    rule = Balance()
    assert not rule.may_accept(1, [0], 0.0)
    assert not rule.may_accept(1, [0], PATIENCE_S - 0.001)
    assert rule.may_accept(1, [0], PATIENCE_S)


def test_each_connection_is_waited_with_anew() -> None:
    rule = Balance()
    assert not rule.may_accept(1, [0], 0.0)
    assert rule.may_accept(1, [1], 0.01)
    assert not rule.may_accept(2, [1], 0.03)
    assert not rule.may_accept(2, [1], 0.03 + PATIENCE_S / 2)


def test_a_worker_that_takes_nothing_is_waited_for_once() -> None:
    rule = Balance()
    assert not rule.may_accept(1, [0], 0.0)
    assert rule.may_accept(1, [0], PATIENCE_S)
    assert rule.may_accept(2, [0], 2.0)
    assert rule.may_accept(3, [0], 2.0)


def test_a_worker_that_takes_connections_again_is_waited_for_again() -> None:
    rule = Balance()
    assert not rule.may_accept(5, [0], 0.0)
    assert rule.may_accept(5, [0], PATIENCE_S)
    assert not rule.may_accept(6, [1], 2.0)


class Accepted:
    """Where a listener's sockets go; `mine` and `others` are the counts that it is told."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.peers: list[tuple[str, int]] = []
        self.others: list[int] = []
        self.scarcities = 0

    def take(self, sock: socket.socket, address: tuple[str, int]) -> None:
        self.sockets.append(sock)
        self.peers.append(address)

    def counts(self) -> tuple[int, list[int]]:
        return len(self.sockets), self.others

    def on_scarcity(self) -> None:
        self.scarcities += 1


@asynccontextmanager
async def listening(accepted: Accepted) -> AsyncIterator[tuple[Listener, int]]:
    sock = listening_socket()
    port = sock.getsockname()[1]
    settings = ListenerSettings(sock.detach(), f"127.0.0.1:{port}")
    listener = Listener(settings, accepted.take, accepted.counts, accepted.on_scarcity)
    listener.open()
    try:
        yield listener, port
    finally:
        listener.close()
        for one in accepted.sockets:
            one.close()


@contextmanager
def connections(port: int, number: int) -> Iterator[list[socket.socket]]:
    made = [socket.create_connection(("127.0.0.1", port)) for _ in range(number)]
    try:
        yield made
    finally:
        for sock in made:
            sock.close()


async def test_an_accepted_socket_never_blocks_and_notices_when_its_client_vanishes() -> None:
    accepted = Accepted()
    async with listening(accepted) as (_, port):
        with connections(port, 1) as (client,):
            await until(lambda: len(accepted.sockets) == 1)
            assert accepted.peers == [client.getsockname()]
            (sock,) = accepted.sockets
            assert sock.gettimeout() == 0
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000


async def test_a_listener_that_is_ahead_lets_another_process_have_the_connection() -> None:
    accepted = Accepted()
    accepted.others = [-5]  # always less loaded
    async with listening(accepted) as (listener, port):
        rival = socket.socket(fileno=os.dup(listener._sock.fileno()))
        rival.settimeout(0)
        with connections(port, 1):
            rival.accept()[0].close()
            rival.close()
            with connections(port, 1):  # nobody else takes this one
                await until(lambda: len(accepted.sockets) == 1)
    assert len(accepted.sockets) == 1


async def test_all_connections_are_taken_although_nobody_less_loaded_takes_any() -> None:
    accepted = Accepted()
    accepted.others = [0]
    async with listening(accepted) as (_, port):
        with connections(port, 50):
            await until(lambda: len(accepted.sockets) == 50)


async def test_after_close_nothing_is_accepted_and_closing_again_does_nothing() -> None:
    accepted = Accepted()
    async with listening(accepted) as (listener, port):
        listener.close()
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    assert not accepted.sockets


async def test_running_out_of_descriptors_pauses_accepting_and_loses_no_connection() -> None:
    accepted = Accepted()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with listening(accepted) as (_, port):
        with connections(port, 3):
            lowest_free = os.dup(0)
            os.close(lowest_free)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
                await until(lambda: accepted.scarcities > 0)
                assert len(accepted.sockets) == 0
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await until(lambda: len(accepted.sockets) == 3)


def test_a_descriptor_that_is_no_socket_is_refused() -> None:
    async def make(fd: int) -> None:
        Listener(ListenerSettings(fd, "x:1"), Accepted().take, Accepted().counts, lambda: None)

    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError, match="Socket operation on non-socket"):
            asyncio.run(make(reading))
        os.fstat(reading)
    finally:
        os.close(reading)
        os.close(writing)


async def test_a_socket_that_does_not_listen_is_refused_and_left_open() -> None:
    with socket.socket() as sock:
        settings = ListenerSettings(sock.fileno(), "x:1")
        with pytest.raises(OSError, match="no listening socket"):
            Listener(settings, Accepted().take, Accepted().counts, lambda: None)
        os.fstat(sock.fileno())
