"""Tells HTTP/2 from HTTP/1.1 by the first bytes of a connection, then makes way for it.

Over TLS the negotiated protocol decides at once; without one, and in cleartext, HTTP/2 begins with
its preface (RFC 9113 §3.4), and everything else is left to HTTP/1.1, except what is clearly meant
for another kind of listener: that is closed, and logged with what to do about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

from gateway import metrics
from gateway.dataplane.accept import proxy_header
from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.seams import ServerConnection
from gateway.dataplane.core.throttled_log import ThrottledLog
from gateway.dataplane.core.tls import HTTP1, HTTP2
from gateway.wire.http2 import PREFACE

_LONGEST: Final = len(PREFACE)
_TLS_HANDSHAKE: Final = b"\x16\x03"
"""The first two bytes of a TLS ClientHello (RFC 8446 §5.1)."""

TLS_HERE: Final = (
    "a client speaks TLS to a cleartext listener: give the listener 'tls', or the client an "
    "http:// endpoint (insecure: true)"
)
PROXY_HERE: Final = (
    "a load balancer sends PROXY headers to a listener that expects none: set its "
    "'proxy_protocol: true' and add the balancer to trusted_networks"
)


def is_http2(start: bytes) -> bool | None:
    """Tell by the first bytes, at least one; None while they may become either."""
    if PREFACE.startswith(start[:_LONGEST]):
        return True if len(start) >= _LONGEST else None
    return False


def what_is_meant(start: bytes) -> str | None:
    """Return what to tell the operator when the bytes are for another kind of listener."""
    if start.startswith(_TLS_HANDSHAKE):
        return TLS_HERE
    if start.startswith((proxy_header.V1_START, proxy_header.SIGNATURE)):
        return PROXY_HERE
    return None


def is_undecided(start: bytes) -> bool:
    """Whether more bytes are needed to tell what the client speaks, or that it is lost here."""
    signs = (PREFACE, _TLS_HANDSHAKE, proxy_header.V1_START, proxy_header.SIGNATURE)
    return any(len(start) < len(sign) and sign.startswith(start) for sign in signs)


class Server(ServerConnection, Protocol):
    """What takes the connection over."""

    @property
    def protocol(self) -> asyncio.BufferedProtocol:
        """What takes its bytes."""


class ProtocolDetector(asyncio.BufferedProtocol):
    """The protocol of a connection until it is known what it speaks.

    Reads into the buffer that all connections share, so that what takes over finds the bytes where
    it expects them. `make` makes what takes over, told whether the client speaks HTTP/2;
    `on_made` is called with it when the connection has this protocol.
    """

    def __init__(
        self,
        context: WorkerContext,
        throttled: ThrottledLog,
        peer: str,
        make: Callable[[bool], Server],
        on_made: Callable[[ServerConnection], None],
    ) -> None:
        self.peer = peer
        self._context = context
        self._throttled = throttled
        self._make = make
        self._on_made = on_made
        self._ends_at = context.now() + context.limits.header_timeout_s
        self._negotiated: bool | None = None
        self._seen = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make way at once when TLS has settled the protocol (asyncio)."""
        transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._transport = transport
        self._context.connections.add(self)
        self._on_made(self)
        tls = transport.get_extra_info("ssl_object")
        chosen = tls.selected_alpn_protocol() if tls is not None else None
        if chosen in {HTTP2, HTTP1}:
            self._negotiated = chosen == HTTP2
        if self._context.is_draining:
            self.start_drain()
        elif self._negotiated is not None:
            self._make_way(self._negotiated)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the shared buffer, behind where the bytes seen before will be put (asyncio): what
        takes over is given all of it at once.
        """
        return self._context.small_view[len(self._seen) :]

    def buffer_updated(self, nbytes: int) -> None:
        """Look at the first bytes (asyncio)."""
        view = self._context.receive_view
        view[: len(self._seen)] = self._seen
        length = len(self._seen) + nbytes
        start = bytes(view[: min(length, _LONGEST)])
        if self._negotiated is None:
            if is_undecided(start):
                self._seen = start
                return
            meant = what_is_meant(start)
            if meant is not None:
                self._refuse(meant)
                return
        kind = self._negotiated if self._negotiated is not None else is_http2(start)
        server = self._make_way(bool(kind))
        if server is not None:
            _feed(server.protocol, view[:length])
            if self._context.is_draining:
                server.start_drain()

    def eof_received(self) -> None:
        """Let the transport close: there is no request to answer (asyncio)."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection (asyncio)."""
        self._context.connections.discard(self)

    def sweep(self, now: float) -> None:
        """Close when the client has not said for too long what it speaks."""
        if now > self._ends_at and self._transport is not None:
            if self._seen:
                self._context.counters.count(metrics.CONNECTIONS_REFUSED, "preface")
            self._transport.close()

    def holdings(self) -> tuple[tuple[str, int], ...]:
        """See `ServerConnection`: there is no request yet."""
        return ()

    def start_drain(self) -> None:
        """Wait only a few seconds longer: nothing has been asked yet, but it may be on its way."""
        self._ends_at = min(self._ends_at, self._context.now() + self._context.idle_grace())

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
        # Where its handshake was given up, the transport is closed already and says no more.
        self._context.connections.discard(self)

    def _refuse(self, text: str) -> None:
        self._context.counters.count(metrics.CONNECTIONS_REFUSED, "preface")
        self._throttled.warn(text, self.peer, self._context.now())
        self.abort()

    def _make_way(self, kind: bool) -> Server | None:
        """Put the server side in this protocol's place."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return None
        server = self._make(kind)
        protocol = server.protocol
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self._context.connections.replace(self, server)
        return server


def _feed(protocol: asyncio.BufferedProtocol, data: memoryview) -> None:
    """Pass on what was read; the protocol's buffer is the very one that `data` is in."""
    while data:
        buffer = memoryview(protocol.get_buffer(len(data)))
        length = min(len(data), len(buffer))
        buffer[:length] = data[:length]
        protocol.buffer_updated(length)
        data = data[length:]
