"""A backend in a process of its own, which a test can freeze: `python -m tests.support.frozen HOST
GRPC_PORT HTTP_PORT` runs one until it is killed.

A frozen process (SIGSTOP) is silent as a stuck one is: the kernel goes on to make connections and
to take what is sent on them.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.process import Program
from tests.support.sink import RawSink


class FreezableBackend:
    """One backend at `host`."""

    def __init__(self, host: str, program: Program) -> None:
        self.host = host
        self._program = program

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does."""
        self._program.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self._program.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def freezable_backend(host: str, ports: tuple[int, int]) -> AsyncIterator[FreezableBackend]:
    """Run a backend for the length of a block; `ports` are those of HTTP/2 and HTTP/1.1."""
    command = [sys.executable, "-m", "tests.support.frozen", host, *map(str, ports)]
    program = await Program.start(command)
    try:
        await program.wait_line("^ready$")
        yield FreezableBackend(host, program)
    finally:
        await program.kill()


async def _serve(host: str, *ports: str) -> None:
    grpc_port, http_port = map(int, ports)
    sink = RawSink(ports=(grpc_port, http_port), host=host)
    sink.aborts_are_faults = False
    async with sink:
        print("ready", flush=True)  # noqa: T201 - for the test that waits for it
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
