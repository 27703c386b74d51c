"""The caller's side over HTTP/1.1: one request at a time, keep-alive, pipelining.

A connection is in one phase. What arrives in `_HEAD` is a head, in `_BODY` a body, in `_DRAIN` the
small rest of a body that was refused, after which comes a head again; in `_LINGER` everything is
thrown away. In `_ANSWER` the request is complete: what follows it waits as bytes, and the socket is
not read, so that at most one read of pipelined requests is held.

Both the connection and `sides.Downstream` of its current exchange are one object.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, cast

from gateway.dataplane import replies
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.http1_answer_writer import AnswerWriter
from gateway.dataplane.http1_output import Output
from gateway.dataplane.http1_request_head import Http1RequestHead, read_request_head
from gateway.outcome import CANCELED, REFUSALS, Refusal, Result
from gateway.wire import http1

if TYPE_CHECKING:
    from gateway.dataplane.heads import FieldSection
    from gateway.dataplane.plane import DataPlane
    from gateway.settings import Listener

WINDOW_BYTES: Final = 64 * 1024
"""Body bytes that may wait for the backend before the socket is read no more."""
DRAIN_BYTES: Final = 64 * 1024
"""Largest rest of a refused body that is read to keep the connection."""
_NEWLINES: Final = b"\r\n"


# Plain numbers: in CPython 3.11 a look-up of an enum's member costs 0.3 µs, and a request has many.
_HEAD: Final = 0
_BODY: Final = 1
_ANSWER: Final = 2
_DRAIN: Final = 3
_LINGER: Final = 4
_CLOSED: Final = 5

_PAUSED_FLOW: Final = 1
"""The socket is not read: the backend takes the body slower than the caller sends it."""
_PAUSED_PIPELINE: Final = 2
"""The socket is not read: the next request has to wait for its turn."""
_PAUSED_BUDGET: Final = 4
"""The socket is not read: the worker holds as much as it may."""


class Http1Server(asyncio.BufferedProtocol):
    """One client connection; also `sides.Downstream` of its current exchange."""

    def __init__(self, plane: DataPlane, listener: Listener, peer: str) -> None:
        self.plane = plane
        self.peer = peer
        self.opened_at = plane.tick
        self._is_tls = listener.tls is not None
        self._out = Output(plane.budget)
        self._answer = AnswerWriter(self._out, plane.loop)
        self._phase: int = _HEAD
        self._since = plane.tick
        """When the phase began; with a part of a head, when its first byte came."""
        self._ends_at = plane.tick + plane.connection_age_limit()
        self._is_ending = False
        """Whether the next answer says `Connection: close`."""
        self._has_eof = False
        self._pauses = 0
        self._held = b""
        """The beginning of a head, or pipelined requests."""
        self._head: Http1RequestHead | None = None
        self._exchange: Exchange | None = None
        self._chunked: http1.ChunkedBody | None = None
        self._left = 0
        """Bytes of the body, or of what may be thrown away, that are still to come."""
        self._ahead: tuple[bytes | bytearray, int, int] | None = None
        """While a chunked request is decided on: what has come of its body, see `_look_ahead`."""
        self._ungranted = 0
        self._continue_due = False
        """Whether `100 Continue` is awaited and has not been sent."""

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (asyncio)."""
        self._out.begin(cast("asyncio.Transport", transport), is_tls=self._is_tls)
        self.plane.connections.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the worker's one buffer (asyncio): what it gets is forwarded or copied at once."""
        return self.plane.receive_view

    def buffer_updated(self, nbytes: int) -> None:
        """Read what has arrived (asyncio)."""
        plane = self.plane
        self._guarded_receive(plane.receive_buffer, plane.receive_view, nbytes)

    def eof_received(self) -> bool:
        """The client sends no more (asyncio); a complete request still gets its answer."""
        self._has_eof = True
        if self._phase == _BODY and self._exchange is not None:
            self._exchange.caller_gone()
        # The TLS layer of asyncio knows no half-closed connections.
        return self._phase == _ANSWER and not self._is_tls

    def pause_writing(self) -> None:
        """The client does not read (asyncio)."""
        self._out.pause()

    def resume_writing(self) -> None:
        """The client has read everything (asyncio)."""
        left = self._out.resume()
        self._since = self.plane.tick
        if left and self._exchange is not None:
            self._exchange.answer_left(left)
        if self._pauses & _PAUSED_PIPELINE:
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what is under way, let go of everything (asyncio)."""
        self._phase = _CLOSED
        self._out.drop()
        self._let_go_of_held()
        self.plane.budget.forget(self)
        self.plane.connections.discard(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.caller_gone()

    # Reading

    def _guarded_receive(self, buffer: bytes | bytearray, view: memoryview, end: int) -> None:
        try:
            self._receive(buffer, view, end)
        except Exception:  # noqa: BLE001 - data outlives our bugs: the caller retries, the alarm is raised
            self._fail()

    def _receive(self, buffer: bytes | bytearray, view: memoryview, end: int) -> None:
        at = 0
        while at < end:
            phase = self._phase
            if phase == _HEAD and not self._out.is_paused:
                at = self._read_head(buffer, at, end)
            elif phase == _BODY:
                at = self._read_body(buffer, view, at, end)
            elif phase <= _ANSWER:
                self._hold(bytes(view[at:end]))
                self._pause(_PAUSED_PIPELINE)
                return
            elif phase == _CLOSED:
                return
            else:
                at = self._throw_away(at, end)

    def _read_head(self, buffer: bytes | bytearray, at: int, end: int) -> int:
        """Take a head, or its beginning; return the position behind it."""
        if self._held:
            return self._read_rest_of_head(buffer, at, end)
        while buffer[at] in _NEWLINES:
            at += 1  # empty lines before a request line (RFC 9112 §2.2)
            if at == end:
                return at
        found = buffer.find(http1.HEAD_END, at, end)
        if found < 0:
            self._since = self.plane.tick
            self._hold_head(bytes(buffer[at:end]))
            return end
        stop = found + len(http1.HEAD_END)
        self._begin(bytes(buffer[at:stop]), buffer, stop, end)
        return stop

    def _read_rest_of_head(self, buffer: bytes | bytearray, at: int, end: int) -> int:
        held = self._held
        self._let_go_of_held()
        data = held + bytes(buffer[at:end])
        found = data.find(http1.HEAD_END, max(0, len(held) - len(http1.HEAD_END) + 1))
        if found < 0:
            self._hold_head(data)
            return end
        length = found + len(http1.HEAD_END)
        stop = at + length - len(held)
        self._begin(data[:length], buffer, stop, end)
        return stop

    def _hold_head(self, data: bytes) -> None:
        if len(data) > http1.MAX_HEAD_BYTES:
            self._refuse_head(http1.HEAD_TOO_LARGE)
        else:
            self._hold(data)

    def _begin(self, raw: bytes, buffer: bytes | bytearray, at: int, end: int) -> None:
        """Start the exchange of a complete head; `buffer[at:end]` is what has come behind it."""
        self._answer.has_begun = False
        try:
            head = read_request_head(raw, self.plane.credentials)
        except http1.Http1Error as error:
            self._refuse_head(error.reason)
            return
        self._head = head
        self._ungranted = 0
        self._chunked = http1.ChunkedBody() if head.is_chunked else None
        self._left = head.content_length
        self._continue_due = head.expects_continue
        has_body = head.is_chunked or head.content_length > 0
        self._phase = _BODY if has_body else _ANSWER
        head.body_follows = at < end or not has_body
        exchange = self._exchange = Exchange(self.plane, self, head)
        self._ahead = (buffer, at, end) if head.is_chunked else None
        exchange.start()
        self._ahead = None
        if not has_body and not exchange.is_over:
            exchange.body(b"", True)

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
        if ended:
            self._phase = _ANSWER
        self._ungranted += len(chunk)
        exchange = self._exchange
        if exchange is not None:
            exchange.body(chunk, ended)
        if self._phase == _BODY:
            self._control_reading()
        return stop

    def _control_reading(self) -> None:
        if self._ungranted > WINDOW_BYTES:
            self._pause(_PAUSED_FLOW)
        if self.plane.budget.is_full:
            self._pause(_PAUSED_BUDGET)
            self.plane.budget.wait(self, self._has_room)

    def _throw_away(self, at: int, end: int) -> int:
        """Read over what nobody wants; return the position behind it."""
        stop = min(at + self._left, end)
        self._left -= stop - at
        if not self._left:
            if self._phase == _DRAIN:
                self._await_head()
            else:
                self._close()
        return stop

    def _hold(self, data: bytes) -> None:
        self._held += data
        self.plane.budget.charge(len(data))

    def _let_go_of_held(self) -> None:
        self.plane.budget.release(len(self._held))
        self._held = b""

    # Whether the socket is read

    def _pause(self, reason: int) -> None:
        transport = self._out.transport
        if not self._pauses and transport is not None:
            transport.pause_reading()
        self._pauses |= reason

    def _resume(self, reason: int) -> None:
        if self._pauses & reason:
            self._pauses &= ~reason
            transport = self._out.transport
            if not self._pauses and transport is not None:
                transport.resume_reading()

    def _has_room(self) -> None:
        self._resume(_PAUSED_BUDGET)

    # sides.Downstream

    def grant(self, length: int, keeps_up: bool) -> None:
        """See `Downstream`."""
        self._ungranted = max(0, self._ungranted - length)
        if self._pauses and self._ungranted <= WINDOW_BYTES // 2:
            self._resume(_PAUSED_FLOW)

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
            self._answer.send_head(section, head, keeps=not self._is_ending, ended=ended)
            if ended:
                self._answered()

    def send_body(self, chunk: bytes, ended: bool) -> int:
        """See `Downstream`."""
        queued = self._answer.send_body(chunk, ended=ended)
        if ended:
            self._answered()
        return queued

    def send_trailers(self, section: FieldSection) -> None:
        """See `Downstream`."""
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
        self._end()

    def abort(self) -> None:
        """Break off the answer under way (`Downstream`); or close at once (`ServerConnection`)."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None and exchange.is_over and not self._answer.has_begun:
            # The caller is to get no answer at all; answers that it was owed before go first.
            self._end()
            return
        self._phase = _CLOSED
        self._out.reset()
        if exchange is not None:
            exchange.caller_gone()

    # The end of an answer

    def _decide_end(self, head: Http1RequestHead) -> None:
        """Note before an answer whether the connection ends with it."""
        if self._ahead is not None:
            self._look_ahead(*self._ahead)
        if not head.keeps_alive or self._has_eof:
            self._is_ending = True
        elif self._phase == _BODY and (
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
        self._ungranted = 0
        self._resume(_PAUSED_FLOW)
        if self._out.transport is None:
            self._phase = _CLOSED
        elif self._is_ending:
            self._end()
        elif self._phase == _BODY:
            self._phase = _DRAIN
            self._since = self.plane.tick
        else:
            self._await_head()

    def _await_head(self) -> None:
        self._phase = _HEAD
        self._since = self.plane.tick
        if self._is_ending:
            self._close()
        elif self._held:
            self.plane.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Take up what was pipelined, when its turn has come."""
        held = self._held
        if self._phase != _HEAD or not held or self._out.is_paused:
            return
        self._let_go_of_held()
        self._guarded_receive(held, memoryview(held), len(held))
        self._resume_after_pipeline()

    def _resume_after_pipeline(self) -> None:
        waits = self._phase == _ANSWER or self._out.is_paused
        if not (waits and self._held):
            self._resume(_PAUSED_PIPELINE)

    def _end(self) -> None:
        """Half-close, then read and throw away what still comes.

        A client that writes its whole body before it reads would otherwise see a broken pipe, not
        the answer: closing with unread bytes makes the kernel send RST, which overtakes it. Over
        TLS nothing can be half-closed: the client sees by its length that the answer is complete,
        and the connection is closed when the body is, too.
        """
        transport = self._out.transport
        if transport is None:
            return
        self._let_go_of_held()
        is_complete = self._phase != _BODY
        if self._has_eof or (self._is_tls and is_complete):
            self._close()
            return
        self._phase = _LINGER
        self._since = self.plane.tick
        linger_bytes = self.plane.settings.limits.linger_bytes
        if self._is_tls and self._chunked is None:
            self._left = min(self._left, linger_bytes)
        else:
            self._left = linger_bytes
        if not self._is_tls:
            transport.write_eof()
        self.plane.budget.forget(self)
        self._resume(_PAUSED_FLOW | _PAUSED_PIPELINE | _PAUSED_BUDGET)

    def _close(self) -> None:
        """Close after what was written has gone out."""
        self._phase = _CLOSED
        self._since = self.plane.tick
        if self._out.transport is not None:
            self._out.transport.close()

    # What is malformed, and our own bugs

    def _refuse_head(self, reason: str) -> None:
        """Answer a head that cannot be read: nothing behind it can be, either."""
        refusal = REFUSALS[reason]
        counters = self.plane.unrouted_counters("http")
        counters.requests[str(refusal.outcome.http), Result.MALFORMED.value] += 1
        self._is_ending = True
        self._phase = _BODY
        self._chunked = http1.ChunkedBody()  # a body without a known end
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
        if self._out.has_moved():
            self._since = now
            if self._exchange is not None:
                self._exchange.progress_at = now
        if self._exchange is not None:
            self._exchange.sweep(now)
        elif now - self._since > self._patience():
            if self._out.is_paused or self._phase != _HEAD:
                self._out.reset()
            else:
                self._close()

    def _patience(self) -> float:
        """For how many seconds the connection may stay as it is, without an exchange."""
        limits = self.plane.settings.limits
        if self._phase == _LINGER:
            return limits.linger_timeout_s
        if self._phase != _HEAD or self._out.is_paused:
            return limits.stall_timeout_s
        if self._held:
            return limits.header_timeout_s
        return 0.0 if self._is_ending else limits.idle_timeout_s

    def start_drain(self) -> None:
        """Close when nothing is under way, else after the answer."""
        self._is_ending = True
        if self._phase == _HEAD and not self._held:
            self._close()
