"""The connections of one of control's own addresses: a bounded number, with room for a new one.

Whoever opens many and leaves them must not keep out the probes that decide whether this gateway is
restarted. At the limit a newcomer takes the place of one of the client that has the most: the one
that has waited longest for its client. Whatever waits for its client ends after a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from aiohttp import web

from gateway.crowds import Crowds

MAX_CONNECTIONS: Final = 256
"""At once, on one of control's addresses."""
REQUEST_S: Final = 10.0
"""From the connection, or from a later request's first byte, to the end of the request's head."""
BODY_S: Final = 30.0
"""From the end of a head to the end of its body, and for a response that is not read."""
DISPLACED: Final = "displaced"
TIMEOUT: Final = "timeout"
_TLS_CLOSE_S: Final = 1.0


def _ignore(_: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections, and how long they may wait for their clients, in seconds.

    `on_closed` gets the reason of each connection that is closed for its limit.
    """

    most: int = MAX_CONNECTIONS
    request_s: float = REQUEST_S
    body_s: float = BODY_S
    on_closed: Callable[[str], None] = _ignore


class AdminConnection(asyncio.Protocol):
    """One connection, in front of aiohttp's protocol for it."""

    def __init__(
        self,
        handler: web.RequestHandler,
        limits: ConnectionLimits,
        on_lost: Callable[[AdminConnection], None],
    ) -> None:
        self.handler = handler
        self._limits = limits
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._request: web.BaseRequest | None = None
        self._is_unread = False
        self._deadline: asyncio.TimerHandle | None = None
        self._wait_at_most(limits.request_s)

    @property
    def waits_for_client(self) -> bool:
        """Whether its client has to do something next."""
        return self._request is None or self._is_unread or not self._has_body

    def begin(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Take over an accepted socket."""
        self._connecting = self._loop.create_task(self._connect(sock, tls))
        self._connecting.add_done_callback(functools.partial(self._connected, sock))

    def request_began(self, request: web.BaseRequest) -> None:
        """Take note of a request whose head is complete."""
        self._request = request
        self._wait_at_most(None if self._has_body else self._limits.body_s)

    def request_ended(self) -> None:
        """Take note that the request has its response, sent or not. Idle, aiohttp closes it."""
        self._request = None
        self._wait_at_most(self._limits.body_s if self._is_unread else None)

    def end(self, reason: str | None = None) -> None:
        """Close at once, for `reason`."""
        if reason is not None:
            self._limits.on_closed(reason)
        self._on_lost(self)
        self._wait_at_most(None)
        if self._connecting is not None:
            self._connecting.cancel()
        self.handler.force_close()  # no more requests
        transport = self._transport
        # What the client does not read, or TLS's farewell, would keep the descriptor.
        if transport is not None and (
            transport.get_write_buffer_size() or transport.get_extra_info("ssl_object")
        ):
            transport.abort()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let aiohttp begin (asyncio)."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self.handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass on bytes: of a head, unless a request is under way (asyncio)."""
        if self._request is None and self._deadline is None:
            self._wait_at_most(self._limits.request_s)
        self.handler.data_received(data)

    def eof_received(self) -> None:
        """Pass on (asyncio)."""
        self.handler.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the client does not read, which has a limit too (asyncio)."""
        self._is_unread = True
        self._wait_at_most(self._limits.body_s)
        self.handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client has read (asyncio)."""
        self._is_unread = False
        self._wait_at_most(self._limits.body_s if not self._has_body else None)
        self.handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back (asyncio)."""
        self._wait_at_most(None)
        self._on_lost(self)
        self.handler.connection_lost(exc)

    @property
    def _has_body(self) -> bool:
        """Whether the request's body is complete; also without a request."""
        return self._request is None or self._request.content.is_eof()

    async def _connect(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        shutdown_s = _TLS_CLOSE_S if tls is not None else None
        with contextlib.suppress(OSError):  # it has gone, or its handshake failed
            await self._loop.connect_accepted_socket(
                lambda: self, sock, ssl=tls, ssl_shutdown_timeout=shutdown_s
            )

    def _connected(self, sock: socket.socket, _: object) -> None:
        """Let go of a socket that became no connection."""
        self._connecting = None
        if self._transport is None:
            sock.close()
            self._wait_at_most(None)
            self._on_lost(self)

    def _wait_at_most(self, seconds: float | None) -> None:
        """Close the connection after so many seconds, unless this is called again."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self._loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        self._deadline = None
        if self.waits_for_client:
            self.end(TIMEOUT)


class AdminConnections:
    """See the module. The connections of a client are in the order in which they were opened, or
    their last request began or ended.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._crowds: Crowds[AdminConnection] = Crowds()
        self._open: dict[web.RequestHandler, tuple[AdminConnection, str]] = {}

    def __len__(self) -> int:
        """Count those that are open."""
        return len(self._open)

    def is_crowded_by(self, client: str) -> bool:
        """Whether one more of a client would take the place of one that it has."""
        return len(self._open) >= self._limits.most and self._crowds.largest()[0] == client

    def add(self, handler: web.RequestHandler, client: str) -> AdminConnection:
        """Make room for a connection of a client, and return it."""
        if len(self._open) >= self._limits.most:
            _, members = self._crowds.largest()
            next((each for each in members if each.waits_for_client), members[0]).end(DISPLACED)
        connection = AdminConnection(handler, self._limits, self._lost)
        self._open[handler] = connection, client
        self._crowds.add(client, connection)
        return connection

    def turned_away(self) -> None:
        """Count one that was closed before it was added."""
        self._limits.on_closed(DISPLACED)

    def request_began(self, request: web.BaseRequest) -> None:
        """Take note of a request whose head is complete."""
        held = self._open.get(request.protocol)
        if held is not None:
            connection, client = held
            connection.request_began(request)
            self._crowds.renew(client, connection)

    def request_ended(self, request: web.BaseRequest) -> None:
        """Take note that a request has its response."""
        held = self._open.get(request.protocol)
        if held is not None:
            connection, client = held
            connection.request_ended()
            self._crowds.renew(client, connection)

    def close(self) -> None:
        """Close all."""
        for connection, _ in list(self._open.values()):
            connection.end()

    def _lost(self, connection: AdminConnection) -> None:
        held = self._open.pop(connection.handler, None)
        if held is not None:
            self._crowds.discard(held[1], connection)
