"""How soon a key deleted through one gateway is refused by another one that shares its PostgreSQL:
for `bench.revocation`, which says what is measured and why.

All run on this machine; between two, the network's way comes on top.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml

from bench import bodies
from bench.backend import Backend
from bench.client import GrpcClient
from bench.each_worker import OK, UNAUTHENTICATED, connect_to_each_worker, send_until
from bench.lossy_relay import LossyRelay
from bench.process import Program, ProgramError, free_port
from bench.proxies import command_path, wait_until_ready
from bench.report import RunFailedError
from bench.running import Running
from tests.support.postgresql import postgresql_server

_TOKEN = "token-of-the-bench"  # noqa: S105 - of a gateway that nobody else can reach
_KEYS = "/api/security/ingestion/api_keys"
_WORKERS = 2
_PAUSE_S = 0.1
"""Between two deletes at most, while notifications are lost: all of them fall into some seconds, at
any time between two looks at the revision.
"""
_LOOK_S = 0.005
_GIVE_UP_S = 60.0


@dataclass(frozen=True, slots=True)
class SharedLags:
    """From the moment a delete is asked for until the last worker of both gateways has refused the
    key, in milliseconds, ascending.
    """

    notified_ms: list[float]
    lost_ms: list[float]
    """With every notification to the other gateway lost."""


@dataclass(frozen=True, slots=True)
class Api:
    """The management API of the gateway through which keys are changed."""

    session: aiohttp.ClientSession
    url: str

    async def create(self, name: str) -> tuple[int, str]:
        """Make a key; return its id and itself. Raises RunFailedError."""
        body = {"name": name}
        async with self.session.post(self.url, json=body) as answer:
            await _check(answer, 200)
            created = await answer.json()
            return created["id"], created["apiKey"]

    async def delete(self, key_id: int) -> None:
        """Delete a key. Raises RunFailedError."""
        async with self.session.delete(f"{self.url}/{key_id}") as answer:
            await _check(answer, 204)


async def _check(answer: aiohttp.ClientResponse, status: int) -> None:
    if answer.status != status:
        text = f"{answer.method} {answer.url}: {answer.status} {await answer.text()}"
        raise RunFailedError(text)


def _start(folder: Path, name: str, url: str, backend_port: int) -> tuple[Running, int]:
    """Start a gateway; return it and its admin port. Raises ProgramError."""
    port, admin_port = free_port(), free_port()
    document = {
        "listen": [{"address": f"127.0.0.1:{port}"}],
        "backends": {"otlp_grpc": {"urls": [f"http://127.0.0.1:{backend_port}"]}},
        "keys": {"stores": [url]},
        "admin": {"address": f"127.0.0.1:{admin_port}", "tokens": [_TOKEN]},
        "limits": {"drain_delay": "0s"},
        "workers": _WORKERS,
        "state_dir": str(folder / f"{name}-state"),
    }
    configuration = folder / f"{name}.yaml"
    configuration.write_text(yaml.safe_dump(document), encoding="utf-8")
    command = [command_path("gateway"), "serve", "--config", str(configuration)]
    program = Program.start(name, command, folder=folder, core=None)
    try:
        wait_until_ready(program, admin_port)
    except ProgramError:
        program.stop()
        raise
    return Running(program, {"grpc": port}), admin_port


async def _revoke(api: Api, clients: list[GrpcClient], name: str) -> float:
    """Create a key, use it everywhere, delete it; return how long it still worked, in ms."""
    message = bodies.body("small").grpc
    key_id, key = await api.create(name)
    await asyncio.gather(*(send_until(client, key, message, OK) for client in clients))
    asked_s = time.perf_counter()
    refused_s, _ = await asyncio.gather(
        asyncio.gather(*(send_until(each, key, message, UNAUTHENTICATED) for each in clients)),
        api.delete(key_id),
    )
    return (max(refused_s) - asked_s) * 1e3


async def _revoke_unheard(
    api: Api, clients: list[GrpcClient], relay: LossyRelay, count: int
) -> list[float]:
    """Revoke many keys at the same time, while the other gateway hears of none."""
    message = bodies.body("small").grpc
    ids = dict([await api.create(f"unheard {number}") for number in range(count)])
    for key in ids.values():
        await asyncio.gather(*(send_until(client, key, message, OK) for client in clients))
    relay.is_losing, lost_before = True, relay.lost
    asked_s: dict[str, float] = {}
    watching = [asyncio.create_task(_watch(client, asked_s, count)) for client in clients]
    for key_id, key in ids.items():
        asked_s[key] = time.perf_counter()
        await api.delete(key_id)
        await asyncio.sleep(random.uniform(0, _PAUSE_S))  # noqa: S311 - no secret
    refused_s = await asyncio.gather(*watching)
    relay.is_losing = False
    if relay.lost - lost_before < count:
        text = f"{count} keys were deleted, but only {relay.lost - lost_before} notifications lost"
        raise RunFailedError(text)
    return [(max(each[key] for each in refused_s) - asked_s[key]) * 1e3 for key in ids.values()]


async def _watch(client: GrpcClient, asked_s: dict[str, float], count: int) -> dict[str, float]:
    """Send with all keys whose delete was asked for; return when each was first refused."""
    message = bodies.body("small").grpc
    refused_s: dict[str, float] = {}
    deadline_s = time.perf_counter() + _GIVE_UP_S
    while len(refused_s) < count:
        for key in [key for key in asked_s if key not in refused_s]:
            code = await client.export(key, message)
            if code == UNAUTHENTICATED:
                refused_s[key] = time.perf_counter()
            elif code != OK or time.perf_counter() > deadline_s:
                text = f"a deleted key is answered {code} after {_GIVE_UP_S:.0f} s, or wrongly"
                raise RunFailedError(text)
        await asyncio.sleep(_LOOK_S)
    return refused_s


async def _measure(folder: Path, times: int, lost_times: int) -> SharedLags:
    async with contextlib.AsyncExitStack() as stack:
        backend = Backend.start(folder, None)
        stack.callback(backend.program.stop)
        server = stack.enter_context(postgresql_server())
        url = await server.new_database()
        relay = await stack.enter_async_context(LossyRelay(server.port))
        # In threads: the second one reaches its server through this very loop.
        one, admin_port = await asyncio.to_thread(_start, folder, "one", url, backend.port)
        stack.push_async_callback(asyncio.to_thread, one.program.stop)
        by_relay = url.replace(f":{server.port}/", f":{relay.port}/") + "?sslmode=disable"
        other, _ = await asyncio.to_thread(_start, folder, "other", by_relay, backend.port)
        stack.push_async_callback(asyncio.to_thread, other.program.stop)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(headers={"X-API-Token": _TOKEN})
        )
        api = Api(session, f"http://127.0.0.1:{admin_port}{_KEYS}")
        clients = [
            client for running in (one, other) for client in await connect_to_each_worker(running)
        ]
        for client in clients:
            stack.push_async_callback(client.close)
        notified = [await _revoke(api, clients, f"revocation {each}") for each in range(times)]
        lost = await _revoke_unheard(api, clients, relay, lost_times)
    return SharedLags(sorted(notified), sorted(lost))


def measure(times: int, lost_times: int) -> SharedLags:
    """Start two gateways and measure so many revocations, and others with notifications lost.

    Raises:
        ProgramError: a gateway or the backend does not start.
        RunFailedError: a request was answered unexpectedly.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return asyncio.run(_measure(Path(folder), times, lost_times))
