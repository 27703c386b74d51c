"""Gateways that share a store, as senders and as users of their APIs see them."""

from __future__ import annotations

import asyncio
import enum
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil

from tests.support.clients import Http2Client
from tests.support.exchange import GRPC, PROTOBUF, GrpcMessage
from tests.support.process import Gateway, running_gateway
from tests.support.sink import RawSink

WAIT_S: Final = 60.0
"""Only taken by a test that fails."""
_TOKEN: Final = "token-of-the-test"
_EXPORT: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
_BODY: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()


class Decision(enum.Enum):
    """What a gateway can make of a key."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNDECIDED = "undecided"


_OF_GRPC: Final = {0: Decision.ACCEPTED, 16: Decision.REFUSED, 14: Decision.UNDECIDED}
_OF_HTTP: Final = {200: Decision.ACCEPTED, 401: Decision.REFUSED, 503: Decision.UNDECIDED}


@dataclass(eq=False, slots=True)
class Key:
    """A key, and which gateways are bound to know what of it."""

    text: str
    id: int | None = None
    """None: it was never made."""
    known_by: set[int] = field(default_factory=set)
    gone_by: set[int] = field(default_factory=set)
    is_deleting: bool = False
    """Whether somebody has begun to delete it."""

    def rightly(self, gateway: int) -> set[Decision]:
        """Give the answers that the gateway may give now, while its store is in reach."""
        if self.id is None or gateway in self.gone_by:
            return {Decision.REFUSED}
        if gateway in self.known_by and not self.is_deleting:
            return {Decision.ACCEPTED}
        return {Decision.ACCEPTED, Decision.REFUSED}


class Sender:
    """One connection, and so one worker."""

    def __init__(self, port: int, client: Http2Client | aiohttp.ClientSession) -> None:
        self.cannot_tell = False
        """Whether its worker has said, in this outage, that it cannot tell."""
        self.said = ""
        """The last answer's text, for people."""
        self._url = f"http://127.0.0.1:{port}/v1/logs"
        self._client = client
        self._turn = asyncio.Lock()

    async def send(self, key: Key) -> Decision | None:
        """Send a request with the key; give what was decided, None for anything else."""
        fields = {"authorization": f"StackState {key.text}"}
        async with self._turn:
            if isinstance(self._client, Http2Client):
                return await self._send_grpc(self._client, fields)
            return await self._send_http(self._client, fields)

    async def send_all(self, keys: Sequence[Key]) -> list[Decision | None]:
        """Send a request with each key."""
        return [await self.send(key) for key in keys]

    async def _send_grpc(self, client: Http2Client, fields: dict[str, str]) -> Decision | None:
        fields |= {"content-type": GRPC, "te": "trailers"}
        response = await client.request(_EXPORT, [*fields.items()], _BODY)
        self.said = str(response)
        return _OF_GRPC.get(-1 if response.grpc_status is None else response.grpc_status)

    async def _send_http(
        self, session: aiohttp.ClientSession, fields: dict[str, str]
    ) -> Decision | None:
        fields |= {"content-type": PROTOBUF}
        async with session.post(self._url, data=_BODY, headers=fields) as answer:
            self.said = f"{answer.status}: {await answer.read()!r}"
            return _OF_HTTP.get(answer.status)


@dataclass(eq=False, slots=True)
class Member:
    """One of the gateways. Its first senders speak gRPC, one to each worker."""

    number: int
    gateway: Gateway
    session: aiohttp.ClientSession
    senders: list[Sender]

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, bool, bytes]:
        """Use the API; give status, whether all workers decide by the change, and the body."""
        url, headers = self.gateway.admin_url + path, {"X-API-Token": _TOKEN}
        async with self.session.request(method, url, json=body, headers=headers) as answer:
            is_confirmed = answer.headers.get("X-Gateway-Confirmed") == "true"
            return answer.status, is_confirmed, await answer.read()

    async def until_reported(self, revision: int) -> None:
        """Return as soon as the gateway says that it decides by the store's revision."""
        async with asyncio.timeout(WAIT_S):
            while True:
                if (await self.store())["revision"] >= revision:
                    return
                await asyncio.sleep(0.01)

    async def store(self) -> dict[str, Any]:
        """Read how the store is, in the gateway's eyes."""
        _, _, body = await self.call("GET", "/readyz")
        (store,) = json.loads(body)["stores"]
        assert isinstance(store, dict)
        return store


@asynccontextmanager
async def running_member(
    number: int, folder: Path, sink: RawSink, store: str
) -> AsyncIterator[Member]:
    """Run a gateway on the store for the length of a block, with two workers."""
    overrides = {
        "backends": {
            "otlp_grpc": {"urls": [sink.grpc_url]},
            "otlp_http": {"urls": [sink.http_url]},
        },
        "keys": {"stores": [store]},
        "auth": {"receiver_keys": []},
        "admin": {"tokens": [_TOKEN]},
    }
    folder = folder / f"gateway-{number}"
    folder.mkdir()
    async with running_gateway(folder, overrides) as gateway, AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        senders = [Sender(gateway.port, client) for client in await _clients(gateway, stack)]
        one_connection = aiohttp.TCPConnector(limit=1)
        http1 = await stack.enter_async_context(aiohttp.ClientSession(connector=one_connection))
        yield Member(number, gateway, session, [*senders, Sender(gateway.port, http1)])


async def _clients(gateway: Gateway, stack: AsyncExitStack) -> list[Http2Client]:
    """Open connections until each worker has one."""
    workers = psutil.Process(gateway.program.process.pid).children()
    by_worker: dict[int, Http2Client] = {}
    async with asyncio.timeout(WAIT_S):
        while len(by_worker) < len(workers):
            client = await stack.enter_async_context(Http2Client(gateway.port))
            by_worker.setdefault(await _owner(client, workers), client)
    return [*by_worker.values()]


async def _owner(client: Http2Client, workers: list[psutil.Process]) -> int:
    """Return the worker that has accepted the client's connection."""
    port = client._writer.get_extra_info("sockname")[1]
    while True:
        for worker in workers:
            for connection in worker.net_connections(kind="tcp"):
                if getattr(connection.raddr, "port", None) == port:
                    return worker.pid
        await asyncio.sleep(0.005)
