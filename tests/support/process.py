"""Run programs beside a test: the installed gateway, a Collector, load tools.

Everything here is asynchronous: a sink or client lives in the test's own event loop and must go on
being served while a program starts, works and ends.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml

from tests.support.certs import Certificate
from tests.support.child import Child, start_child

START_S = 30.0
STOP_S = 30.0
WAIT_S = 30.0
_POLL_S = 0.02
_MAX_LINE_BYTES = 1 << 20

COMMAND = Path(sys.executable).with_name("gateway")
"""The installed command, in the environment that runs the tests."""

KEY = "test-key-of-the-interoperability-tests"
"""The receiver key of every gateway started here."""


def _port_range() -> range:
    """Return the ports of this test process: those that run beside it have others.

    All lie below the range from which the system takes ports for outgoing connections, so that no
    connection of a test can take one before the program under test has bound it.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    first = 10_000 + int(worker) % 10 * 2_200
    return range(first, first + 2_200)


def free_ports(count: int) -> list[int]:
    """Return distinct ports of 127.0.0.1 that nobody listens on."""
    ports: list[int] = []
    with ExitStack() as sockets:
        while len(ports) < count:
            listener = sockets.enter_context(socket.socket())
            port = random.choice(_port_range())
            with suppress(OSError):
                listener.bind(("127.0.0.1", port))
                ports.append(port)
    return ports


class ProgramError(AssertionError):
    """A program ended, or did not do what it must; the text holds its last output."""


@dataclass(slots=True)
class Program:
    """A running program and everything that it has printed."""

    name: str
    process: Child
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _readers: list[asyncio.Task[None]] = field(default_factory=list)

    @classmethod
    async def start(
        cls,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Program:
        """Start a command; its output is read from the first line on.

        Raises:
            ProgramError: there is no such program.

        """
        try:
            process = await start_child(
                *map(str, command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=env,
                cwd=cwd,
                limit=_MAX_LINE_BYTES,
            )
        except FileNotFoundError as error:
            message = f"{command[0]} is not there: install what is tested first (`make`)"
            raise ProgramError(message) from error
        program = cls(Path(command[0]).name, process)
        for stream, lines in ((process.stdout, program.stdout), (process.stderr, program.stderr)):
            assert stream is not None
            program._readers.append(asyncio.create_task(program._read(stream, lines)))
        return program

    async def _read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        async for line in stream:
            lines.append(line.decode(errors="replace").rstrip("\n"))
            self._changed.set()
        self._changed.set()

    @property
    def output(self) -> str:
        """Everything printed so far, for a failed test's text."""
        return "\n".join([*self.stdout, *self.stderr])

    @property
    def is_over(self) -> bool:
        """Whether the program has ended and all that it printed is read."""
        return all(reader.done() for reader in self._readers)

    async def wait_line(self, pattern: str) -> re.Match[str]:
        """Return the first match in any line, printed already or still to come.

        Raises:
            ProgramError: the program ended without it, or it took longer than `WAIT_S`.

        """
        matcher = re.compile(pattern)

        def found() -> re.Match[str] | None:
            lines = (*self.stdout, *self.stderr)
            return next((m for line in lines if (m := matcher.search(line))), None)

        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                while not (match := found()) and not self.is_over:
                    self._changed.clear()
                    await self._changed.wait()
        if (match := found()) is None:
            message = f"{self.name} never printed {pattern!r}; it printed:\n{self.output}"
            raise ProgramError(message)
        return match

    async def wait(self, within_s: float = WAIT_S) -> int:
        """Return the exit code once the program has ended of its own accord.

        Raises:
            ProgramError: it did not end within `within_s` seconds.

        """
        try:
            async with asyncio.timeout(within_s):
                await asyncio.gather(*self._readers)
                return await self.process.wait()
        except TimeoutError:
            message = f"{self.name} did not end; it printed:\n{self.output}"
            raise ProgramError(message) from None

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the program to end and return its exit code (raises ProgramError as `wait`)."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await self.wait(STOP_S)

    async def kill(self) -> None:
        """End the program at once, if it still runs."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        # A grandchild that holds the pipes open must not hold up the test.
        self.process.close()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)


def workers_of(pid: int) -> list[psutil.Process]:
    """Return the worker processes of the gateway with this pid that have not ended."""
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess, FileNotFoundError):  # it has just ended
            if "gateway.dataplane.worker_process" in child.cmdline():
                found.append(child)
    return found


@asynccontextmanager
async def running(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> AsyncIterator[Program]:
    """Run a command for the length of a block; it never outlives it."""
    program = await Program.start(command, env=env, cwd=cwd)
    try:
        yield program
    finally:
        await program.kill()


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid upon it: mappings are merged, all else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both and old is not None else value
    return merged


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running `gateway serve`: where it listens and what it says."""

    program: Program
    config_file: Path
    port: int
    """Cleartext."""
    tls_port: int | None
    admin_port: int

    @property
    def admin_url(self) -> str:
        """The admin API's url."""
        return f"http://127.0.0.1:{self.admin_port}"

    async def get(self, path: str) -> tuple[int, str]:
        """Return status and body of an admin endpoint."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.admin_url + path) as response,
        ):
            return response.status, await response.text()


def configuration(folder: Path, ports: Sequence[int], tls: Certificate | None) -> dict[str, Any]:
    """Return the configuration that tests start from: everything in `folder`, two workers."""
    listen: list[dict[str, Any]] = [{"address": f"127.0.0.1:{ports[0]}"}]
    if tls is not None:
        files = {"cert_file": str(tls.cert_file), "key_file": str(tls.key_file)}
        listen.append({"address": f"127.0.0.1:{ports[1]}", "tls": files})
    return {
        "listen": listen,
        "admin": {"address": f"127.0.0.1:{ports[2]}"},
        "auth": {"receiver_keys": [{"name": "test", "key": KEY}]},
        "keys": {"stores": [f"sqlite:///{folder / 'keys.db'}"]},
        "limits": {"drain_delay": "0s", "drain_timeout": "5s"},
        "state_dir": str(folder / "state"),
        "workers": 2,
    }


@asynccontextmanager
async def running_gateway(
    folder: Path,
    overrides: Mapping[str, Any],
    *,
    tls: Certificate | None = None,
) -> AsyncIterator[Gateway]:
    """Run the installed gateway until the end of a block, ready to serve when the block begins.

    `overrides` are laid upon `configuration`. At the end it is stopped by SIGTERM and must exit
    with 0.

    Raises:
        ProgramError: it did not become ready, or did not end well; the text holds its output.

    """
    ports = free_ports(3)
    config_file = folder / "gateway.yaml"
    config_file.write_text(yaml.safe_dump(merge(configuration(folder, ports, tls), overrides)))
    async with running([COMMAND, "serve", "--config", config_file], cwd=folder) as program:
        gateway = Gateway(
            program, config_file, ports[0], ports[1] if tls is not None else None, ports[2]
        )
        await _until_ready(gateway)
        yield gateway
        if (code := await program.stop()) != 0:
            message = f"the gateway exited with {code}; it printed:\n{program.output}"
            raise ProgramError(message)


async def _until_ready(gateway: Gateway) -> None:
    """Ask `/readyz` until it answers 200."""
    answer = "nothing"
    try:
        async with asyncio.timeout(START_S):
            while not gateway.program.is_over:
                with suppress(aiohttp.ClientError):
                    status, answer = await gateway.get("/readyz")
                    if status == 200:
                        return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        pass
    message = (
        f"the gateway did not become ready; /readyz: {answer}; it printed:\n"
        f"{gateway.program.output}"
    )
    raise ProgramError(message)
