"""The answer to a connection beyond the limit, in its own protocol: try again later.

HTTP/1.1 clients get 503 with Retry-After, HTTP/2 clients a GOAWAY that says that nothing was
processed (RFC 9113 §6.8): both keep their data and try again, elsewhere if they can.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final, cast

from gateway.dataplane.core import replies
from gateway.dataplane.core.context import WorkerContext
from gateway.outcome import REFUSALS, Refusal
from gateway.wire import http2

LINGER_S: Final = 2.0
"""How long what the client still sends is read and discarded: closing with unread bytes would
reset the connection, and the client might never see the answer.
"""
LINGER_BYTES: Final = 1024 * 1024
_REFUSAL: Final = REFUSALS["CONNECTION_LIMIT"]


def http1_answer(refusal: Refusal) -> bytes:
    """Render a whole answer to a connection that ends with it."""
    reply = replies.http_reply(refusal, is_protobuf=False)
    status = reply.section.status
    head = [b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())]
    head += [b"%b: %b\r\n" % field for field in reply.section.fields]
    return b"".join([*head, b"connection: close\r\n\r\n", reply.body])


def http2_answer() -> bytes:
    """Render SETTINGS, which must come first, and GOAWAY: no stream was processed."""
    text = _REFUSAL.text.encode()
    payload = bytes(4) + http2.ErrorCode.NO_ERROR.to_bytes(4, "big") + text
    goaway = http2.frame(http2.GOAWAY, 0, http2.NO_STREAM, payload)
    return http2.settings_frame({}) + goaway


class OverLimitConnection(asyncio.BufferedProtocol):
    """Answers, lingers, closes."""

    def __init__(self, context: WorkerContext, *, is_http2: bool) -> None:
        self._opened_at = context.now()
        self._context = context
        self._answer = http2_answer() if is_http2 else http1_answer(_REFUSAL)
        self._transport: asyncio.Transport | None = None
        self._discarded = 0

    @property
    def protocol(self) -> asyncio.BufferedProtocol:
        """What takes the connection's bytes."""
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer and close our half (asyncio)."""
        transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._transport = transport
        self._context.connections.add(self)
        transport.write(self._answer)
        transport.write_eof()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the shared buffer (asyncio)."""
        return self._context.receive_view

    def buffer_updated(self, nbytes: int) -> None:
        """Discard what comes (asyncio)."""
        self._discarded += nbytes
        if self._discarded > LINGER_BYTES:
            self.abort()

    def eof_received(self) -> None:
        """Let the transport close (asyncio)."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection (asyncio)."""
        self._context.connections.discard(self)

    def sweep(self, now: float) -> None:
        """See `ServerConnection`: end the lingering."""
        if now - self._opened_at > LINGER_S:
            self.abort()

    def holdings(self) -> tuple[tuple[str, int], ...]:
        """See `ServerConnection`: nothing is held for it."""
        return ()

    def start_drain(self) -> None:
        """See `ServerConnection`: it ends soon anyway."""

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
