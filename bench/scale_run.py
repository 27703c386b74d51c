"""One gateway with very many keys, under traffic, in all that can happen to it: for `bench.scale`,
which says what is measured and why.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bench import bodies, keys, many_keys, pauses
from bench.backend import Backend
from bench.client import GrpcClient
from bench.each_worker import connect_to_each_worker, owner_of
from bench.process import Program, ProgramError, free_port, resident_mb
from bench.proxies import command_path, wait_until_ready
from bench.report import RunFailedError
from bench.running import Running
from gateway.keys.commands import KeyCommands
from gateway.keys.store import KeySpec
from gateway.keys.stores.postgresql import postgresql_store
from tests.support.postgresql import PostgresqlServer, postgresql_server

_OK, _UNAUTHENTICATED = 0, 16
_GIVE_UP_S = 60.0
_AT_REST_S = 5.0
_REVOCATIONS = 20
_WORKERS = 2
_STEPS = 100
_MORE = 0.4
_MOST_CONNECTIONS = 100


@dataclass(slots=True)
class Phase:
    """What was measured while one thing went on. All in milliseconds."""

    name: str
    seconds: float = 0.0
    requests_ms: list[float] = field(default_factory=list)
    lag_ms: list[float] = field(default_factory=list)
    held_ms: float = 0.0
    """The longest time that a worker's loop was held, CPU."""
    late_ms: float = 0.0
    """The same in wall-clock time: with what other programs did."""
    gc_ms: float = 0.0
    """The longest garbage collection, CPU; `held_ms` contains it."""


@dataclass(slots=True)
class Scale:
    """What was measured with `count` keys."""

    count: int
    start_s: float = 0.0
    worker_mb: float = 0.0
    control_mb: float = 0.0
    rows_read: int = 0
    """From the table of keys, while a worker was replaced."""
    phases: list[Phase] = field(default_factory=list)


def start(folder: Path, url: str, backend_port: int) -> tuple[Program, int, float]:
    """Start a gateway; return it, its port, and the seconds that it took to be ready."""
    port, admin_port = free_port(), free_port()
    configuration = folder / "gateway.yaml"
    backend = {"urls": [f"http://127.0.0.1:{backend_port}"]}
    document = {
        "listen": [{"address": f"127.0.0.1:{port}"}],
        "backends": {"otlp_grpc": backend},
        "keys": {"stores": [url]},
        "admin": {"address": f"127.0.0.1:{admin_port}"},
        "limits": {"drain_delay": "0s"},
        "workers": _WORKERS,
        "state_dir": str(folder / "state"),
    }
    configuration.write_text(yaml.safe_dump(document), encoding="utf-8")
    probed = pauses.environment(folder / "pauses")
    began_s = time.perf_counter()
    program = Program.start(
        "gateway",
        [command_path("gateway"), "serve", "--config", str(configuration)],
        folder=folder,
        core=None,
        environment=probed,
    )
    try:
        wait_until_ready(program, admin_port)
    except ProgramError:
        program.stop()
        raise
    return program, port, time.perf_counter() - began_s


class Bench:
    """One gateway under measurement."""

    def __init__(self, folder: Path, program: Program, port: int, url: str, scale: Scale) -> None:
        self._folder = folder
        self._program = program
        self._port = port
        self._url = url
        self._scale = scale
        self._store = postgresql_store(url)
        self._manager = KeyCommands(self._store.repository)

    async def run(self) -> None:
        """Measure everything.

        Raises:
            RunFailedError: a request was answered unexpectedly, or something did not come about.
        """
        await self._store.feed.open(create=False)
        try:
            await self._connect()
            await self._measure()
        finally:
            await self._store.feed.close()

    async def _connect(self) -> None:
        # A gateway is ready when one worker is.
        await _until(lambda: self._opened() >= _WORKERS, f"{_WORKERS} workers do not come up")
        clients = await connect_to_each_worker(Running(self._program, {"grpc": self._port}))
        # One is probed, another one sees the revocations, and both are on one worker.
        self._client, self._spare = clients
        self._owner = await owner_of(self._client, self._program.tree()[1:])
        self._prober = await self._connect_to(self._owner)
        for each in (*clients, self._prober):
            # A connection without any request is closed after limits.header_timeout.
            await each.export(keys.key(0), bodies.body("small").grpc)

    async def _measure(self) -> None:
        scale = self._scale
        await _until(lambda: self._snapshot() is not None, "no snapshot is written")
        await self._phase("at rest", lambda: asyncio.sleep(_AT_REST_S))
        before = await many_keys.rows_read(self._url)
        await self._phase("a worker is replaced", self._replace)
        scale.rows_read = await many_keys.rows_read(self._url) - before
        await self._phase("all is read and written again", self._read_again)
        self._weigh()
        await self._phase("more keys come", self._add)
        for each in (self._client, self._spare, self._prober):
            await each.close()

    async def _replace(self) -> None:
        victim = next(each for each in self._program.tree()[1:] if each.pid != self._owner)
        victim.kill()
        await _until(lambda: self._opened() > _WORKERS, "no worker took the place of another")

    async def _read_again(self) -> None:
        before = self._snapshot()
        await many_keys.forget_changes(self._url)
        await _until(lambda: self._snapshot() != before, "the snapshot is not written anew")

    async def _add(self) -> None:
        count = self._scale.count
        step = max(1, int(count * _MORE / _STEPS))
        for first in range(count + 1, count + 1 + step * _STEPS, step):
            await many_keys.add(self._url, first, step)

    async def _phase(self, name: str, disturb: Callable[[], Awaitable[None]]) -> None:
        """Send requests, create and delete keys, until `disturb` is done."""
        began_ns = time.monotonic_ns()
        phase = Phase(name)
        done = asyncio.Event()
        probing = asyncio.create_task(self._probe(done, phase.requests_ms))

        async def timed() -> None:
            await disturb()
            phase.seconds = (time.monotonic_ns() - began_ns) / 1e9

        disturbing = asyncio.create_task(timed())
        while not disturbing.done() or len(phase.lag_ms) < _REVOCATIONS:
            phase.lag_ms.append(await self._revoke())
        phase.lag_ms.append(await self._revoke())  # not before everything of `disturb` is in force
        await disturbing
        done.set()
        await probing
        self._weigh_pauses(phase, began_ns)
        self._scale.phases.append(phase)

    async def _probe(self, until: asyncio.Event, times_ms: list[float]) -> None:
        """Send one request after the other, and note how long each takes."""
        message = bodies.body("small").grpc
        while not until.is_set():
            began_s = time.perf_counter()
            code = await self._prober.export(keys.key(0), message)
            times_ms.append((time.perf_counter() - began_s) * 1e3)
            if code != _OK:
                text = f"a known key was answered {code}"
                raise RunFailedError(text)
            await asyncio.sleep(0.001)

    async def _revoke(self) -> float:
        """Create and delete a key on another machine, so to speak; return the lag in ms."""
        issued = await self._manager.create(KeySpec("revoked"))
        key = issued.key.reveal()
        await self._answered(key, _OK)
        await self._manager.delete(issued.record.id)
        deleted_s = time.perf_counter()
        await self._answered(key, _UNAUTHENTICATED)
        return (time.perf_counter() - deleted_s) * 1e3

    async def _answered(self, key: str, code: int) -> None:
        message = bodies.body("small").grpc
        deadline_s = time.perf_counter() + _GIVE_UP_S
        while await self._client.export(key, message) != code:
            if time.perf_counter() > deadline_s:
                text = f"no answer with code {code} within {_GIVE_UP_S:.0f} s"
                raise RunFailedError(text)
            await asyncio.sleep(0.002)

    def _weigh(self) -> None:
        control, *workers = self._program.tree()
        self._scale.control_mb = resident_mb(control.pid)
        self._scale.worker_mb = max(resident_mb(each.pid) for each in workers)

    def _weigh_pauses(self, phase: Phase, began_ns: int) -> None:
        noted = [each for each in pauses.notes(self._folder / "pauses") if each.at_ns > began_ns]
        loops = [each for each in noted if each.kind == "loop"]
        if not loops:
            text = "the workers note nothing of their pauses"
            raise RunFailedError(text)
        phase.held_ms = max(each.cpu_ms for each in loops)
        phase.late_ms = max(each.wall_ms for each in loops)
        phase.gc_ms = max((each.cpu_ms for each in noted if each.kind == "gc"), default=0.0)

    def _opened(self) -> int:
        return sum(each.kind == "open" for each in pauses.notes(self._folder / "pauses"))

    def _snapshot(self) -> int | None:
        """Tell one writing of the snapshot from the next."""
        paths = list((self._folder / "state").glob("keys-*.snapshot"))
        return paths[0].stat().st_ino if paths else None

    async def _connect_to(self, worker: int) -> GrpcClient:
        """Open connections until one is the worker's."""
        for _ in range(_MOST_CONNECTIONS):
            client = await GrpcClient.connect(self._port)
            if await owner_of(client, self._program.tree()[1:]) == worker:
                return client
            await client.close()
        text = f"worker {worker} gets no connection"
        raise RunFailedError(text)


async def _until(holds: Callable[[], bool], otherwise: str) -> None:
    deadline_s = time.perf_counter() + _GIVE_UP_S
    while not holds():
        if time.perf_counter() > deadline_s:
            raise RunFailedError(otherwise)
        await asyncio.sleep(0.02)


def measure(count: int) -> Scale:
    """Run everything with `count` keys.

    Raises:
        ProgramError: the gateway or the backend does not start.
        RunFailedError: a request was answered unexpectedly.
    """
    scale = Scale(count)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server: PostgresqlServer = stack.enter_context(postgresql_server())
        url = asyncio.run(server.new_database())
        asyncio.run(many_keys.fill(url, count))
        backend = Backend.start(folder, None)
        stack.callback(backend.program.stop)
        program, port, scale.start_s = start(folder, url, backend.port)
        stack.callback(program.stop)
        asyncio.run(Bench(folder, program, port, url, scale).run())
    return scale
