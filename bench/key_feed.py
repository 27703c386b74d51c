"""An edge gateway that follows a million keys: `python -m bench.key_feed`.

A central gateway has the keys in SQLite; an edge gateway follows it over gRPC in cleartext. Both
have two workers, and run on this machine.

- Start-up: seconds from the edge's `gateway serve` to ready, without a snapshot from before.
- Memory: VmRSS of control of both, and of the edge's largest worker, afterwards.
- Revocation: from the moment a delete is asked for at the center until every worker of the edge
  refuses the key, many times over.

Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from bench import bodies
from bench.backend import Backend
from bench.client import GrpcClient
from bench.each_worker import OK, UNAUTHENTICATED, connect_to_each_worker, send_until
from bench.process import Program, ProgramError, free_port, resident_mb
from bench.proxies import command_path, wait_until_ready
from bench.report import RunFailedError
from bench.running import Running
from bench.two_gateways import Api
from gateway.keys.stores.sqlite import sqlite_store

MAX_START_S = 30.0
MAX_LAG_MS = 1_000.0
_TOKEN = "token-of-the-bench"  # noqa: S105 - of a gateway that nobody else can reach
_KEYS = "/api/security/ingestion/api_keys"
_WORKERS = 2
_REVOCATIONS = 20
_INSERT = (
    "INSERT INTO gateway_keys (id, digest, name, created_ms, updated_ms, revision, enabled)"
    " VALUES (?, ?, ?, ?, ?, 1, 1)"
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured with `count` keys."""

    count: int
    center_start_s: float
    edge_start_s: float
    center_mb: float
    edge_mb: float
    edge_worker_mb: float
    lags_ms: list[float]
    """Ascending."""


async def fill(path: Path, count: int) -> None:
    """Make a store of so many keys."""
    store = sqlite_store(path, own_only=True)
    await store.feed.open(create=True)
    await store.feed.close()
    now_ms = time.time_ns() // 1_000_000
    rows = (
        (number, hashlib.sha256(b"feed %d" % number).digest(), f"agent-{number}", now_ms, now_ms)
        for number in range(1, count + 1)
    )
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(_INSERT, rows)
        connection.execute("UPDATE gateway_key_store SET revision = revision + 1")


@contextlib.contextmanager
def _gateway(folder: Path, name: str, tree: dict[str, Any]) -> Iterator[tuple[Running, int, float]]:
    """Run a gateway; give it, its admin port, and the seconds that it took to be ready."""
    port, admin_port = free_port(), free_port()
    document = {
        "listen": [{"address": f"127.0.0.1:{port}"}],
        "limits": {"drain_delay": "0s"},
        "workers": _WORKERS,
        "state_dir": str(folder / f"{name}-state"),
        **tree,
    }
    address = {"address": f"127.0.0.1:{admin_port}", "tokens": [_TOKEN]}
    document["admin"] = {**address, **tree.get("admin", {})}
    configuration = folder / f"{name}.yaml"
    configuration.write_text(yaml.safe_dump(document), encoding="utf-8")
    command = [command_path("gateway"), "serve", "--config", str(configuration)]
    began_s = time.perf_counter()
    program = Program.start(name, command, folder=folder, core=None)
    try:
        wait_until_ready(program, admin_port)
        seconds = time.perf_counter() - began_s
        yield Running(program, {"grpc": port}), admin_port, seconds
    finally:
        program.stop()


async def _revoke(api: Api, clients: list[GrpcClient], name: str) -> float:
    """Make a key, use it at the edge, delete it; return how long it still worked, in ms."""
    message = bodies.body("small").grpc
    key_id, key = await api.create(name)
    await asyncio.gather(*(send_until(client, key, message, OK) for client in clients))
    asked_s = time.perf_counter()
    refused_s, _ = await asyncio.gather(
        asyncio.gather(*(send_until(each, key, message, UNAUTHENTICATED) for each in clients)),
        api.delete(key_id),
    )
    return (max(refused_s) - asked_s) * 1e3


async def _lags(edge: Running, center_admin: int) -> list[float]:
    url = f"http://127.0.0.1:{center_admin}{_KEYS}"
    headers = {"X-API-Token": _TOKEN}
    async with aiohttp.ClientSession(headers=headers) as session:
        clients = await connect_to_each_worker(edge)
        api = Api(session, url)
        return sorted([await _revoke(api, clients, f"key {n}") for n in range(_REVOCATIONS)])


def measure(count: int) -> Measured:
    """Measure with so many keys. Raises `ProgramError`, `RunFailedError`."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        asyncio.run(fill(folder / "keys.db", count))
        backend = Backend.start(folder, None)
        stack.callback(backend.program.stop)
        grpc_port = free_port()
        center_tree = {
            "keys": {"stores": [f"sqlite://{folder / 'keys.db'}"]},
            "admin": {"grpc_address": f"127.0.0.1:{grpc_port}"},
        }
        edge_tree = {
            "backends": {"otlp_grpc": {"urls": [f"http://127.0.0.1:{backend.port}"]}},
            "keys": {
                "stores": [f"gateway+grpc://127.0.0.1:{grpc_port}"],
                "feed": {"token": _TOKEN},
            },
        }
        center, center_admin, center_s = stack.enter_context(
            _gateway(folder, "center", center_tree)
        )
        edge, _, edge_s = stack.enter_context(_gateway(folder, "edge", edge_tree))
        lags_ms = asyncio.run(_lags(edge, center_admin))
        edge_pids = [each.pid for each in edge.program.tree()]
        return Measured(
            count,
            center_s,
            edge_s,
            resident_mb(center.program.process.pid),
            resident_mb(edge_pids[0]),
            max(map(resident_mb, edge_pids[1:])),
            lags_ms,
        )


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.key_feed")
    parser.add_argument("--keys", type=int, default=1_000_000)
    count = parser.parse_args().keys
    try:
        found = measure(count)
    except (ProgramError, RunFailedError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{found.count} keys")
    print(f"  center ready after {found.center_start_s:.1f} s, control {found.center_mb:.0f} MB")
    print(
        f"  edge ready after {found.edge_start_s:.1f} s, control {found.edge_mb:.0f} MB, "
        f"largest worker {found.edge_worker_mb:.0f} MB"
    )
    middle = found.lags_ms[len(found.lags_ms) // 2]
    print(f"  delete asked for → refused: p50 {middle:.0f} ms, max {found.lags_ms[-1]:.0f} ms")
    is_missed = found.edge_start_s > MAX_START_S or found.lags_ms[-1] > MAX_LAG_MS
    return int(is_missed)


if __name__ == "__main__":
    sys.exit(main())
