"""How an exchange ends when it is not by the backend's answer, and how each end is recorded: once,
whatever happened.

What an exchange knows stands here, too. What passes to and from the backend is `relaying`'s, the
order of things can be read in `exchange`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from gateway.dataplane import replies
from gateway.model import Principal, Protocol
from gateway.outcome import (
    BACKEND_TIMEOUT,
    CANCELED,
    MALFORMED,
    MEDIA_TYPE,
    METHOD_NOT_ALLOWED,
    QUOTA,
    REFUSALS,
    RETRY,
    GrpcCode,
    Outcome,
    Refusal,
    Result,
)

if TYPE_CHECKING:
    from gateway.dataplane.heads import FieldSection, Pair, RequestHead
    from gateway.dataplane.plane import DataPlane
    from gateway.dataplane.pool import Pool
    from gateway.dataplane.routes import Route
    from gateway.dataplane.sides import Downstream, Upstream


_GRPC_NAMES: Final = tuple(code.name for code in GrpcCode)
_HTTP_CODES: Final = tuple(str(status) for status in range(1000))
_TIMEOUT_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_NO_ANSWER: Final = "none"
"""The `code` of a request that got no answer, because its sender then tries again."""
_RETRY_STATUS: Final = 503
"""What tells an agent to try again (`outcome.RETRY`)."""
# Bound once: in CPython 3.11 a look-up of an enum's member costs 0.15 µs, and a request has many.
_ACCEPTED: Final = Result.ACCEPTED.value


def parse_grpc_timeout(value: bytes) -> float | None:
    """Read a grpc-timeout in seconds, None if it is none (gRPC over HTTP/2, "Timeout": at most 8
    digits and a unit).
    """
    unit = _TIMEOUT_UNITS.get(value[-1:])
    digits = value[:-1]
    if unit is None or not digits.isdigit() or len(digits) > 8:
        return None
    return int(digits) * unit


class Ending:
    """What is known of one request, its own answers, its deadlines and its record."""

    __slots__ = (
        "_answer_body",
        "_answer_head",
        "_head_sent",
        "_is_unchecked",
        "_pool",
        "_principal",
        "_replay",
        "_replay_bytes",
        "_replayed",
        "_up",
        "_waiting",
        "auth_outcome",
        "backend_address",
        "backend_code",
        "backend_started",
        "body_ended",
        "decided_at_ms",
        "downstream",
        "head",
        "held",
        "is_counted",
        "is_grpc",
        "is_over",
        "plane",
        "progress_at",
        "request_bytes",
        "response_bytes",
        "route",
        "started",
    )

    def __init__(self, plane: DataPlane, downstream: Downstream, head: RequestHead) -> None:
        self.plane = plane
        self.downstream = downstream
        self.head = head
        self.route: Route | None = None
        self.is_grpc = head.is_http2 and head.content_type.startswith(replies.GRPC)
        self.is_over = False
        self.is_counted = False
        """Whether the key's quota counts this request."""
        self.started = time.monotonic()
        self.auth_outcome = ""
        """The verdict on the key (`outcome.AuthOutcome`), once there is one."""
        self.backend_address = ""
        """Where the request went; kept only while somebody traces."""
        self.backend_code = ""
        """The `code` of the backend's answer."""
        self.backend_started = 0.0
        self.progress_at = plane.tick
        self.request_bytes = 0
        self.response_bytes = 0
        self.body_ended = False
        self.decided_at_ms = 0
        """Unix time of the verdict on the key, in milliseconds."""
        self.held = 0
        self._principal: Principal | None = None
        self._up: Upstream | None = None
        self._pool: Pool | None = None
        self._waiting: list[bytes] | None = None
        self._replay: list[bytes] | None = None
        self._replay_bytes = 0
        self._replayed = False
        self._answer_head: FieldSection | None = None
        self._answer_body: list[bytes] | None = None
        """Answer bytes that are held with the head; None once the head has been sent."""
        self._head_sent = False
        self._is_unchecked = False
        """Whether the receiver alone judges the caller's credential."""

    def refuse(self, refusal: Refusal) -> None:
        """Answer with the gateway's own words; nothing of an answer has been sent."""
        if self.is_over:
            return
        route = self.route
        self._cancel_upstream()
        allow = route.allow if route is not None and refusal.outcome is METHOD_NOT_ALLOWED else b""
        is_grpc = self.is_grpc and refusal.outcome not in {MEDIA_TYPE, METHOD_NOT_ALLOWED}
        if (
            route is not None
            and route.intake is not None
            and route.intake.withholds_answer
            and refusal.outcome.intake == RETRY
        ):
            self._over(_NO_ANSWER, refusal.outcome.result.value)
            self.downstream.withhold()
            return
        self._over(
            refusal.outcome.grpc.name if is_grpc else self._http_code(refusal.outcome),
            refusal.outcome.result.value,
        )
        self.downstream.refuse(refusal, is_grpc, allow)

    def http_reply(self, refusal: Refusal, allow: bytes) -> tuple[int, list[Pair], bytes]:
        """Render a refusal as the server side sends it over HTTP."""
        status = self._http_status(refusal.outcome)
        if self.route is not None and self.route.intake is not None:
            code, fields, body = replies.intake_reply(refusal, allow, status)
        else:
            is_protobuf = replies.media_type(self.head.content_type) == replies.PROTOBUF
            code, fields, body = replies.http_reply(refusal, is_protobuf, allow, status)
        if self.plane.cors is not None:
            fields = fields + self.plane.cors.fields(self.head)
        return code, fields, body

    def answer_locally(
        self, section: FieldSection, body: bytes, trailers: FieldSection | None = None
    ) -> None:
        """Answer a local route, whole."""
        self._up = None
        self._over(self._code_of(trailers or section) or "OK", _ACCEPTED)
        if body and trailers is None:
            self.downstream.send_answer(section, body)
            return
        self.downstream.send_head(section, trailers is None)
        if body:
            self.downstream.send_body(body, False)
        if trailers is not None:
            self.downstream.send_trailers(trailers)

    def end_locally(self, trailers: FieldSection) -> None:
        """End the answer of a local route whose head and body were sent by its handler."""
        self._up = None
        self._over(self._code_of(trailers) or "OK", _ACCEPTED)
        self.downstream.send_trailers(trailers)

    def started_malformed(self) -> None:
        """Count a head whose declared body length cannot be: it is never started."""
        path = self.head.path
        self.route = self.plane.routes.get(path) or self.plane.intake_routes.find(path)
        self.plane.counters.in_flight[self.protocol] += 1
        self._over(self._http_code(MALFORMED), MALFORMED.result.value)

    def caller_gone(self) -> None:
        """The caller reset the stream or closed the connection."""
        if not self.is_over:
            self._cancel_upstream()
            self._over(
                CANCELED.grpc.name if self.is_grpc else self._http_code(CANCELED),
                CANCELED.result.value,
            )

    def _abort(self, outcome: Outcome) -> None:
        """Break off an answer that has begun."""
        self._cancel_upstream()
        self._over(
            outcome.grpc.name if self.is_grpc else self._http_code(outcome), outcome.result.value
        )
        self.downstream.abort()

    def sweep(self, now: float) -> None:
        """Enforce the deadlines; called once a second by the server side."""
        if self.is_over or self.route is None or self.route.local is not None:
            return
        limits = self.plane.settings.limits
        timeout = parse_grpc_timeout(self.head.grpc_timeout) if self.head.grpc_timeout else None
        idle = now - self.progress_at
        if timeout is not None and now - self.started > timeout:
            self._time_out(REFUSALS["BACKEND_TIMEOUT"])
        elif self._answer_head is not None or not self.body_ended:
            if idle > limits.stall_timeout_s:
                waits_for_caller = (
                    not self.body_ended and not self.held and self._answer_head is None
                )
                self._time_out(REFUSALS["STALLED" if waits_for_caller else "BACKEND_TIMEOUT"])
        elif idle > limits.request_timeout_s:
            self._time_out(REFUSALS["BACKEND_TIMEOUT"])

    def _time_out(self, refusal: Refusal) -> None:
        if refusal.outcome is BACKEND_TIMEOUT and self.route is not None:
            self.plane.counters.backend_requests[str(self.route.backend), "none"] += 1
        if self._head_sent:
            self._abort(refusal.outcome)
        else:
            self.refuse(refusal)

    def _over(self, code: str, result: str) -> None:
        """Record the exchange, once, and let go of what it holds."""
        if self.is_over:
            return
        self.is_over = True
        plane = self.plane
        self.progress_at = plane.tick
        if self._replay is not None:
            self._drop_replay()
        if self._waiting or self._answer_body:
            self._let_go()
        route = self.route
        counters = route.counters if route is not None else plane.unrouted_counters(self.protocol)
        plane.counters.in_flight[counters.protocol] -= 1
        counters.requests[code, result] += 1
        counters.request_bytes += self.request_bytes
        counters.response_bytes += self.response_bytes
        counters.duration.observe(time.monotonic() - self.started)
        principal = self._principal
        if route is not None and route.intake is not None:
            plane.intake_counts.note(route.intake, result, self.head, principal is not None)
        if principal is not None:
            plane.counters.use(
                principal.key_id, self.auth_outcome, self.request_bytes, self.decided_at_ms
            )
            if self.is_counted:
                plane.quotas.done(principal.key_id, self)
        if plane.tracer is not None:
            plane.tracer.note(self, code, result)

    def _let_go(self) -> None:
        """Drop what is held of the body and of the answer."""
        waiting, self._waiting = self._waiting or [], None
        length = sum(map(len, waiting))
        self.held -= length
        answer, self._answer_body = self._answer_body or [], None
        self.plane.budget.release(length + sum(map(len, answer)))

    def _drop_replay(self) -> None:
        if self._replay is not None:
            self._replay = None
            self.plane.budget.release(self._replay_bytes)
            self._replay_bytes = 0

    def _cancel_upstream(self) -> None:
        up, self._up = self._up, None
        if up is not None:
            up.cancel()
        elif self._pool is not None:
            self._pool.forget(self)

    @property
    def protocol(self) -> str:
        """The `protocol` label, also of a request without a route."""
        if self.route is not None:
            return self.route.counters.protocol
        return Protocol.GRPC.value if self.is_grpc else Protocol.HTTP.value

    @property
    def key_id(self) -> str:
        """Whose key it was, empty where nobody knows."""
        return self._principal.key_id if self._principal is not None else ""

    def _code_of(self, section: FieldSection) -> str | None:
        """The `code` label of a head or trailers; None for the head of a gRPC answer, whose code
        is in the trailers.
        """
        if section.grpc_status >= 0:
            return (
                _GRPC_NAMES[section.grpc_status]
                if section.grpc_status < len(_GRPC_NAMES)
                else "UNKNOWN"
            )
        if self.is_grpc and section.status == 200:
            return None
        return _HTTP_CODES[section.status]

    def _http_status(self, outcome: Outcome) -> int:
        if self.route is not None and self.route.intake is not None:
            return _RETRY_STATUS if outcome.intake == RETRY else outcome.intake
        if outcome is QUOTA:
            return self.plane.settings.limits.quota_status
        return outcome.http

    def _http_code(self, outcome: Outcome) -> str:
        return _HTTP_CODES[self._http_status(outcome)]
