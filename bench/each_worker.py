"""A connection to each worker of a gateway, and sending on it until the answer is as wanted."""

from __future__ import annotations

import asyncio
import time

import psutil

from bench.client import GrpcClient
from bench.report import RunFailedError
from bench.running import Running

OK, UNAUTHENTICATED = 0, 16
GIVE_UP_S = 10.0
_MAX_CONNECTIONS_PER_WORKER = 50


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
    deadline_s = time.monotonic() + GIVE_UP_S
    while time.monotonic() < deadline_s:
        for worker in workers:
            for connection in worker.net_connections(kind="tcp"):
                if getattr(connection.raddr, "port", None) == client.local_port:
                    return worker.pid
        await asyncio.sleep(0.002)
    message = "no worker accepts a connection"
    raise RunFailedError(message)


async def send_until(client: GrpcClient, key: str, message: bytes, code: int) -> float:
    """Send until the answer's code is `code`; return when (`time.perf_counter`).

    Raises:
        RunFailedError: it did not come within 10 s, or a third code came.
    """
    deadline_s = time.perf_counter() + GIVE_UP_S
    while True:
        answer = await client.export(key, message)
        now_s = time.perf_counter()
        if answer == code:
            return now_s
        if answer not in {OK, UNAUTHENTICATED} or now_s > deadline_s:
            text = f"expected code {code} within {GIVE_UP_S:.0f} s, got {answer}"
            raise RunFailedError(text)
