"""The caller's side of the request under way on an HTTP/1.1 connection: its answer, and whether the
connection goes on after it.
"""

from __future__ import annotations

import contextlib
from typing import Final

from gateway import metrics
from gateway.dataplane.core.certificates import ClientCertificate
from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.heads import FieldSection, Pair, media_type
from gateway.dataplane.core.read_gate import PAUSED_FLOW
from gateway.dataplane.core.replies import PROTOBUF, Reply, http_reply
from gateway.dataplane.core.throttled_log import MALFORMED_REQUEST
from gateway.dataplane.exchange.exchange import Exchange
from gateway.dataplane.http1.answer_writer import AnswerWriter
from gateway.dataplane.http1.connection import BODY, CLOSED, DRAIN, ConnectionState
from gateway.dataplane.http1.request_head import Http1RequestHead
from gateway.dataplane.http1.request_reader import RequestReader
from gateway.outcome import REFUSALS, Refusal, Result
from gateway.wire import http1

WINDOW_BYTES: Final = 64 * 1024
"""Body bytes that may wait for the backend before the socket is read no more."""
OTHER_PROTOCOL: Final = (
    "a client speaks neither HTTP/1.1 nor HTTP/2: point it at what it was meant for"
)
DRAIN_BYTES: Final = 64 * 1024
"""Largest rest of a refused body that is read to keep the connection."""
_NO_FIELDS: Final[list[Pair]] = []
_USUAL_HEAD: Final = 4 * 1024
"""A head up to this is a part of what any connection takes,"""
_HEAD_COST: Final = 4
"""a longer one is charged with so many times its length: its fields are objects, and what goes on
of them is kept beside them.
"""


class Http1Answers:
    """Implements `seams.Downstream` for one request after the other."""

    __slots__ = (
        "_ahead",
        "_charged",
        "_context",
        "_head",
        "_heads",
        "_is_continue_due",
        "_reader",
        "_state",
        "_writer",
        "certificate",
        "exchange",
        "peer",
        "ungranted",
    )

    def __init__(
        self,
        context: WorkerContext,
        state: ConnectionState,
        reader: RequestReader,
        peer: str,
        certificate: ClientCertificate | None,
    ) -> None:
        self.peer = peer
        self.certificate = certificate
        self.exchange: Exchange | None = None
        """The exchange under way."""
        self.ungranted = 0
        """Body bytes that have come and not left for the backend."""
        self._context = context
        self._state = state
        self._reader = reader
        self._heads = reader.heads
        self._writer = AnswerWriter(state.out)
        self._head: Http1RequestHead | None = None
        self._charged = 0
        """What is charged for the head of the request under way."""
        self._is_continue_due = False
        """Whether `100 Continue` is awaited and has not been sent."""
        self._ahead: tuple[bytes | bytearray, int, int] | None = None
        """While a chunked request is decided on: what has come of its body."""

    def begin(self, head: Http1RequestHead) -> None:
        """Expect the answer to a request."""
        self._writer.has_begun = False
        self._head = head
        self._is_continue_due = head.expects_continue
        if self._reader.head_bytes > _USUAL_HEAD:
            self._charged = _HEAD_COST * self._reader.head_bytes
            self._context.budget.charge(self._charged)

    def uncharge(self) -> None:
        """The request under way is over: its head is no longer held."""
        charged, self._charged = self._charged, 0
        self._context.budget.release(charged)

    def look_ahead(self, ahead: tuple[bytes | bytearray, int, int] | None) -> None:
        """Note where a chunked body stands that came with the head, while it is decided on."""
        self._ahead = ahead

    def body_came(self, length: int) -> None:
        """Note body bytes: a client that sends them does not wait for `100 Continue`."""
        self._is_continue_due = False
        self.ungranted += length

    # What `seams.Downstream` asks for

    def accept_body(self) -> None:
        """See `Downstream`."""
        head = self._head
        # With body bytes at hand the client does not wait for it (RFC 9110 §10.1.1).
        if self._is_continue_due and head is not None and not head.body_follows:
            self._is_continue_due = False
            self._state.out.write(http1.CONTINUE, 0)

    def grant(self, length: int, keeps_up: bool) -> None:
        """See `Downstream`."""
        left = self.ungranted - length
        self.ungranted = max(0, left)
        gate = self._state.gate
        if gate.reasons and left <= WINDOW_BYTES // 2:
            gate.resume(PAUSED_FLOW)
            if left <= 0:
                gate.holds_no_more()

    def send_head(self, section: FieldSection, ended: bool) -> None:
        """See `Downstream`."""
        head = self._head
        if head is not None:
            state = self._state
            self._decide_end(head)
            self._writer.send_head(section, head, not state.is_ending, ended)
            if ended:
                self._answered()

    def send_body(self, chunk: bytes, ended: bool) -> int:
        """See `Downstream`."""
        queued = self._writer.send_body(chunk, ended)
        if ended:
            self._answered()
        return queued

    def send_answer(
        self, section: FieldSection, body: bytes, trailers: FieldSection | None = None
    ) -> None:
        """See `Downstream`; of trailers only the end is sent."""
        head = self._head
        if head is not None:
            state = self._state
            self._decide_end(head)
            self._writer.send_whole(section, body, head, not state.is_ending)
            self._answered()

    def send_trailers(self, section: FieldSection) -> None:
        """See `Downstream`; only the end is sent."""
        self.send_body(b"", ended=True)

    def send_reply(self, reply: Reply) -> None:
        """See `Downstream`."""
        head = self._head
        if head is not None:
            self._decide_end(head)
            is_head = head.method == b"HEAD"
            self._writer.send_reply(reply, keeps=not self._state.is_ending, is_head=is_head)
            self._answered()

    def withhold(self) -> None:
        """See `Downstream`."""
        self.exchange = None
        self._heads.forget_key()
        self.uncharge()
        self._state.linger()

    def break_off(self, trailers: FieldSection | None) -> None:
        """See `Downstream`: trailers would be taken for the end of a whole answer."""
        self._state.reset()
        self.drop()

    def drop(self) -> None:
        """Give the request under way up, and let go of its head, which holds its key."""
        exchange, self.exchange = self.exchange, None
        self._head = self._ahead = None
        self._heads.forget_key()
        self.uncharge()
        if exchange is not None:
            exchange.caller_gone()

    # Whether the connection goes on

    def _decide_end(self, head: Http1RequestHead) -> None:
        """Note before an answer whether the connection ends with it."""
        if self._ahead is not None:
            self._skip_ahead(*self._ahead)
        state = self._state
        if not head.keeps_alive or state.has_eof or state.is_aged or self._context.is_leaving:
            state.is_ending = True
        elif state.phase == BODY and (
            self._reader.chunked is not None or state.left > DRAIN_BYTES or self._is_continue_due
        ):
            # The rest is too long to read it, or its end is unknown; and a client that awaits
            # `100 Continue` may or may not send it after all (RFC 9110 §10.1.1).
            state.is_ending = True

    def _skip_ahead(self, buffer: bytes | bytearray, at: int, end: int) -> None:
        """Find the end of a chunked body that is refused, if it has come with the head."""
        body = http1.ChunkedBody()
        with contextlib.suppress(http1.Http1Error):
            _, stop = body.feed(buffer, at, end)
            if body.is_complete:
                self._reader.chunked = None
                self._state.left = stop - at

    def _answered(self) -> None:
        """The answer is complete: go on with the next request, or end the connection."""
        state = self._state
        self.exchange = None
        self.ungranted = 0
        head, self._head = self._head, None
        if head is not None:
            head.credentials_h1 = b""  # it may be kept to recognise the next one
        if self._charged:
            self.uncharge()
        if state.gate.reasons:
            state.gate.resume(PAUSED_FLOW)
        if state.out.transport is None:
            state.phase = CLOSED
        elif state.is_ending:
            state.linger()
        elif state.phase == BODY:
            state.phase = DRAIN
            state.since = self._context.tick
        else:
            state.await_head()

    # What is malformed, and our own bugs

    def refuse_head(self, reason: str, head: bytes = b"", extra: list[Pair] = _NO_FIELDS) -> None:
        """Answer a head that cannot be read, or not be held: nothing behind it can be, either.

        `head` is what has come of it; `extra` is added to the answer.
        """
        context = self._context
        if reason == http1.NOT_HTTP:
            context.counters.count(metrics.CONNECTIONS_REFUSED, "preface")
            context.throttled.warn(OTHER_PROTOCOL, self.peer, context.now())
            self._state.close()
            return
        refusal = REFUSALS[reason]
        result = refusal.outcome.result
        if result is Result.MALFORMED:
            context.throttled.warn(MALFORMED_REQUEST, self.peer, context.now(), reason.lower())
        context.counters.unrouted("http").requests[str(refusal.outcome.http), result.value] += 1
        self._state.is_ending = True
        is_protobuf = media_type(http1.peek_field(head, b"content-type")) == PROTOBUF
        reply = http_reply(refusal, is_protobuf).with_fields(extra)
        self._writer.send_reply(reply, keeps=False, is_head=head.startswith(b"HEAD "))
        self._answered()

    def fail(self, refusal: Refusal) -> None:
        """Refuse the request under way if nothing of an answer has been sent, else break it off."""
        exchange = self.exchange
        if exchange is not None and not exchange.is_over and not self._writer.has_begun:
            exchange.refuse(refusal)
        else:
            self.break_off(None)
