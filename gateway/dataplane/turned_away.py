"""What a connection beyond the limit is told, in its own protocol: come back later.

HTTP/1.1 clients get 503 with Retry-After, HTTP/2 clients a GOAWAY that says that nothing was
processed (RFC 9113 §6.8): both keep their data and try again, elsewhere if they can.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from gateway.dataplane import replies
from gateway.outcome import REFUSALS
from gateway.wire import http2

if TYPE_CHECKING:
    from gateway.dataplane.plane import DataPlane

LINGER_S: Final = 2.0
"""How long what the client still sends is read and thrown away: closing with unread bytes would
reset the connection, and the client might never see the answer.
"""
LINGER_BYTES: Final = 1024 * 1024


def http1_answer() -> bytes:
    """Render the whole 503."""
    status, fields, body = replies.http_reply(REFUSALS["CONNECTION_LIMIT"], is_protobuf=False)
    head = [b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())]
    head += [b"%b: %b\r\n" % field for field in fields]
    return b"".join([*head, b"connection: close\r\n\r\n", body])


def http2_answer() -> bytes:
    """Render SETTINGS, which must come first, and GOAWAY: no stream was processed."""
    text = REFUSALS["CONNECTION_LIMIT"].text.encode()
    payload = bytes(4) + http2.ErrorCode.NO_ERROR.to_bytes(4, "big") + text
    goaway = http2.frame(http2.GOAWAY, 0, http2.NO_STREAM, payload)
    return http2.settings_frame({}) + goaway


class TurnedAway(asyncio.BufferedProtocol):
    """Takes a connection over from the sniffer, answers, lingers, closes."""

    def __init__(self, plane: DataPlane, peer: str, *, is_http2: bool) -> None:
        self.peer = peer
        self.opened_at = plane.now()
        self._plane = plane
        self._answer = http2_answer() if is_http2 else http1_answer()
        self._transport: asyncio.Transport | None = None
        self._thrown_away = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer and close our half (asyncio)."""
        transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._transport = transport
        self._plane.connections.add(self)
        transport.write(self._answer)
        transport.write_eof()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the shared buffer (asyncio)."""
        return self._plane.receive_view

    def buffer_updated(self, nbytes: int) -> None:
        """Throw away what comes (asyncio)."""
        self._thrown_away += nbytes
        if self._thrown_away > LINGER_BYTES:
            self.abort()

    def eof_received(self) -> None:
        """Let the transport close (asyncio)."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection (asyncio)."""
        self._plane.connections.discard(self)

    def sweep(self, now: float) -> None:
        """End the lingering."""
        if now - self.opened_at > LINGER_S:
            self.abort()

    def start_drain(self) -> None:
        """Do nothing: it ends soon anyway."""

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
