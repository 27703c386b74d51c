"""Real worker processes, and control's end of their channels in the hands of a test."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import IO, Any, TypeVar

import psutil

from gateway.channel import Channel, Down, Keys, Ready, Report, Start, Up
from gateway.control.workers.connection_counts import ConnectionCounts
from gateway.model import KeyEntry
from gateway.settings import ListenerSettings, TlsServerSettings, WorkerSettings
from tests.support.plane import listening_socket, settings
from tests.support.polling import until

COMMAND = (sys.executable, "-P", "-m", "gateway.dataplane.worker_process")
UpT = TypeVar("UpT", bound=Up)


class WorkerUnderTest:
    """One process. `messages` is what it has sent so far."""

    def __init__(self, command: Sequence[str], fds: Sequence[int]) -> None:
        """Start a process that inherits `fds`, with its end of a channel."""
        self.messages: list[Up] = []
        self.is_channel_open = True
        self._ours, theirs = socket.socketpair()
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self.process = subprocess.Popen(
            [*command, str(theirs.fileno())],
            pass_fds=(theirs.fileno(), *fds),
            stdin=subprocess.DEVNULL,
            stderr=self._stderr,
        )
        theirs.close()
        self.channel = Channel.for_control(self._on_message, self._on_end)

    async def connect(self) -> None:
        """Open our end of the channel."""
        self._ours.settimeout(0)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self.channel, sock=self._ours)

    def _on_message(self, message: Down | Up) -> None:
        assert isinstance(message, Up)
        self.messages.append(message)

    def _on_end(self) -> None:
        self.is_channel_open = False

    def send(self, message: Down) -> None:
        """Send an order."""
        self.channel.send(message)

    def send_raw(self, data: bytes) -> None:
        """Send what is no message."""
        assert self.channel._transport is not None
        self.channel._transport.write(data)

    def all(self, kind: type[UpT]) -> list[UpT]:
        """Return the messages of one kind that have come."""
        return [message for message in self.messages if isinstance(message, kind)]

    async def next(self, kind: type[UpT], holds: Callable[[UpT], bool] = lambda _: True) -> UpT:
        """Wait for a message of one kind, now or later. Raises `TimeoutError`."""
        await until(lambda: any(map(holds, self.all(kind))), f"{kind.__name__}; {self.log()}")
        return next(filter(holds, self.all(kind)))

    async def load(self, keys: Iterable[KeyEntry], revision: int = 1) -> None:
        """Give it all its keys and wait until it is ready."""
        self.send(Keys(revision, list(keys), first=True, last=True))
        await self.next(Ready)

    async def exit_code(self) -> int:
        """Wait for its end."""
        await until(lambda: self.process.poll() is not None, f"the end of a worker; {self.log()}")
        return self.process.returncode

    def count(self, metric: str, *labels: str) -> float:
        """Return the sum of a counter in all reports, over the labels not given."""
        return sum(
            series.value
            for report in self.all(Report)
            for series in report.deltas
            if series.metric == metric
            and series.labels[: len(labels)] == labels
            and not isinstance(series.value, list)
        )

    def log(self) -> str:
        """Return what it has written to its standard error."""
        self._stderr.seek(0)
        return self._stderr.read().decode()

    @property
    def memory_bytes(self) -> int:
        """Its resident memory."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    async def end(self) -> None:
        """End the process, if it has not ended."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._stderr.close()
        await until(lambda: not self.is_channel_open)


class Workers:
    """Processes that share a listening socket and the counts of their connections."""

    def __init__(
        self, sock: socket.socket, counts: ConnectionCounts, all_settings: Sequence[WorkerSettings]
    ) -> None:
        self.sock = sock
        self.port = int(sock.getsockname()[1])
        self.counts = counts
        self.settings = list(all_settings)
        self.all: list[WorkerUnderTest] = []

    @property
    def one(self) -> WorkerUnderTest:
        """The only one."""
        (worker,) = self.all
        return worker

    async def spawn(self, index: int) -> WorkerUnderTest:
        """Start the worker of a slot, as control does."""
        own = self.settings[index]
        fds = [own.counts_fd, *(listener.fd for listener in own.listeners)]
        worker = WorkerUnderTest(COMMAND, fds)
        self.all.append(worker)
        await worker.connect()
        worker.send(Start(own))
        return worker


@asynccontextmanager
async def worker_processes(
    number: int = 1, *, tls: TlsServerSettings | None = None, **changes: Any
) -> AsyncIterator[Workers]:
    """Start worker processes that wait for their keys; further arguments change `settings`."""
    sock = listening_socket()
    counts = ConnectionCounts(number)
    listener = ListenerSettings(sock.fileno(), f"127.0.0.1:{sock.getsockname()[1]}", tls)
    workers = Workers(
        sock,
        counts,
        [
            settings([listener], counts.fd, index=index, workers=number, **changes)
            for index in range(number)
        ],
    )
    try:
        for index in range(number):
            await workers.spawn(index)
        yield workers
    finally:
        for worker in workers.all:
            await worker.end()
        counts.close()
        with contextlib.suppress(OSError):
            sock.close()


@asynccontextmanager
async def failing_worker(
    make_settings: Callable[[int, int], WorkerSettings],
) -> AsyncIterator[WorkerUnderTest]:
    """Start a process whose settings are made of (a listening descriptor, the counts')."""
    sock = listening_socket()
    counts = ConnectionCounts(1)
    worker = WorkerUnderTest(COMMAND, [counts.fd, sock.fileno()])
    try:
        await worker.connect()
        worker.send(Start(make_settings(sock.fileno(), counts.fd)))
        yield worker
    finally:
        await worker.end()
        counts.close()
        sock.close()
