"""The backend's side over HTTP/1.1: one request at a time on a connection that is kept.

The connection is `sides.Upstream` of its current exchange. It goes back to the pool when both the
request has been sent and the answer has come, whole; in every other case it is closed.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, ClassVar, Final, cast

from gateway.dataplane.http1_answer_reader import AnswerReader
from gateway.dataplane.http1_output import Output
from gateway.dataplane.http1_request_head import Http1RequestHead
from gateway.dataplane.pool import ConnectError
from gateway.wire import http1

if TYPE_CHECKING:
    from gateway.dataplane.plane import DataPlane
    from gateway.dataplane.pool import Address, Pool
    from gateway.dataplane.relaying import Relaying
    from gateway.settings import Backend

WINDOW_BYTES: Final = 64 * 1024
"""Answer bytes that may wait for the caller before the socket is read no more."""
_IDLE_S: Final = 60.0
_NOT_VISIBLE: Final = re.compile(rb"[^!-~]")


class Http1Upstream(asyncio.BufferedProtocol):
    """One connection to a backend; `pool` gives it requests."""

    alpn: ClassVar[tuple[str, ...]] = ("http/1.1",)
    shares_streams: ClassVar[bool] = False

    def __init__(self, plane: DataPlane, backend: Backend, home: Address, pool: Pool) -> None:
        self.plane = plane
        self.home = home
        target = home.target
        self.address = target.address
        self.busy = 0
        """Open requests."""
        self.capacity = 0
        """How many more requests it takes now."""
        self._pool = pool
        self._out = Output(plane.budget)
        authority = backend.host or target.address
        self._host = b" HTTP/1.1\r\nhost: %b\r\n" % authority.encode()
        self._prefix = target.prefix.encode()
        self._is_closing = False
        self._is_reading_paused = False
        self._may_be_stale = False
        """Whether it has been idle: the backend may close it just when a request is sent."""
        self._idle_since = plane.tick
        self._exchange: Relaying | None = None
        # The request
        self._request_head = b""
        """The head while it waits for the first bytes of the body."""
        self._is_chunked = False
        self._request_left = 0
        """Body bytes that Content-Length has announced and that have not come."""
        self._request_ended = True
        # The answer
        self._reader = AnswerReader()
        self._ungranted = 0

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (asyncio)."""
        self._out.begin(cast("asyncio.Transport", transport))
        self.capacity = 1

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the worker's one buffer (asyncio): what it gets is forwarded or copied at once."""
        return self.plane.receive_view

    def buffer_updated(self, nbytes: int) -> None:
        """Read what has arrived (asyncio)."""
        try:
            self._receive(nbytes)
        except Exception:  # noqa: BLE001 - data outlives our bugs: the caller retries, the alarm is raised
            self.plane.report_bug("upstream")
            self._break()

    def eof_received(self) -> bool:
        """The backend has closed (asyncio): the end of an answer that is delimited by it."""
        if self._exchange is None:
            self._break()  # before the pool chooses it again
        elif self._reader.end_of_stream():
            self._deliver(self._exchange)
        return False

    def pause_writing(self) -> None:
        """The backend does not read (asyncio)."""
        self._out.pause()

    def resume_writing(self) -> None:
        """The backend has read everything (asyncio)."""
        left = self._out.resume()
        if left and self._exchange is not None:
            self._exchange.body_left(left)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the exchange (asyncio)."""
        self._break()

    # The pool's side

    async def ready(self) -> None:
        """Requests may be opened at once. Raises `ConnectError` where it is closed already."""
        if self._out.transport is None:
            msg = "the backend closed the connection at once"
            raise ConnectError(msg)

    def open(self, exchange: Relaying) -> Http1Upstream:
        """Begin a request; its head goes out with the first bytes of its body."""
        head = exchange.head
        self._exchange = exchange
        self.busy = 1
        self.capacity = 0
        if self.plane.tick != self._idle_since:
            self._may_be_stale = True
        self._is_chunked = head.content_length < 0
        self._request_left = head.content_length
        self._request_ended = False
        self._ungranted = 0
        self._reader.begin(head.method)
        self._request_head = self._render(exchange)
        if isinstance(head, Http1RequestHead) and head.body_follows:
            head.body_follows = False
        else:
            self.plane.loop.call_soon(self._flush_head)
        return self

    def _render(self, exchange: Relaying) -> bytes:
        """Return the whole head of the request (RFC 9112 §3)."""
        head = exchange.head
        target, query = exchange.forwarded_target()
        if query is not None:
            # Over HTTP/2 it may hold more than visible ASCII, which a request line may not.
            query = _NOT_VISIBLE.sub(lambda match: b"%%%02X" % match[0][0], query)
            target = b"%b?%b" % (target, query)
        if self._is_chunked:
            framing = b"transfer-encoding: chunked\r\n\r\n"
        elif head.content_length or head.method == b"POST":
            framing = b"content-length: %d\r\n\r\n" % head.content_length
        else:
            framing = b"\r\n"
        fields = exchange.forwarded_h1()
        return b"".join((head.method, b" ", self._prefix, target, self._host, fields, framing))

    def sweep(self, now: float) -> None:
        """Once a second: note that the backend takes what waits; close what is too much."""
        exchange = self._exchange
        if exchange is not None:
            if self._out.has_moved():
                exchange.progress_at = now
        elif now - self._idle_since > _IDLE_S and self._pool.is_surplus(self):
            self.close()

    def close(self) -> None:
        """Close when no request is open, else after it."""
        self._is_closing = True
        self.capacity = 0
        if self._exchange is None and self._out.transport is not None:
            self._out.transport.close()
        self._pool.connection_lost(self)

    # sides.Upstream

    def _flush_head(self) -> None:
        """Send a head whose body did not come at once."""
        head, self._request_head = self._request_head, b""
        if head:
            self._out.write(head, 0)

    def send_body(self, chunk: bytes, ended: bool) -> int:
        """See `Upstream`."""
        length = len(chunk)
        data = chunk
        if self._is_chunked:
            if length:
                data = b"%x\r\n%b\r\n" % (length, chunk)
            if ended:
                data += http1.LAST_CHUNK
        else:
            self._request_left -= length
            if self._request_left < 0 or (ended and self._request_left):
                self._out.reset()  # never complete a body that is not what was announced
                return 0
        self._request_ended = ended
        head = self._request_head
        if head:
            self._request_head = b""
            data = head + data
        return self._out.write(data, length) if data else 0

    def cancel(self) -> None:
        """See `Upstream`."""
        self._exchange = None
        if self._reader.has_ended:
            self._release()
        else:
            self._out.reset()
            self._break()

    def grant(self, length: int) -> None:
        """See `Upstream`."""
        self._ungranted = max(0, self._ungranted - length)
        if self._is_reading_paused and self._ungranted <= WINDOW_BYTES // 2:
            self._resume_reading()

    def _resume_reading(self) -> None:
        self._is_reading_paused = False
        if self._out.transport is not None:
            self._out.transport.resume_reading()

    # The answer

    def _receive(self, length: int) -> None:
        exchange = self._exchange
        if exchange is None:
            self._break()  # nobody has asked for anything
            return
        plane = self.plane
        reader = self._reader
        try:
            reader.feed(plane.receive_buffer, plane.receive_view, length)
        except http1.Http1Error:
            # What was whole before the fault is passed on, the rest is lost.
            reader.keeps = False
            if not reader.has_ended:
                self._break()
                return
        if reader.has_head:
            self._deliver(exchange)

    def _deliver(self, exchange: Relaying) -> None:
        """Pass on what the last read has brought."""
        reader = self._reader
        ended = reader.has_ended
        chunks = reader.chunks
        chunk = b""
        if chunks:
            reader.chunks = []
            chunk = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        head = reader.head
        if head is not None:
            reader.head = None
            if ended and chunk:
                exchange.whole_answer(head, chunk)
            else:
                exchange.answer_head(head, ended)
        if chunk and not (ended and head is not None):
            self._ungranted += len(chunk)
            exchange.answer_body(chunk, ended)
        elif ended and head is None:
            exchange.answer_body(b"", True)
        if self._exchange is not exchange:
            return  # it has cancelled
        if ended:
            self._release()
        elif self._ungranted > WINDOW_BYTES and not self._is_reading_paused:
            self._is_reading_paused = True
            if self._out.transport is not None:
                self._out.transport.pause_reading()

    def _release(self) -> None:
        """The answer is complete: give the connection back, or close it."""
        self._exchange = None
        self.busy = 0
        keeps = self._reader.keeps and not self._is_closing
        if not keeps or not self._request_ended or self._out.is_paused:
            # The backend does not want the rest of the body, or not the connection.
            self._break()
            return
        self.capacity = 1
        self._may_be_stale = True
        self._idle_since = self.plane.tick
        if self._is_reading_paused:
            self._resume_reading()
        self._pool.capacity_changed(self)

    def _break(self) -> None:
        """End the connection; an exchange that is open has lost it."""
        exchange, self._exchange = self._exchange, None
        transport = self._out.transport
        dropped = self._out.drop()
        self._request_head = b""
        self._is_closing = True
        self.busy = self.capacity = 0
        if transport is not None:
            transport.abort()
        self._pool.connection_lost(self)
        if exchange is not None:
            exchange.body_dropped(dropped)
            exchange.upstream_lost(self._may_be_stale and not self._reader.has_begun)
