"""The receiver's listeners: HTTP/1.1 and HTTP/2 with prior knowledge, both on every address.

A `grpcio` server could not be one: it responds to snappy and zstd with INTERNAL before any handler
runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from gateway.receiver.app import OnRequest, ReceiverApp
from gateway.receiver.connection import Connection
from gateway.receiver.http1 import http1_server

_BACKLOG: Final = 1024
_GRACE_S: Final = 1.0
"""Timeout of each shutdown step: responses in progress, closing, aborting."""


class ListenError(Exception):
    """The receiver cannot listen on an address. The text says which, why and what to do."""


class Receiver:
    """An OTLP backend for debugging and tests, as an async context manager.

    `on_request` is called for each request before the response is sent; if it returns an awaitable,
    that is awaited first. By default, requests are accepted silently. An address of None is left
    out; port 0 chooses a free one. Every address speaks all protocols.

    Raises (on entering):
        ListenError: an address is in use or does not belong to this machine.
    """

    def __init__(
        self,
        on_request: OnRequest | None = None,
        *,
        grpc: str | None = "127.0.0.1:0",
        http: str | None = "127.0.0.1:0",
        intake: str | None = None,
    ) -> None:
        self._app = ReceiverApp(on_request or (lambda _record: None))
        self._wanted = {"grpc": grpc, "http": http, "intake": intake}
        self._addresses: dict[str, str] = {}
        self._servers: list[asyncio.Server] = []
        self._http1: web.Server | None = None
        self._connections: set[Connection] = set()

    @property
    def grpc_address(self) -> str:
        """The address for gRPC, as host:port. KeyError if there is none."""
        return self._addresses["grpc"]

    @property
    def http_address(self) -> str:
        """The address for HTTP, as host:port. KeyError if there is none."""
        return self._addresses["http"]

    @property
    def addresses(self) -> tuple[str, ...]:
        """All listening addresses."""
        return tuple(self._addresses.values())

    async def __aenter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            sockets = {
                name: undo.enter_context(await _listen(address))
                for name, address in self._wanted.items()
                if address is not None
            }
            undo.pop_all()
        loop = asyncio.get_running_loop()
        http1 = self._http1 = http1_server(self._app)
        for name, listener in sockets.items():
            self._addresses[name] = _address_of(listener)
            server = await loop.create_server(
                lambda: Connection(self._app, http1, self._connections),
                sock=listener,
                backlog=_BACKLOG,
            )
            self._servers.append(server)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for server in self._servers:
            server.close()
        for connection in self._connections:
            connection.leave()
        if exc_type is None:
            await self._app.settle(_GRACE_S)
        self._app.give_up()
        await self._app.settle(_GRACE_S)
        await self._close_connections()
        for server in self._servers:
            await server.wait_closed()

    async def _close_connections(self) -> None:
        """Close connections after their pending writes; abort those whose client does not read."""
        assert self._http1 is not None  # noqa: S101 - it was entered
        await self._http1.shutdown(_GRACE_S)
        for connection in list(self._connections):
            connection.close()
        await self._connections_gone(_GRACE_S)
        for connection in list(self._connections):
            connection.abort()
        await self._connections_gone(_GRACE_S)

    async def _connections_gone(self, within_s: float) -> None:
        if self._connections:
            waiting = [connection.closed for connection in self._connections]
            await asyncio.wait(waiting, timeout=within_s)


async def _listen(address: str) -> socket.socket:
    host, port = split_address(address)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, proto, _, where = found[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise ListenError(_cannot_listen(address, error)) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(_cannot_listen(address, error)) from error
    return listener


def _cannot_listen(address: str, error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    return (
        f"cannot listen on {address}: {reason}. Choose another address (port 0 chooses a free one)"
    )


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port`.

    Raises:
        ListenError: the address has neither form.
    """
    host, colon, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - 16 bits
        msg = f"invalid address {address!r}: write host:port, e.g. 127.0.0.1:4317 or 0.0.0.0:4317"
        raise ListenError(msg)
    return host, int(port)


def _address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
