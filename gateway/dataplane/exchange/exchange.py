"""One request and its answer, as long as it lasts: what is known of it, how it can end.

The order in which a request is decided on is `pipeline`'s; what passes to and from the backend is
`forwarding`'s and `answer`'s. Whatever happens, an exchange ends exactly once, in `finish`.
"""

from __future__ import annotations

import time
from typing import Final

from gateway.dataplane.core import peers
from gateway.dataplane.core.heads import FieldSection, RequestHead
from gateway.dataplane.core.routes import Route
from gateway.dataplane.core.seams import BodySink, Downstream
from gateway.dataplane.exchange.quotas import Lease
from gateway.dataplane.exchange.record import RequestRecord
from gateway.dataplane.exchange.request_body import RequestBody
from gateway.dataplane.exchange.services import ExchangeServices
from gateway.outcome import BACKEND_TIMEOUT, CANCELED, REFUSALS, Outcome, Refusal, Result

_TIMEOUT_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_monotonic: Final = time.monotonic
_NO_ANSWER: Final = "none"
"""The `code` of a request that got no answer (`backends.intake.no_answer`)."""
# Bound once: in CPython 3.11 a look-up of an enum's member costs 0.15 µs, and a request has many.
_ACCEPTED: Final[str] = Result.ACCEPTED.value


def parse_grpc_timeout(value: bytes) -> float | None:
    """Read a grpc-timeout in seconds, None if it is none (gRPC over HTTP/2, "Timeout": at most 8
    digits and a unit).
    """
    unit = _TIMEOUT_UNITS.get(value[-1:])
    digits = value[:-1]
    if unit is None or not digits.isdigit() or len(digits) > 8:
        return None
    return int(digits) * unit


class Exchange:
    """See the module. Made by `pipeline` for each complete head."""

    __slots__ = (
        "body",
        "downstream",
        "has_begun",
        "head",
        "is_answering",
        "is_over",
        "lease",
        "progress_at",
        "record",
        "route",
        "services",
        "sink",
    )

    def __init__(
        self,
        services: ExchangeServices,
        downstream: Downstream,
        head: RequestHead,
        route: Route,
    ) -> None:
        context = services.context
        self.services = services
        self.downstream = downstream
        self.head = head
        self.route = route
        self.record = RequestRecord(head, downstream.peer, route)
        self.body = RequestBody(context.budget)
        self.sink: BodySink | None = None
        """Where the body goes, once that is decided."""
        self.lease: Lease | None = None
        """The request's place within its key's limits."""
        self.is_over = False
        self.is_answering = False
        """Whether the backend's head has come."""
        self.has_begun = False
        """Whether the caller has been sent the head of an answer."""
        self.progress_at = context.tick
        route.counters.in_flight += 1

    @property
    def sender(self) -> str:
        """Whose request it is: the key's id, or the caller's address where no key is known."""
        principal = self.record.principal
        return peers.host_of(self.record.peer) if principal is None else principal.key_id

    # The body

    def receive_body(self, chunk: bytes, ended: bool) -> None:
        """Take body bytes from the server side; `ended`: these are the last."""
        self.progress_at = self.services.context.tick
        if self.is_over:
            return
        body = self.body
        body.has_ended = ended
        record = self.record
        length = record.request_bytes = record.request_bytes + len(chunk)
        if record.taken is not None:
            record.taken.receive(chunk)
        if self.lease is not None:
            self.lease.receive(length)
        if length > self.route.max_body_bytes:
            self.fail(REFUSALS["BODY_TOO_LARGE"])  # nothing completes it at the backend
        elif self.sink is not None:
            self.sink.receive(chunk, ended)
        else:
            body.wait(chunk)

    def answer_left(self, length: int) -> None:
        """Queued answer bytes have left for the caller."""
        self.progress_at = self.services.context.tick
        if self.sink is not None:
            self.sink.answer_left(length)

    @property
    def is_held(self) -> bool:
        """Whether it waits for its backend to come back."""
        return self.sink is not None and self.sink.is_held

    # Ends

    def refuse(self, refusal: Refusal) -> None:
        """Answer with the gateway's own words; nothing of an answer has been sent."""
        if self.is_over:
            return
        self._cancel()
        route = self.route
        reply = route.dialect.reply(refusal, self.head, route.allow)
        if reply is None:
            self.finish(_NO_ANSWER, refusal.outcome.result.value)
            self.downstream.withhold()
            return
        self.finish(reply.code, refusal.outcome.result.value)
        cors = self.services.cors
        if cors is not None and not reply.is_grpc:
            reply = reply.with_fields(cors.fields(self.head))
        self.downstream.send_reply(reply)

    def break_off(self, outcome: Outcome) -> None:
        """Break off an answer that has begun."""
        self._cancel()
        dialect = self.route.dialect
        self.finish(dialect.code_of(outcome, self.head), outcome.result.value)
        self.downstream.break_off(dialect.late_trailers(REFUSALS["BACKEND_LOST"]))

    def fail(self, refusal: Refusal) -> None:
        """Refuse the request, or break its answer off if that has begun."""
        if self.has_begun:
            self.break_off(refusal.outcome)
        else:
            self.refuse(refusal)

    def answer_locally(
        self, section: FieldSection, body: bytes, trailers: FieldSection | None = None
    ) -> None:
        """Send a whole answer of the gateway's own that is no refusal."""
        self.sink = None
        self.finish(self.route.dialect.code(trailers or section) or "OK", _ACCEPTED)
        if body and trailers is None:
            self.downstream.send_answer(section, body)
            return
        self.downstream.send_head(section, trailers is None)
        if body:
            self.downstream.send_body(body, False)
        if trailers is not None:
            self.downstream.send_trailers(trailers)

    def end_locally(self, trailers: FieldSection) -> None:
        """End an answer whose head and body the route's handler has sent."""
        self.sink = None
        self.finish(self.route.dialect.code(trailers) or "OK", _ACCEPTED)
        self.downstream.send_trailers(trailers)

    def caller_gone(self) -> None:
        """The caller reset the stream or closed the connection."""
        if not self.is_over:
            self._cancel()
            self.finish(self.route.dialect.code_of(CANCELED, self.head), CANCELED.result.value)

    def finish(self, code: str, result: str) -> None:
        """Record the exchange, once, and let go of what it holds."""
        if self.is_over:
            return
        self.is_over = True
        self.progress_at = self.services.context.tick
        # Those below refer to the exchange: nothing may keep the others until a collection.
        sink, self.sink = self.sink, None
        if sink is not None:
            sink.release()
        body = self.body
        if body.replay is not None or body.waiting is not None:
            body.release()
        self.route.counters.in_flight -= 1
        record = self.record
        record.code = code
        record.result = result
        record.duration_s = _monotonic() - record.started
        if self.lease is not None:
            self.lease.end(record.request_bytes)
        for observer in self.services.observers:
            observer.on_end(record)

    def _cancel(self) -> None:
        if self.sink is not None:
            self.sink.cancel()

    # Time

    def sweep(self, now: float) -> None:
        """Enforce the deadlines; called once a second by the server side."""
        if self.is_over or not self.route.has_deadlines:
            return
        limits = self.services.context.limits
        head = self.head
        timeout = parse_grpc_timeout(head.grpc_timeout) if head.grpc_timeout else None
        idle = now - self.progress_at
        if timeout is not None and now - self.record.started > timeout:
            self._time_out(REFUSALS["BACKEND_TIMEOUT"])
        elif self.is_answering or not self.body.has_ended:
            if idle > limits.stall_timeout_s:
                body = self.body
                waits_for_backend = (
                    self.is_answering or body.has_ended or (body.held and not body.is_gathering)
                )
                self._time_out(REFUSALS["BACKEND_TIMEOUT" if waits_for_backend else "STALLED"])
        elif idle > limits.request_timeout_s:
            self._time_out(REFUSALS["BACKEND_TIMEOUT"])

    def _time_out(self, refusal: Refusal) -> None:
        if refusal.outcome is BACKEND_TIMEOUT:
            self.services.context.counters.backend(self.route.backend).count("none")
        self.fail(refusal)
