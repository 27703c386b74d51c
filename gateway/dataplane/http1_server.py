"""The caller's side over HTTP/1.1: one request at a time, keep-alive, pipelining."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from gateway.dataplane import replies
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.http1_answer_writer import AnswerWriter
from gateway.dataplane.http1_connection import (
    ANSWER,
    BODY,
    CLOSED,
    DRAIN,
    HEAD,
    PAUSED_FLOW,
    PAUSED_PIPELINE,
    Http1Connection,
)
from gateway.dataplane.http1_request_head import HeadReader, Http1RequestHead
from gateway.outcome import CANCELED, REFUSALS, Refusal, Result
from gateway.wire import http1

if TYPE_CHECKING:
    from gateway.dataplane.heads import FieldSection
    from gateway.dataplane.plane import DataPlane
    from gateway.settings import Listener

DRAIN_BYTES: Final = 64 * 1024
"""Largest rest of a refused body that is read to keep the connection."""
_NEWLINES: Final = b"\r\n"


class Http1Server(Http1Connection):
    """One client connection; also `sides.Downstream` of its current exchange."""

    __slots__ = ("_ahead", "_answer", "_chunked", "_continue_due", "_exchange", "_head", "_heads")

    def __init__(self, plane: DataPlane, listener: Listener, peer: str) -> None:
        super().__init__(plane, peer)
        self._answer = AnswerWriter(self._out)
        self._heads = HeadReader(plane.credentials)
        self._head: Http1RequestHead | None = None
        self._exchange: Exchange | None = None
        self._chunked: http1.ChunkedBody | None = None
        self._ahead: tuple[bytes | bytearray, int, int] | None = None
        """While a chunked request is decided on: what has come of its body, see `_look_ahead`."""
        self._continue_due = False
        """Whether `100 Continue` is awaited and has not been sent."""

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (asyncio)."""
        super().connection_made(transport)
        self.plane.connections.add(self)

    def buffer_updated(self, nbytes: int) -> None:
        """Read what has arrived (asyncio)."""
        plane = self.plane
        try:
            self._receive(plane.receive_buffer, plane.receive_view, nbytes)
        except Exception:  # noqa: BLE001 - data outlives our bugs: the caller retries, the alarm is raised
            self._fail()

    def eof_received(self) -> bool:
        """The client sends no more (asyncio); a complete request still gets its answer."""
        self._has_eof = True
        if self._phase == BODY and self._exchange is not None:
            self._exchange.caller_gone()
        return self._phase == ANSWER

    def resume_writing(self) -> None:
        """The client has read everything (asyncio)."""
        left = self._out.resume()
        self._since = self.plane.tick
        if left and self._exchange is not None:
            self._exchange.answer_left(left)
        if self._pauses & PAUSED_PIPELINE:
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what is under way (asyncio)."""
        self.lost()
        self.plane.connections.discard(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.caller_gone()

    # Reading

    def _receive(self, buffer: bytes | bytearray, view: memoryview, end: int) -> None:
        at = 0
        while at < end:
            phase = self._phase
            if phase == HEAD and not self._out.is_paused:
                at = self._read_head(buffer, view, at, end)
            elif phase == BODY:
                at = self._read_body(buffer, view, at, end)
            elif phase <= ANSWER:
                self._hold(bytes(view[at:end]))
                self._pause(PAUSED_PIPELINE)
                return
            elif phase == CLOSED:
                return
            else:
                at = self._throw_away(at, end)

    def _read_head(self, buffer: bytes | bytearray, view: memoryview, at: int, end: int) -> int:
        """Take a head, or its beginning; return the position behind what was taken."""
        if self._held:
            return self._read_rest_of_head(buffer, view, at, end)
        while buffer[at] in _NEWLINES:
            at += 1  # empty lines before a request line (RFC 9112 §2.2)
            if at == end:
                return at
        found = buffer.find(http1.HEAD_END, at, end)
        if found < 0:
            self._since = self.plane.tick
            self._hold_head(bytes(buffer[at:end]))
            return end
        stop = found + 4
        return self._begin(bytes(view[at:stop]), buffer, view, stop, end)

    def _read_rest_of_head(
        self, buffer: bytes | bytearray, view: memoryview, at: int, end: int
    ) -> int:
        held = self._held
        self._let_go_of_held()
        data = held + bytes(view[at:end])
        found = data.find(http1.HEAD_END, max(0, len(held) - len(http1.HEAD_END) + 1))
        if found < 0:
            self._hold_head(data)
            return end
        length = found + len(http1.HEAD_END)
        return self._begin(data[:length], buffer, view, at + length - len(held), end)

    def _hold_head(self, data: bytes) -> None:
        if len(data) > http1.MAX_HEAD_BYTES:
            self._refuse_head(http1.HEAD_TOO_LARGE)
        else:
            self._hold(data)

    def _begin(
        self, raw: bytes, buffer: bytes | bytearray, view: memoryview, at: int, end: int
    ) -> int:
        """Start the exchange of a complete head; `buffer[at:end]` is what has come behind it, of
        which a whole body is taken at once. Return the position behind what was taken.
        """
        self._answer.has_begun = False
        try:
            head = self._heads.read(raw)
        except http1.Http1Error as error:
            self._refuse_head(error.reason)
            return at
        self._head = head
        self._ungranted = 0
        length = self._left = head.content_length
        self._continue_due = head.expects_continue
        if length:
            self._phase = BODY
            head.body_follows = at < end
        else:
            self._phase = ANSWER
            head.body_follows = True
        exchange = self._exchange = Exchange(self.plane, self, head)
        if head.is_chunked:
            self._chunked = http1.ChunkedBody()
            self._ahead = (buffer, at, end)
            exchange.start()
            self._ahead = None
            return at
        self._chunked = None
        exchange.start()
        if length > end - at or exchange.is_over:
            return at
        self._phase = ANSWER
        self._continue_due = False
        self._left = 0
        self._ungranted = length
        exchange.body(bytes(view[at : at + length]), True)
        return at + length

    def _read_body(self, buffer: bytes | bytearray, view: memoryview, at: int, end: int) -> int:
        """Take body bytes; return the position behind them."""
        chunked = self._chunked
        if chunked is None:
            stop = min(at + self._left, end)
            chunk = bytes(view[at:stop])
            self._left -= stop - at
            ended = not self._left
        else:
            try:
                chunk, stop = chunked.feed(buffer, at, end)
            except http1.Http1Error as error:
                self._refuse_body(error.reason)
                return end
            ended = chunked.is_complete
        self._continue_due = False
        self._ungranted += len(chunk)
        exchange = self._exchange
        if ended:
            self._phase = ANSWER
        if exchange is not None:
            exchange.body(chunk, ended)
        if self._phase == BODY:
            self._control_reading()
        return stop

    def _go_on(self) -> None:
        held = self._held
        if self._phase != HEAD or not held or self._out.is_paused:
            return
        self._let_go_of_held()
        try:
            self._receive(held, memoryview(held), len(held))
        except Exception:  # noqa: BLE001 - as in `buffer_updated`
            self._fail()
        self._resume_after_pipeline()

    def _resume_after_pipeline(self) -> None:
        waits = self._phase == ANSWER or self._out.is_paused
        if not (waits and self._held):
            self._resume(PAUSED_PIPELINE)

    # sides.Downstream

    def accept_body(self) -> None:
        """See `Downstream`."""
        head = self._head
        # With body bytes at hand the client does not wait for it (RFC 9110 §10.1.1).
        if self._continue_due and head is not None and not head.body_follows:
            self._continue_due = False
            self._out.write(http1.CONTINUE, 0)

    def send_head(self, section: FieldSection, ended: bool) -> None:
        """See `Downstream`."""
        head = self._head
        if head is not None:
            self._decide_end(head)
            self._answer.send_head(section, head, not self._is_ending, ended)
            if ended:
                self._answered()

    def send_body(self, chunk: bytes, ended: bool) -> int:
        """See `Downstream`."""
        queued = self._answer.send_body(chunk, ended)
        if ended:
            self._answered()
        return queued

    def send_answer(self, section: FieldSection, body: bytes) -> None:
        """See `Downstream`."""
        head = self._head
        if head is not None:
            self._decide_end(head)
            self._answer.send_whole(section, body, head, not self._is_ending)
            self._answered()

    def send_trailers(self, section: FieldSection) -> None:
        """See `Downstream`; only the end is sent."""
        self.send_body(b"", ended=True)

    def refuse(self, refusal: Refusal, is_grpc: bool, allow: bytes) -> None:
        """See `Downstream`."""
        head = self._head
        exchange = self._exchange
        if refusal.outcome is CANCELED or head is None or exchange is None:
            return
        reply = exchange.http_reply(refusal, allow)
        self._decide_end(head)
        is_head = head.method == b"HEAD"
        self._answer.send_reply(reply, keeps=not self._is_ending, is_head=is_head)
        self._answered()

    def withhold(self) -> None:
        """See `Downstream`."""
        self._exchange = None
        self._heads.forget_key()
        self._linger()

    def abort(self) -> None:
        """Break off the answer under way (`Downstream`); or close at once (`ServerConnection`)."""
        exchange, self._exchange = self._exchange, None
        self.reset()
        if exchange is not None:
            exchange.caller_gone()

    # The end of an answer

    def _decide_end(self, head: Http1RequestHead) -> None:
        """Note before an answer whether the connection ends with it."""
        if self._ahead is not None:
            self._look_ahead(*self._ahead)
        if not head.keeps_alive or self._has_eof:
            self._is_ending = True
        elif self._phase == BODY and (
            self._chunked is not None or self._left > DRAIN_BYTES or self._continue_due
        ):
            # The rest is too long to read it, or its end is unknown; and a client that awaits
            # `100 Continue` may or may not send it after all (RFC 9110 §10.1.1).
            self._is_ending = True

    def _look_ahead(self, buffer: bytes | bytearray, at: int, end: int) -> None:
        """Find the end of a chunked body that is refused, if it has come with the head."""
        body = http1.ChunkedBody()
        with contextlib.suppress(http1.Http1Error):
            _, stop = body.feed(buffer, at, end)
            if body.is_complete:
                self._chunked = None
                self._left = stop - at

    def _answered(self) -> None:
        """The answer is complete: go on with the next request, or end the connection."""
        self._exchange = None
        self._head = None
        self._heads.forget_key()
        if self._pauses:
            self._resume(PAUSED_FLOW)
        if self._out.transport is None:
            self._phase = CLOSED
        elif self._is_ending:
            self._linger()
        elif self._phase == BODY:
            self._phase = DRAIN
            self._since = self.plane.tick
        else:
            self._await_head()

    # What is malformed, and our own bugs

    def _refuse_head(self, reason: str) -> None:
        """Answer a head that cannot be read: nothing behind it can be, either."""
        refusal = REFUSALS[reason]
        counters = self.plane.unrouted_counters("http")
        counters.requests[str(refusal.outcome.http), Result.MALFORMED.value] += 1
        self._is_ending = True
        reply = replies.http_reply(refusal, is_protobuf=False)
        self._answer.send_reply(reply, keeps=False, is_head=False)
        self._answered()

    def _refuse_body(self, reason: str) -> None:
        """End a request whose chunked body cannot be read: nothing completes it at the backend."""
        exchange = self._exchange
        if exchange is not None and not self._answer.has_begun:
            exchange.refuse(REFUSALS[reason])
        else:
            self.abort()

    def _fail(self) -> None:
        """Report a bug of ours; the caller is told to try again, where that is still possible."""
        self.plane.report_bug("connection")
        exchange = self._exchange
        self._is_ending = True
        if exchange is not None and not exchange.is_over and not self._answer.has_begun:
            exchange.refuse(REFUSALS["INTERNAL"])
        else:
            self.abort()

    # Time

    def sweep(self, now: float) -> None:
        """Once a second: header, idle, stall, linger, request and age limits."""
        if now > self._ends_at:
            self._is_ending = True
        exchange = self._exchange
        if self._out.has_moved():
            self._since = now
            if exchange is not None:
                exchange.progress_at = now
        if exchange is not None:
            exchange.sweep(now)
        else:
            self._sweep_idle(now)
