"""The backend's side over HTTP/1.1: one request at a time on a connection that is kept.

The connection is `seams.Upstream` of its current request. It goes back to the pool when both the
request has been sent and the answer has come, whole; in every other case it is closed.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from gateway.dataplane.core.context import RECEIVE_BUFFER_BYTES, WorkerContext
from gateway.dataplane.core.read_gate import PAUSED_FLOW, ReadGate
from gateway.dataplane.core.seams import ConnectionOwner, UpstreamRequest
from gateway.dataplane.http1.answer_reader import AnswerReader, KnownAnswers
from gateway.dataplane.http1.output import Output
from gateway.dataplane.http1.request_writer import RequestWriter
from gateway.dataplane.upstream.connector import ConnectError
from gateway.wire import http1

ALPN: Final = ("http/1.1",)
"""What is offered to a backend over TLS."""
WINDOW_BYTES: Final = 64 * 1024
"""Answer bytes that may wait for the caller before the socket is read no more."""
_IDLE_S: Final = 60.0
_SILENCE_S: Final = 9.0
"""Silence of the backend on all connections, while it owes an answer, after which it is asked
whether it is there.
"""
_SILENCE_AFTER_REQUEST_S: Final = 2.0
"""The same once the request has been given up."""


class Http1Upstream(asyncio.BufferedProtocol):
    """One connection to a backend; `pool` gives it requests."""

    def __init__(
        self,
        context: WorkerContext,
        owner: ConnectionOwner,
        authority: str | None,
        known_answers: KnownAnswers,
    ) -> None:
        """`authority` is sent as Host instead of the address's own."""
        self._context = context
        self._owner = owner
        target = owner.target
        self.address = target.address
        self.busy = 0
        """Open requests."""
        self.capacity = 0
        """How many more requests it takes now."""
        self._out = Output(context.budget)
        self._writer = RequestWriter(context.loop, self._out, target, authority)
        self._is_closing = False
        self._gate = ReadGate(context.budget, context.backlog, "")
        self._may_be_stale = False
        """Whether it has been idle: the backend may close it just when a request is sent."""
        self._idle_since = context.tick
        self._owed_since = context.tick
        """Since when the backend owes an answer, or at least reading."""
        self._request: UpstreamRequest | None = None
        self._reader = AnswerReader(known_answers)
        self._ungranted = 0

    @property
    def protocol(self) -> asyncio.BufferedProtocol:
        """What takes the connection's bytes."""
        return self

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (asyncio)."""
        transport = cast("asyncio.Transport", transport)
        self._out.begin(transport)
        self._gate.begin(transport)
        self.capacity = 1

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the worker's one buffer (asyncio): what it gets is forwarded or copied at once."""
        return self._context.receive_view

    def buffer_updated(self, nbytes: int) -> None:
        """Read what has arrived (asyncio)."""
        context = self._context
        context.show_life()
        self._owner.heard_at = context.tick
        try:
            self._receive(nbytes)
        except Exception:  # noqa: BLE001 - data outlives our bugs: the caller retries, the alarm is raised
            context.report_bug("upstream")
            self._break()
        if nbytes == RECEIVE_BUFFER_BYTES:
            self._gate.count_read(nbytes)

    def eof_received(self) -> bool:
        """The backend has closed (asyncio): the end of an answer that is delimited by it."""
        if self._request is None:
            self._break()  # before the pool chooses it again
        elif self._reader.end_of_stream():
            self._deliver(self._request)
        return False

    def pause_writing(self) -> None:
        """The backend does not read (asyncio)."""
        self._out.pause()

    def resume_writing(self) -> None:
        """The backend has read everything (asyncio)."""
        left = self._out.resume()
        if left and self._request is not None:
            self._request.body_left(left)

    def connection_lost(self, exc: Exception | None) -> None:
        """The request under way is lost (asyncio)."""
        self._break()

    # The pool's side

    @property
    def requests(self) -> list[UpstreamRequest]:
        """The open request."""
        return [] if self._request is None else [self._request]

    async def ready(self) -> None:
        """Requests may be opened at once. Raises `ConnectError` where it is closed already."""
        if self._out.transport is None:
            msg = "the backend closed the connection at once"
            raise ConnectError(msg)

    def open(self, request: UpstreamRequest) -> Http1Upstream:
        """Begin a request; its head goes out with the first bytes of its body."""
        self._request = request
        self.busy = 1
        self.capacity = 0
        self._owed_since = self._context.tick
        if self._owed_since != self._idle_since:
            self._may_be_stale = True
        self._ungranted = 0
        self._reader.begin(request.head.method)
        self._writer.begin(request)
        return self

    def sweep(self, now: float) -> None:
        """Once a second: note that the backend takes what waits, or answers nothing; close what is
        too much.
        """
        request = self._request
        if request is not None:
            if self._out.has_moved():
                self._owed_since = now
                request.note_progress(now)
            elif self._is_silent(now, _SILENCE_S):
                self._owner.silent(self, now)
        elif now - self._idle_since > _IDLE_S and self._owner.is_surplus(self):
            self.close()

    def close(self) -> None:
        """Close when no request is open, else after it."""
        self._is_closing = True
        self.capacity = 0
        if self._request is None and self._out.transport is not None:
            self._out.transport.close()
        self._owner.connection_lost(self)

    # seams.Upstream

    def send_body(self, chunk: bytes, ended: bool) -> int:
        """See `Upstream`."""
        if ended:
            self._owed_since = self._context.tick
        return self._writer.send_body(chunk, ended)

    def cancel(self) -> None:
        """See `Upstream`."""
        self._request = None
        if self._reader.has_ended:
            self._release()
        else:
            now = self._context.tick
            if self._is_silent(now, _SILENCE_AFTER_REQUEST_S):
                self._owner.silent(self, now)
            self._out.reset()
            self._break()

    def _is_silent(self, now: float, for_s: float) -> bool:
        """Whether the backend has owed an answer for so long, and has sent nothing meanwhile, on
        any connection.
        """
        since = self._owed_since
        return (
            now - since > for_s
            and self._owner.heard_at <= since
            and (self._writer.has_ended or self._out.is_paused)
        )

    def grant(self, length: int) -> None:
        """See `Upstream`."""
        self._ungranted = max(0, self._ungranted - length)
        if self._ungranted <= WINDOW_BYTES // 2:
            self._gate.resume(PAUSED_FLOW)

    # The answer

    def _receive(self, length: int) -> None:
        request = self._request
        if request is None:
            self._break()  # nobody has asked for anything
            return
        context = self._context
        reader = self._reader
        try:
            reader.feed(context.receive_view, length)
        except http1.Http1Error:
            # What was whole before the fault is passed on, the rest is lost.
            reader.keeps = False
            if not reader.has_ended:
                self._break()
                return
        if reader.has_head:
            self._deliver(request)

    def _deliver(self, request: UpstreamRequest) -> None:
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
                request.answer.whole(head, chunk)
            else:
                request.answer.head(head, ended)
        if chunk and not (ended and head is not None):
            self._ungranted += len(chunk)
            request.answer.body(chunk, ended)
        elif ended and head is None:
            request.answer.body(b"", True)
        if self._request is not request:
            return  # it has cancelled
        if ended:
            self._release()
        elif self._ungranted > WINDOW_BYTES:
            self._gate.pause(PAUSED_FLOW)

    def _release(self) -> None:
        """The answer is complete: give the connection back, or close it."""
        self._request = None
        self.busy = 0
        keeps = self._reader.keeps and not self._is_closing
        if not keeps or not self._writer.has_ended or self._out.is_paused:
            # The backend does not want the rest of the body, or not the connection.
            self._break()
            return
        self.capacity = 1
        self._may_be_stale = True
        self._idle_since = self._context.tick
        if self._gate.reasons:
            self._gate.resume(PAUSED_FLOW)
        self._owner.capacity_changed(self, 1)

    def _break(self) -> None:
        """End the connection; an request that is open has lost it."""
        request, self._request = self._request, None
        transport = self._out.transport
        dropped = self._out.drop()
        self._gate.end()
        self._writer.drop()
        self._is_closing = True
        self.busy = self.capacity = 0
        if transport is not None:
            transport.abort()
        self._owner.connection_lost(self)
        if request is not None:
            request.body_dropped(dropped)
            request.lost(self._may_be_stale and not self._reader.has_begun)
