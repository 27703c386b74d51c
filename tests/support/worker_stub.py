"""A program that speaks the worker's side of the channel and fails on purpose.

For fault injection only: what a good worker does is tested with the real one. Started like it, with
one argument more: a file that holds the name of the fault, read at each start, so that a test can
have one life fail and the next succeed. It listens to nothing and decides nothing.

    python tests/support/worker_stub.py FAULT_FILE CHANNEL_FD
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from gateway import metrics
from gateway.channel import (
    Applied,
    Channel,
    Down,
    Drain,
    KeyChanges,
    Keys,
    Ready,
    Report,
    Series,
    Start,
    Up,
)

REPORT_S = 0.05


def spin() -> None:
    """Keep the loop busy with one thing for ever."""
    while True:
        pass


class StubWorker:
    """Does what a worker must, but for its fault."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.done = asyncio.Event()
        self.exit_code = 0
        self.is_ready = False
        self.channel = Channel.for_worker(self.on_message, self.done.set)

    def on_message(self, message: Down | Up) -> None:
        if self.done.is_set():
            return
        match message:
            case Start():
                self.start()
            case Keys(last=True):
                self.become_ready()
            case KeyChanges(revision=revision) if self.fault != "never applies":
                self.channel.send(Applied(revision))
            case Drain() if self.fault != "never drains":
                self.report()
                self.done.set()

    def start(self) -> None:
        if self.fault == "exits with 3":
            self.end(3)
        if self.fault == "exits with 1":
            self.end(1)

    def become_ready(self) -> None:
        if self.fault == "is never ready":
            return
        self.channel.send(Ready(os.getpid()))
        self.is_ready = True
        faults: dict[str, Callable[[], None]] = {
            "spins in a callback": spin,
            "sends garbage": self.send_garbage,
            "exits with 3 when ready": lambda: self.end(3),
            "reports unknown series": self.report_unknown,
        }
        faults.get(self.fault, lambda: None)()

    def end(self, code: int) -> None:
        self.exit_code = code
        self.done.set()

    def send_garbage(self) -> None:
        assert self.channel._transport is not None
        self.channel._transport.write(b"\x00\x00\x00\x03abc")

    def report(self) -> None:
        self.channel.send(
            Report(
                deltas=[Series(metrics.CONNECTIONS_REFUSED.name, ("limit",), 1)],
                gauges=[Series(metrics.CONNECTIONS.name, (), 2)],
                refusals=[],
                usage=[],
            )
        )

    def report_unknown(self) -> None:
        series = [Series("gateway_of_another_version_total", (), 1)]
        self.channel.send(Report(deltas=series, gauges=[], refusals=[], usage=[]))

    async def run(self, fd: int) -> int:
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self.channel, sock=sock)
        while not self.done.is_set():
            if self.is_ready and self.fault != "falls silent":
                self.report()
            try:
                await asyncio.wait_for(self.done.wait(), REPORT_S)
            except TimeoutError:
                continue
        self.channel.close()
        await asyncio.sleep(0)
        return self.exit_code


if __name__ == "__main__":
    sys.exit(asyncio.run(StubWorker(Path(sys.argv[1]).read_text().strip()).run(int(sys.argv[2]))))
