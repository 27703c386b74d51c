"""Connections over real workers: 16 opened at once end with 7 to 9 on each of two."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.worker_contract import NOT_ACCEPTING
from tests.support.plane import limits
from tests.support.polling import until
from tests.support.worker_process import Workers, worker_processes

RUNS = 20
PATIENT = limits(header_timeout_s=60)


@contextmanager
def opened_at_once(port: int, number: int) -> Iterator[list[socket.socket]]:
    """Begin all connections before any can be waited for."""
    socks = [socket.socket() for _ in range(number)]
    try:
        for sock in socks:
            sock.settimeout(0)
            sock.connect_ex(("127.0.0.1", port))
        yield socks
    finally:
        for sock in socks:
            sock.close()


async def load_all(workers: Workers) -> None:
    for worker in workers.all:
        await worker.load([])


async def test_sixteen_connections_opened_at_once_end_evenly_on_two_workers() -> None:
    async with worker_processes(2, limits=PATIENT) as workers:
        await load_all(workers)
        ends = []
        for _ in range(RUNS):
            with opened_at_once(workers.port, 16):
                await until(lambda: sum(workers.counts.read()) == 16)
                ends.append(workers.counts.read())
            await until(lambda: workers.counts.read() == [0, 0])
        assert all(7 <= count <= 9 for counts in ends for count in counts), ends


async def test_a_worker_that_joins_later_gets_the_connections_until_it_has_as_many() -> None:
    async with worker_processes(2, limits=PATIENT) as workers:
        first, second = workers.all
        await first.load([])
        with opened_at_once(workers.port, 10):
            await until(lambda: workers.counts.read() == [10, NOT_ACCEPTING])
            await second.load([])
            with opened_at_once(workers.port, 10):
                await until(lambda: sum(workers.counts.read()) == 20)
                counts = workers.counts.read()
                assert all(9 <= count <= 11 for count in counts), counts


async def test_a_worker_that_hangs_does_not_keep_connections_from_the_others() -> None:
    async with worker_processes(2, limits=PATIENT) as workers:
        await load_all(workers)
        workers.all[0].process.send_signal(signal.SIGSTOP)
        with opened_at_once(workers.port, 50):
            await until(lambda: workers.counts.read() == [0, 50])
        workers.all[0].process.send_signal(signal.SIGCONT)


async def test_a_dead_workers_slot_holds_nobody_back_once_it_is_freed() -> None:
    async with worker_processes(2, limits=PATIENT) as workers:
        await load_all(workers)
        workers.all[0].process.kill()
        await workers.all[0].exit_code()
        workers.counts.free(0)
        with opened_at_once(workers.port, 50):
            await until(lambda: workers.counts.read() == [NOT_ACCEPTING, 50])
