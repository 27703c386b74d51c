"""How soon a key deleted by a command is refused by a gateway on the same machine: for
`bench.revocation`, which says what is measured and why.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench import bodies, store
from bench.backend import Backend
from bench.client import GrpcClient
from bench.each_worker import OK, UNAUTHENTICATED, connect_to_each_worker, send_until
from bench.proxies import Gateway
from bench.running import Running
from gateway.keys.commands import KeyCommands
from gateway.keys.store import Confirmation, KeySpec
from gateway.keys.stores.sql_store import SqlStore

_ACKNOWLEDGED_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Lags:
    """How long a deleted key still worked in the slowest worker, in milliseconds, ascending."""

    since_commit_ms: list[float]
    since_acknowledged_ms: list[float]
    unacknowledged: int
    """Deletes that not all workers had confirmed after 1 s."""


async def _acknowledged(keys: SqlStore, revision: int) -> tuple[Confirmation, float]:
    confirmation = await keys.confirmations.wait(revision, _ACKNOWLEDGED_WITHIN_S)
    return confirmation, time.perf_counter()


async def _measure(running: Running, database: Path, times: int) -> Lags:
    message = bodies.body("small").grpc
    clients = await connect_to_each_worker(running)
    lags = Lags([], [], 0)
    unacknowledged = 0
    async with store.opened(database) as keys:
        for number in range(times):
            committed_s, refused_s, acknowledged_s = await _revoke(keys, clients, message, number)
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
    clients: list[GrpcClient],
    message: bytes,
    number: int,
) -> tuple[float, float, float | None]:
    """Create a key, use it everywhere, delete it.

    Returns when the delete was committed, when the last worker first refused, and when the delete
    was acknowledged, or None where that took over a second.
    """
    manager = KeyCommands(keys.repository)
    issued = await manager.create(KeySpec(f"revocation {number}"))
    key = issued.key.reveal()
    await asyncio.gather(*(send_until(client, key, message, OK) for client in clients))
    deleted = await manager.delete(issued.record.id)
    committed_s = time.perf_counter()
    acknowledgement = asyncio.create_task(_acknowledged(keys, deleted.revision))
    refused_s = await asyncio.gather(
        *(send_until(client, key, message, UNAUTHENTICATED) for client in clients)
    )
    confirmation, acknowledged_s = await acknowledgement
    is_acknowledged = bool(confirmation.confirmed) and not confirmation.pending
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
