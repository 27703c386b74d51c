"""A central gateway that is killed, frozen and started again while an edge gateway decides by its
keys: no answer at the edge turns "cannot tell" into "no".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import pytest
import yaml

from gateway.keys.commands import KeyCommands
from gateway.keys.store import KeySpec
from gateway.keys.stores.sqlite import sqlite_store
from tests.support.clients import Http2Client
from tests.support.members import Decision, Key, Sender
from tests.support.process import (
    COMMAND,
    Gateway,
    Program,
    configuration,
    free_ports,
    merge,
    running_gateway,
)
from tests.support.sink import RawSink

TOKEN: Final = "token-of-the-test"
KEYS: Final = "/api/security/ingestion/api_keys"
WAIT_S: Final = 110.0
"""Only taken by a test that fails."""


@dataclass
class Center:
    """A central gateway, which can be killed and started again in the same place."""

    folder: Path
    ports: list[int]
    grpc_port: int
    program: Program | None = None

    async def start(self) -> None:
        """Start it, and return when it answers."""
        tree = merge(
            configuration(self.folder, self.ports, None),
            {
                "admin": {"tokens": [TOKEN], "grpc_address": f"127.0.0.1:{self.grpc_port}"},
                "auth": {"receiver_keys": []},
                "workers": 1,
            },
        )
        file = self.folder / "gateway.yaml"
        file.write_text(yaml.safe_dump(tree))
        self.program = await Program.start([COMMAND, "serve", "--config", file], cwd=self.folder)
        async with asyncio.timeout(WAIT_S):
            while not await self._is_ready():
                assert not self.program.is_over, self.program.output
                await asyncio.sleep(0.05)

    async def _is_ready(self) -> bool:
        url = f"http://127.0.0.1:{self.ports[2]}/readyz"
        with contextlib.suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                return answer.status == 200
        return False

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to control."""
        assert self.program is not None
        self.program.process.send_signal(number)

    async def kill(self) -> None:
        """Kill control, and its workers with it."""
        if self.program is None or self.program.is_over:
            return
        children = psutil.Process(self.program.process.pid).children()
        await self.program.kill()
        for child in children:
            if child.is_running():
                child.kill()

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """Use the API."""
        url = f"http://127.0.0.1:{self.ports[2]}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, json=body, headers={"X-API-Token": TOKEN}) as answer,
        ):
            text = await answer.text()
            assert answer.status in {200, 204}, text
            return json.loads(text) if text else None

    async def create(self) -> Key:
        """Make a key."""
        created = await self.call("POST", KEYS, {"name": "agent"})
        return Key(created["apiKey"], created["id"])


class Edge:
    """An edge gateway as its senders see it."""

    def __init__(self, gateway: Gateway, senders: list[Sender]) -> None:
        self.gateway = gateway
        self._senders = senders

    async def decide(self, key: Key) -> set[Decision | None]:
        """Ask over each connection."""
        return set(await asyncio.gather(*(sender.send(key) for sender in self._senders)))

    async def until(self, key: Key, wanted: Decision, allowed: set[Decision]) -> None:
        """Ask until all say `wanted`; until then each says something of `allowed`."""
        async with asyncio.timeout(WAIT_S):
            while (said := await self.decide(key)) != {wanted}:
                assert said <= allowed | {wanted}, said
                await asyncio.sleep(0.02)


@asynccontextmanager
async def _world(folder: Path) -> AsyncIterator[tuple[Center, Edge]]:
    ports = free_ports(4)
    center_folder, edge_folder = folder / "center", folder / "edge"
    center_folder.mkdir()
    edge_folder.mkdir()
    center = Center(center_folder, ports[:3], ports[3])
    try:
        await center.start()
        async with RawSink() as sink, _edge(edge_folder, center, sink) as edge:
            yield center, edge
    finally:
        await center.kill()


@asynccontextmanager
async def _edge(folder: Path, center: Center, sink: RawSink) -> AsyncIterator[Edge]:
    tree = {
        "backends": {
            "otlp_grpc": {"urls": [sink.grpc_url]},
            "otlp_http": {"urls": [sink.http_url]},
        },
        "keys": {
            "stores": [f"gateway+grpc://127.0.0.1:{center.grpc_port}"],
            "feed": {"token": TOKEN},
        },
        "auth": {"receiver_keys": []},
        "workers": 1,
    }
    async with running_gateway(folder, tree) as gateway, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Http2Client(gateway.port)) for _ in range(4)]
        yield Edge(gateway, [Sender(gateway.port, each) for each in clients])


pytestmark = pytest.mark.timeout(400)
NEVER: Final = Key("never-made")
ACCEPTED, REFUSED, UNDECIDED = Decision.ACCEPTED, Decision.REFUSED, Decision.UNDECIDED


async def _outage(center: Center, edge: Edge, begin: Callable[[], Any]) -> None:
    """Begin an outage: known keys work on, unknown ones become undecided."""
    known = await center.create()
    await edge.until(known, ACCEPTED, {REFUSED})
    begun = begin()
    if begun is not None:
        await begun
    await edge.until(NEVER, UNDECIDED, {REFUSED})
    assert await edge.decide(known) == {ACCEPTED}


async def _create_by_command(center: Center) -> Key:
    """Make a key in the center's store, as `gateway keys create` does while no gateway runs."""
    store = sqlite_store(center.folder / "keys.db")
    await store.feed.open(create=False)
    issued = await KeyCommands(store.repository).create(KeySpec("later"))
    await store.feed.close()
    return Key(issued.key.reveal(), issued.record.id)


async def test_a_center_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    async with _world(tmp_path) as (center, edge):
        await _outage(center, edge, center.kill)
        later = await _create_by_command(center)
        assert await edge.decide(later) == {UNDECIDED}
        await center.start()
        # Made while the edge could not tell: it is undecided until it is known, never refused.
        await edge.until(later, ACCEPTED, {UNDECIDED})
        await edge.until(NEVER, REFUSED, {UNDECIDED})
        await center.call("DELETE", f"{KEYS}/{later.id}")
        await edge.until(later, REFUSED, {ACCEPTED})


async def test_a_center_that_is_frozen_and_goes_on(tmp_path: Path) -> None:
    async with _world(tmp_path) as (center, edge):
        deleted = await center.create()
        await edge.until(deleted, ACCEPTED, {REFUSED})
        await _outage(center, edge, lambda: center.send_signal(signal.SIGSTOP))
        assert await edge.decide(deleted) == {ACCEPTED}
        center.send_signal(signal.SIGCONT)
        await edge.until(NEVER, REFUSED, {UNDECIDED})
        await center.call("DELETE", f"{KEYS}/{deleted.id}")
        await edge.until(deleted, REFUSED, {ACCEPTED})


async def test_a_center_restored_from_an_older_backup(tmp_path: Path) -> None:
    async with _world(tmp_path) as (center, edge):
        old = await center.create()
        await edge.until(old, ACCEPTED, {REFUSED})
        await center.kill()
        database = center.folder / "keys.db"
        files = [database, *center.folder.glob("keys.db-*")]
        backup = {file: file.read_bytes() for file in files if file.exists()}
        await center.start()
        new = await center.create()
        await edge.until(new, ACCEPTED, {UNDECIDED, REFUSED})
        await center.kill()
        await edge.until(NEVER, UNDECIDED, {REFUSED})
        for file in (database, *center.folder.glob("keys.db-*")):
            file.unlink(missing_ok=True)
        for file, content in backup.items():
            file.write_bytes(content)
        await center.start()
        # The center has no such key any more, and says so itself.
        await edge.until(new, REFUSED, {ACCEPTED})
        assert await edge.decide(old) == {ACCEPTED}
