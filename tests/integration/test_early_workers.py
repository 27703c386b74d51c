"""Workers that are started before control knows what they will serve."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from gateway import descriptors
from gateway.channel import Channel, Down, Keys, Ready, Start, Up
from gateway.control.workers.connection_counts import ConnectionCounts
from gateway.control.workers.worker_start import StartedProcess, WorkerStarter
from gateway.settings import ListenerSettings
from gateway.worker_contract import NOT_ACCEPTING
from tests.support.clients import http1_request
from tests.support.exchange import PROTOBUF
from tests.support.plane import KEY, entry, listening_socket, settings
from tests.support.polling import until


async def _ended(process: subprocess.Popen[bytes]) -> int:
    await until(lambda: process.poll() is not None, "the end of a worker")
    assert process.returncode is not None
    return process.returncode


@asynccontextmanager
async def _serving(starter: WorkerStarter) -> AsyncIterator[tuple[StartedProcess, int]]:
    """Have a worker serve that the starter gives; yield it and the port that it listens on."""
    sock, counts = listening_socket(), ConnectionCounts(1)
    messages: list[Down | Up] = []
    port = sock.getsockname()[1]
    listener = ListenerSettings(sock.fileno(), f"127.0.0.1:{port}")
    started = starter.start([counts.fd, sock.fileno()])
    channel = Channel.for_control(messages.append, lambda: None)
    started.channel.settimeout(0)
    loop = asyncio.get_running_loop()
    await loop.create_unix_connection(lambda: channel, sock=started.channel)
    try:
        channel.send(Start(settings([listener], counts.fd)))
        channel.send(Keys(1, [entry(KEY)], first=True, last=True))
        await until(lambda: any(isinstance(each, Ready) for each in messages), "a ready worker")
        assert counts.read() != [NOT_ACCEPTING]
        yield started, port
    finally:
        started.process.kill()
        await _ended(started.process)
        channel.close()
        counts.close()
        sock.close()


async def _status(port: int) -> int:
    fields = (("content-type", PROTOBUF), ("authorization", f"StackState {KEY}"))
    return (await http1_request(port, "/v1/traces", fields, b"x")).status


async def test_a_worker_that_was_started_early_serves() -> None:
    with closing(WorkerStarter()) as starter:
        starter.start_early(1)
        early = starter._waiting[0].process.pid
        async with _serving(starter) as (started, port):
            assert started.process.pid == early
            assert await _status(port) == 503  # the key is good, and there is no backend


async def test_what_is_needed_beyond_the_early_ones_is_started_then() -> None:
    with closing(WorkerStarter()) as starter:
        async with _serving(starter) as (_, port):
            assert await _status(port) == 503


async def test_one_that_ended_while_it_waited_is_not_used() -> None:
    with closing(WorkerStarter()) as starter:
        starter.start_early(1)
        early = starter._waiting[0].process
        early.kill()
        assert await _ended(early) == -signal.SIGKILL
        async with _serving(starter) as (started, port):
            assert started.process.pid != early.pid
            assert await _status(port) == 503


async def test_more_descriptors_than_can_be_given_are_inherited() -> None:
    numbers = [os.dup(0) for _ in range(descriptors.MOST + 1)]
    with closing(WorkerStarter()) as starter:
        starter.start_early(1)
        early = starter._waiting[0].process
        started = starter.start(numbers)
        inherited = {int(each.name) for each in Path(f"/proc/{started.process.pid}/fd").iterdir()}
        assert set(numbers) <= inherited
        assert await _ended(early) == -signal.SIGKILL
        started.end()
    for number in numbers:
        os.close(number)


async def test_those_that_are_not_needed_are_ended() -> None:
    starter = WorkerStarter()
    starter.start_early(2)
    processes = [each.process for each in starter._waiting]
    starter.close()
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 2


async def test_one_that_waits_ends_by_itself_when_control_is_gone() -> None:
    starter = WorkerStarter()
    starter.start_early(1)
    (waiting,) = starter._waiting
    waiting.channel.close()
    assert await _ended(waiting.process) == 0


async def test_one_that_waits_heeds_no_signal_that_is_controls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/of/control")
    with closing(WorkerStarter()) as starter:
        starter.start_early(1)
        (waiting,) = starter._waiting
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            waiting.process.send_signal(number)
        async with _serving(starter) as (started, _):
            assert started.process.pid == waiting.process.pid
            environ = Path(f"/proc/{started.process.pid}/environ").read_bytes()
            assert b"PATH=" in environ
            assert b"NOTIFY_SOCKET" not in environ


def test_a_process_that_cannot_be_started_is_an_error_only_when_it_is_needed() -> None:
    with closing(WorkerStarter(["/no/such/program"])) as starter:
        starter.start_early(3)
        with pytest.raises(FileNotFoundError), socket.socket() as sock:
            starter.start([sock.fileno()])
