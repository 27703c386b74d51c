"""The backend's answer on its way to the caller.

It is passed on as it is, with three exceptions: a refusal of a key that the gateway allowed becomes
retryable, an answer that no server of the protocol gave does so, too, and an answer that breaks off
never looks like a whole one. Therefore an answer is held until it is complete, as long as it is
small.
"""

from __future__ import annotations

import time
from typing import Final

from gateway import metrics
from gateway.dataplane.core import chunks
from gateway.dataplane.core.heads import FieldSection
from gateway.dataplane.core.replies import HTTP_CODES
from gateway.dataplane.core.seams import AnswerSink, Upstream
from gateway.dataplane.exchange.backend_refusals import is_older_collectors_refusal
from gateway.dataplane.exchange.exchange import Exchange
from gateway.outcome import BACKEND_REFUSED, REFUSALS, GrpcCode, Result

HELD_ANSWER_BYTES: Final = 32 * 1024
"""Largest answer that is sent only when it is complete; less than any window, so that none fills
while it is held. OTLP's answers are a few hundred bytes.
"""

_AUTH_GRPC: Final = (GrpcCode.UNAUTHENTICATED, GrpcCode.PERMISSION_DENIED)
_AUTH_HTTP: Final = (401, 403)
_FIRST_ERROR: Final = 400
_NOT_FOUND: Final = 404
_AWAY: Final = (502, 503, 504)
"""What a proxy says when what stands behind it is away."""
_monotonic: Final = time.monotonic
# Bound once: in CPython 3.11 a look-up of an enum's member costs 0.15 µs, and a request has many.
_UNIMPLEMENTED: Final = GrpcCode.UNIMPLEMENTED
_ACCEPTED: Final[str] = Result.ACCEPTED.value
_ANSWERED_WITH_ERROR: Final[str] = Result.BACKEND_REFUSED.value


class AnswerRelay(AnswerSink):
    """Implements `seams.AnswerSink` for one exchange."""

    __slots__ = ("_chunks", "_exchange", "_head", "started", "upstream")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.upstream: Upstream | None = None
        """The backend's side, as long as it has more to send."""
        self.started = 0.0
        """When the request got its connection, in monotonic seconds."""
        self._head: FieldSection | None = None
        self._chunks: list[bytes] | None = None
        """Answer bytes that are held with the head; None once the head has been sent."""

    def head(self, section: FieldSection, ended: bool) -> None:
        """See `AnswerSink`; the head is held until the answer is complete."""
        taken = self._take_head(section, ended)
        if taken is None:
            return
        if ended:
            exchange = self._exchange
            exchange.has_begun = True
            exchange.downstream.send_head(taken, True)
            self._complete(taken)
        else:
            self._head = taken
            self._chunks = []

    def whole(self, section: FieldSection, body: bytes) -> None:
        """See `AnswerSink`: there is nothing to hold."""
        taken = self._take_head(section, False)
        if taken is not None:
            self.upstream = None
            exchange = self._exchange
            record = exchange.record
            record.response_bytes = len(body)
            exchange.has_begun = True
            exchange.downstream.send_answer(taken, body)
            is_accepted = exchange.route.dialect.is_accepted(taken)
            exchange.sink = None  # it holds nothing any more
            exchange.finish(record.backend_code, _ACCEPTED if is_accepted else _ANSWERED_WITH_ERROR)

    def _take_head(self, section: FieldSection, ended: bool) -> FieldSection | None:
        """Take note of the backend's head; return what goes to the caller, None if nothing."""
        exchange = self._exchange
        if exchange.is_over:
            return None
        services = exchange.services
        context = services.context
        exchange.progress_at = context.tick
        route = exchange.route
        backend = context.counters.backend(route.backend)
        backend.duration.observe(_monotonic() - self.started)
        if route.hold_s and section.status in _AWAY and self._holds(section):
            return None
        if exchange.body.replay is not None:
            exchange.body.end_replay()
        code = route.dialect.code(section)
        if route.dialect.is_foreign(section):
            self._replace_foreign(section, code or HTTP_CODES[section.status])
            return None
        if code is not None:
            exchange.record.backend_code = code
            backend.count(code)
            is_error = section.status >= _FIRST_ERROR or section.grpc_status > 0
            if is_error and self._is_answered_error(section):
                return None
        elif ended:
            self.cut_short()  # no status: cut short, whoever did it
            return None
        exchange.is_answering = True
        return section if services.cors is None else services.cors.decorated(section, exchange.head)

    def body(self, chunk: bytes, ended: bool) -> None:
        """See `AnswerSink`.

        Bytes are held with the head until the answer is complete, up to `HELD_ANSWER_BYTES`:
        clients drop their data when an answer breaks off that has begun, whatever its code.
        """
        section = self._head
        exchange = self._exchange
        if section is None or exchange.is_over:
            return
        context = exchange.services.context
        record = exchange.record
        exchange.progress_at = context.tick
        if ended and not record.backend_code:
            self.cut_short()  # trailers with the status were to come
            return
        length = len(chunk)
        record.response_bytes += length
        held = self._chunks
        if held is not None:
            chunks.append(held, chunk)
            context.budget.used += length
            if not ended and record.response_bytes <= HELD_ANSWER_BYTES:
                return
            length = record.response_bytes
            chunk = self._begin(section, held)
        queued = exchange.downstream.send_body(chunk, ended)
        if ended:
            self._complete(section)
        elif self.upstream is not None and length > queued:
            self.upstream.grant(length - queued)

    def _begin(self, section: FieldSection, held: list[bytes]) -> bytes:
        """Send the held head, let go of the held body and return it."""
        body = self._take_held(held)
        self._exchange.downstream.send_head(section, False)
        return body

    def _take_held(self, held: list[bytes]) -> bytes:
        """Let go of the held body and return it: the answer begins."""
        self._chunks = None
        body = held[0] if len(held) == 1 else b"".join(held)
        exchange = self._exchange
        exchange.services.context.budget.release(len(body))
        exchange.has_begun = True
        return body

    def trailers(self, section: FieldSection) -> None:
        """See `AnswerSink`."""
        head = self._head
        exchange = self._exchange
        if head is None or exchange.is_over:
            return
        route = exchange.route
        if section.grpc_status < 0 and route.dialect.code(head) is None:
            self.cut_short()  # trailers without a status
            return
        code = exchange.record.backend_code = route.dialect.code(section) or "UNKNOWN"
        exchange.services.context.counters.backend(route.backend).count(code)
        if section.grpc_status and self._is_answered_error(section):
            return
        downstream = exchange.downstream
        if self._chunks:
            downstream.send_answer(head, self._take_held(self._chunks), section)
        else:
            if self._chunks is not None:
                self._begin(head, self._chunks)
            downstream.send_trailers(section)
        self._complete(section)

    def cut_short(self) -> None:
        """The backend's side broke, or its answer lacks its end."""
        self.upstream = None
        exchange = self._exchange
        if exchange.is_over:
            return
        exchange.services.context.counters.backend(exchange.route.backend).count("none")
        exchange.fail(REFUSALS["BACKEND_LOST"])

    def release(self) -> None:
        """Let go of what is held."""
        self.upstream = None
        if self._chunks is not None:
            self._exchange.services.context.budget.release(sum(map(len, self._chunks)))
        self._chunks = None

    def _is_answered_error(self, section: FieldSection) -> bool:
        """Take note of a backend's error; return whether it was answered with our own words."""
        if self._refuses_our_key(section):
            self._replace_refusal()
            return True
        self._note_missing_route(section)
        return False

    def _holds(self, section: FieldSection) -> bool:
        """Have a request wait whose backend is away; return whether it does.

        One that says when to come again is there, and knows better.
        """
        exchange = self._exchange
        sink = exchange.sink
        if sink is None or section.field(b"retry-after") or not sink.hold_again():
            return False
        counters = exchange.services.context.counters.backend(exchange.route.backend)
        counters.count(HTTP_CODES[section.status])
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.cancel()
        return True

    def _note_missing_route(self, section: FieldSection) -> None:
        if section.status == _NOT_FOUND or section.grpc_status == _UNIMPLEMENTED:
            exchange = self._exchange
            exchange.services.context.counters.count(
                metrics.BACKEND_ROUTE_MISSING,
                exchange.route.backend,
                exchange.route.counters.signal,
            )

    def _replace_foreign(self, head: FieldSection, code: str) -> None:
        """Make an answer retryable that is none of the protocol's: who gave it cannot know."""
        exchange = self._exchange
        backend = exchange.route.backend
        exchange.record.backend_code = code
        exchange.services.context.counters.backend(backend).count(code)
        self._note_missing_route(head)
        exchange.services.backend_refusals.alarm_foreign(backend, head)
        exchange.fail(REFUSALS["BACKEND_FOREIGN"])

    def _refuses_our_key(self, section: FieldSection) -> bool:
        """Whether the backend refused a key that we allowed from a store that it does not share.

        What older collectors say is final for a sender even when they only could not ask, so it
        counts from a shared store, too: the authority is asked again, and decides the next try.
        """
        is_older = is_older_collectors_refusal(section)
        refused = is_older or (
            section.grpc_status in _AUTH_GRPC
            if section.grpc_status >= 0
            else section.status in _AUTH_HTTP
        )
        exchange = self._exchange
        principal = exchange.record.principal
        if not refused or principal is None:  # None: only the receiver can judge the credential
            return False
        return exchange.services.backend_refusals.is_ours(principal, exchange.head) or is_older

    def _replace_refusal(self) -> None:
        """Make the backend's refusal retryable: the gateway is misconfigured, and that must not
        cost the caller's data.
        """
        exchange = self._exchange
        exchange.services.backend_refusals.alarm(exchange.route.backend)
        refusal = REFUSALS["BACKEND_REFUSED"]
        trailers = exchange.route.dialect.late_trailers(refusal)
        if exchange.has_begun and trailers is not None:
            self.upstream = None
            code = exchange.route.dialect.code_of(BACKEND_REFUSED, exchange.head)
            downstream = exchange.downstream
            exchange.finish(code, BACKEND_REFUSED.result.value)
            downstream.send_trailers(trailers)
        else:
            exchange.fail(refusal)

    def _complete(self, section: FieldSection) -> None:
        """The backend's answer has been passed on, whole."""
        self.upstream = None
        exchange = self._exchange
        exchange.sink = None  # it holds nothing any more
        is_accepted = exchange.route.dialect.is_accepted(section)
        exchange.finish(
            exchange.record.backend_code, _ACCEPTED if is_accepted else _ANSWERED_WITH_ERROR
        )
