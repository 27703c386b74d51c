"""How soon a deleted key stops working everywhere: `python -m bench.revocation`.

A gateway with two workers runs on a SQLite store. Many times over: a key is created as `gateway
keys create` does, accepted on a connection to each worker, deleted as `gateway keys delete` does,
and sent again and again on each connection until it is refused. Reported are the times from the
delete's commit (it is on disk) and from its acknowledgement (the command returns: every worker has
confirmed) to the first refusal in the last worker; a refusal before the acknowledgement counts
as 0. Exit code 1 when the 99th percentile since the commit, the harder of the two, exceeds 100 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from bench import bodies, store
from bench.backend import Backend
from bench.client import GrpcClient
from bench.process import ProgramError
from bench.proxies import Gateway
from bench.report import RunFailedError, percentile
from bench.running import Running
from gateway.keys.board import Confirmation, wait_confirmed
from gateway.keys.manage import KeyManager
from gateway.keys.sql import SqlStore

MAX_P99_MS = 100.0
_OK, _UNAUTHENTICATED = 0, 16
_ACKNOWLEDGED_WITHIN_S = 1.0
_GIVE_UP_S = 10.0
_MAX_CONNECTIONS_PER_WORKER = 50


@dataclass(frozen=True, slots=True)
class Lags:
    """How long a deleted key still worked in the slowest worker, in milliseconds, ascending."""

    since_commit_ms: list[float]
    since_acknowledged_ms: list[float]
    unacknowledged: int
    """Deletes that not all workers had confirmed after 1 s."""


async def connect_to_each_worker(running: Running) -> list[GrpcClient]:
    """Open connections until every worker process has one; keep one each.

    Raises:
        RunFailedError: a worker got none of many.
    """
    workers = running.program.tree()[1:]
    by_worker: dict[int, GrpcClient] = {}
    for _ in range(len(workers) * _MAX_CONNECTIONS_PER_WORKER):
        client = await GrpcClient.connect(running.ports["grpc"])
        pid = await owner_of(client, workers)
        if pid in by_worker:
            await client.close()
        else:
            by_worker[pid] = client
        if len(by_worker) == len(workers):
            return list(by_worker.values())
    message = f"{len(workers)} workers, but only {len(by_worker)} got a connection"
    raise RunFailedError(message)


async def owner_of(client: GrpcClient, workers: list[psutil.Process]) -> int:
    """Return the process that has accepted the client's connection."""
    deadline_s = time.monotonic() + _GIVE_UP_S
    while time.monotonic() < deadline_s:
        for worker in workers:
            for connection in worker.net_connections(kind="tcp"):
                if getattr(connection.raddr, "port", None) == client.local_port:
                    return worker.pid
        await asyncio.sleep(0.002)
    message = "no worker accepts a connection"
    raise RunFailedError(message)


async def _send_until(client: GrpcClient, key: str, message: bytes, code: int) -> float:
    """Send until the answer's code is `code`; return when (`time.perf_counter`).

    Raises:
        RunFailedError: it did not come within 10 s, or a third code came.
    """
    deadline_s = time.perf_counter() + _GIVE_UP_S
    while True:
        answer = await client.export(key, message)
        now_s = time.perf_counter()
        if answer == code:
            return now_s
        if answer not in {_OK, _UNAUTHENTICATED} or now_s > deadline_s:
            text = f"expected code {code} within {_GIVE_UP_S:.0f} s, got {answer}"
            raise RunFailedError(text)


async def _acknowledged(database: Path, revision: int) -> tuple[Confirmation, float]:
    confirmation = await wait_confirmed(database, revision, _ACKNOWLEDGED_WITHIN_S)
    return confirmation, time.perf_counter()


async def _measure(running: Running, database: Path, times: int) -> Lags:
    message = bodies.body("small").grpc
    clients = await connect_to_each_worker(running)
    lags = Lags([], [], 0)
    unacknowledged = 0
    async with store.opened(database) as keys:
        for number in range(times):
            committed_s, refused_s, acknowledged_s = await _revoke(
                keys, database, clients, message, number
            )
            lags.since_commit_ms.append((refused_s - committed_s) * 1e3)
            if acknowledged_s is None:
                unacknowledged += 1
            else:
                lags.since_acknowledged_ms.append(max(0.0, refused_s - acknowledged_s) * 1e3)
    for client in clients:
        await client.close()
    return Lags(sorted(lags.since_commit_ms), sorted(lags.since_acknowledged_ms), unacknowledged)


async def _revoke(
    keys: SqlStore,
    database: Path,
    clients: list[GrpcClient],
    message: bytes,
    number: int,
) -> tuple[float, float, float | None]:
    """Create a key, use it everywhere, delete it.

    Returns when the delete was committed, when the last worker first refused, and when the delete
    was acknowledged, or None where that took over a second.
    """
    manager = KeyManager(keys)
    issued = await manager.create(f"revocation {number}")
    key = issued.key.reveal()
    await asyncio.gather(*(_send_until(client, key, message, _OK) for client in clients))
    deleted = await manager.delete(issued.record.id)
    committed_s = time.perf_counter()
    acknowledgement = asyncio.create_task(_acknowledged(database, deleted.revision))
    refused_s = await asyncio.gather(
        *(_send_until(client, key, message, _UNAUTHENTICATED) for client in clients)
    )
    confirmation, acknowledged_s = await acknowledgement
    is_acknowledged = confirmation is Confirmation.CONFIRMED
    return committed_s, max(refused_s), acknowledged_s if is_acknowledged else None


def measure(times: int, workers: int) -> Lags:
    """Start a gateway and measure `times` revocations.

    Raises:
        ProgramError: the gateway or the backend does not start.
        RunFailedError: a request was answered unexpectedly.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        backend = Backend.start(folder, None)
        stack.callback(backend.program.stop)
        running = Gateway(key_count=1, workers=workers).start(folder, backend.port, None)
        stack.callback(running.program.stop)
        return asyncio.run(_measure(running, folder / "keys.db", times))


def _line(what: str, ordered_ms: list[float]) -> str:
    if not ordered_ms:
        return f"{what}: –"
    return (
        f"{what}: p50 {percentile(ordered_ms, 0.5):.1f} ms, "
        f"p99 {percentile(ordered_ms, 0.99):.1f} ms, max {ordered_ms[-1]:.1f} ms"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="bench.revocation", description=__doc__)
    parser.add_argument("--times", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times to FILE")
    options = parser.parse_args(arguments)
    if min(options.times, options.workers) < 1:
        parser.error("--times and --workers must be at least 1")
    try:
        lags = measure(options.times, options.workers)
    except (ProgramError, RunFailedError, OSError) as error:
        print(f"the bench could not be run: {error}", file=sys.stderr)
        return 2
    print(f"{options.times} deletes, {options.workers} workers, until the last one refuses")
    print(_line("since the commit         ", lags.since_commit_ms))
    print(_line("since the acknowledgement", lags.since_acknowledged_ms))
    print(f"not acknowledged within 1 s: {lags.unacknowledged}")
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(lags)), encoding="utf-8")
    if percentile(lags.since_commit_ms, 0.99) > MAX_P99_MS:
        print(f"GATE MISSED: p99 since the commit is over {MAX_P99_MS:.0f} ms", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
