"""One request from its head to its record: the one place where the order of things can be read, for
every protocol.

Head → route → credentials → verdict → admit → forward → answer → record. The server side has parsed
a complete head and knows nothing else; the backend's side moves bytes. Every decision between them
is taken here, and every exchange is recorded exactly once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from gateway import metrics
from gateway.dataplane import replies
from gateway.dataplane.credentials import Credential, choose
from gateway.dataplane.intake_credentials import choose_intake, without_key
from gateway.dataplane.keyring import NOT_HERE
from gateway.model import Denied, Principal, Protocol, Verdict
from gateway.outcome import (
    BACKEND_REFUSED,
    BACKEND_TIMEOUT,
    BODY_TOO_LARGE,
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
from gateway.wire import hpack

if TYPE_CHECKING:
    from gateway.dataplane.heads import FieldSection, Pair, RequestHead
    from gateway.dataplane.plane import DataPlane
    from gateway.dataplane.pool import Pool
    from gateway.dataplane.routes import IntakeRules, Route
    from gateway.dataplane.sides import Downstream, Upstream

REPLAY_BYTES: Final = 64 * 1024
"""Largest body that is held until the backend answers, to be sent again when the backend did not
process it.
"""
HELD_ANSWER_BYTES: Final = 32 * 1024
"""Largest answer that is sent only when it is complete; less than any window, so that none fills
while it is held. OTLP's answers are a few hundred bytes.
"""

_GRPC_NAMES: Final = tuple(code.name for code in GrpcCode)
_HTTP_CODES: Final = tuple(str(status) for status in range(1000))
_TIMEOUT_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_NO_ANSWER: Final = "none"
"""The `code` of a request that got no answer, because its sender then tries again."""
_RETRY_STATUS: Final = 503
"""What tells an agent to try again (`outcome.RETRY`)."""
_AUTH_GRPC: Final = (GrpcCode.UNAUTHENTICATED, GrpcCode.PERMISSION_DENIED)
_AUTH_HTTP: Final = (401, 403)
# Bound once: in CPython 3.11 a look-up of an enum's member costs 0.15 µs, and a request has many.
_GRPC: Final = Protocol.GRPC
_HTTP: Final = Protocol.HTTP
_ACCEPTED: Final = Result.ACCEPTED
_UNIMPLEMENTED: Final = GrpcCode.UNIMPLEMENTED
_GRPC_TYPES: Final = (b"application/grpc", b"application/grpc+proto")
_HTTP_TYPES: Final = (replies.PROTOBUF, replies.JSON)


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
    """See the module. Created by the server side for each complete head, then `start`."""

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

    # The order of things

    def start(self) -> None:
        """Decide on the head: refuse it, answer it, or forward it."""
        plane = self.plane
        head = self.head
        route = self.route = plane.routes.get(head.path) or plane.intake_routes.find(head.path)
        plane.counters.in_flight[self.protocol] += 1
        if route is None:
            self.refuse(REFUSALS["NOT_FOUND"])
        elif plane.cors is not None and (preflight := plane.cors.preflight(head)) is not None:
            self.answer_locally(preflight, b"")
        elif head.method not in route.methods:
            self.refuse(REFUSALS["METHOD_NOT_ALLOWED"])
        elif route.local is not None:
            route.local(self)
        elif route.intake is not None:
            self._start_intake(route, route.intake)
        else:
            self._decide(route, choose(head.credentials))

    def _start_intake(self, route: Route, rules: IntakeRules) -> None:
        """Find an agent's key, or pass on what only the receiver can check."""
        self.is_grpc = False
        credential = choose_intake(self.head, self.plane.credentials, rules)
        if credential.passes_unchecked:
            self._is_unchecked = True
            self._go_on(route)
        else:
            self._decide(route, credential)

    def _decide(self, route: Route, credential: Credential) -> None:
        self.decided_at_ms = time.time_ns() // 1_000_000
        verdict = self.plane.keyring.decide(credential, route.signal_bit, self.decided_at_ms)
        if verdict is NOT_HERE and self.plane.lookups is not None:
            self.plane.lookups.decide(self, route, credential)
            return
        self.decided(route, credential, verdict, "keyring" if credential.digest else "none")

    def decided(self, route: Route, credential: Credential, verdict: Verdict, source: str) -> None:
        """Go on with the verdict on the key, at once or after a look-up. `source`: whence it came,
        see `metrics.SOURCES`.
        """
        if type(verdict) is Principal:
            self._record_verdict(route, "allowed", source)
            self._principal = verdict
            self._go_on(route)
        elif isinstance(verdict, Denied):
            refusal = REFUSALS[verdict.refusal]
            outcome = refusal.outcome.name
            self._principal = verdict.principal
            self._record_verdict(route, outcome, source)
            self.plane.refusals.note(self, credential, outcome, verdict.principal)
            self.refuse(refusal)
        else:
            self._record_verdict(
                route, "undecided", "authority" if source == "authority" else "none"
            )
            self.refuse(REFUSALS["UNDECIDED"])

    def _go_on(self, route: Route) -> None:
        """Admit a request whose key may send, and forward it."""
        if route.intake is not None and route.intake.answer is not None:
            route.intake.answer(self)
            return
        refusal = self._admit(route)
        if refusal is None:
            self._forward(route)
        else:
            self.refuse(refusal)

    def _record_verdict(self, route: Route, outcome: str, source: str) -> None:
        self.auth_outcome = outcome
        route.counters.verdicts[outcome, source] += 1
        self.plane.counters.auth_duration[source].observe(time.monotonic() - self.started)

    def _admit(self, route: Route) -> Refusal | None:
        """Check what comes after the verdict: content type, declared size, limits."""
        head = self.head
        if route.protocol is _GRPC:
            if not self.is_grpc or replies.media_type(head.content_type) not in _GRPC_TYPES:
                return REFUSALS["GRPC_MEDIA_TYPE"]
        elif (
            route.protocol is _HTTP
            and head.content_type not in _HTTP_TYPES
            and replies.media_type(head.content_type) not in _HTTP_TYPES
        ):
            return REFUSALS["MEDIA_TYPE"]
        if head.content_length > route.max_body_bytes:
            return REFUSALS["BODY_TOO_LARGE"]
        if self.plane.budget.is_near:
            return REFUSALS["OVERLOADED"]
        if self.plane.quotas is not None and self._principal is not None:
            return self.plane.quotas.admit(self._principal.key_id, self)
        return None

    def _forward(self, route: Route) -> None:
        """Pass the head to the backend, as soon as it has a connection."""
        pool = self.plane.pools.get(route.backend) if route.backend is not None else None
        if pool is None:
            self.refuse(REFUSALS[f"NO_BACKEND_{str(route.backend).upper()}"])
            return
        if self.head.expects_continue:
            self.downstream.accept_body()
        waiting = self._waiting
        if waiting is None:
            self._replay = []
        else:  # what came while the verdict was looked up
            self._hold_for_replay(waiting)
        self._pool = pool
        pool.open(self)

    def _hold_for_replay(self, waiting: list[bytes]) -> None:
        length = sum(map(len, waiting))
        if length <= REPLAY_BYTES:
            self._replay = waiting.copy()
            self._replay_bytes = length
            self.plane.budget.charge(length)

    def attach(self, upstream: Upstream) -> None:
        """Take the backend's side (pool): the head has been sent, what has waited of the body
        follows.
        """
        self._up = upstream
        self.backend_started = time.monotonic()
        if self.plane.tracer is not None:
            self.backend_address = upstream.address
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        length = sum(map(len, waiting))
        self.plane.budget.release(length)
        self.held -= length
        last = len(waiting) - 1
        for position, chunk in enumerate(waiting):
            self._pass_on(upstream, chunk, self.body_ended and position == last, keeps_up=False)
            if self.is_over or self._up is not upstream:
                return

    def no_upstream(self, refusal: Refusal) -> None:
        """There will be no backend's side (pool)."""
        if not self.is_over:
            self.refuse(refusal)

    # The request's body

    def body(self, chunk: bytes, ended: bool) -> None:
        """Take body bytes from the server side; `ended`: these are the last."""
        length = len(chunk)
        self.request_bytes += length
        self.body_ended = ended
        self.progress_at = self.plane.tick
        if self.is_over:
            return
        route = self.route
        if route is not None and self.request_bytes > route.max_body_bytes:
            self._body_too_large()
            return
        replay = self._replay
        if replay is not None:
            budget = self.plane.budget
            if self._replay_bytes + length <= REPLAY_BYTES and not budget.is_near:
                replay.append(chunk)
                self._replay_bytes += length
                budget.used += length
            else:
                self._drop_replay()
        up = self._up
        if up is not None:
            self._pass_on(up, chunk, ended, keeps_up=True)
            return
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(chunk)
        self.held += length
        self.plane.budget.charge(length)

    def _pass_on(self, up: Upstream, chunk: bytes, ended: bool, *, keeps_up: bool) -> None:
        queued = up.send_body(chunk, ended)
        if queued:
            self.held += queued
            keeps_up = False
        left = len(chunk) - queued
        if left and not ended:
            self.downstream.grant(left, keeps_up)

    def body_left(self, length: int) -> None:
        """Queued body bytes have left for the backend."""
        self.held -= length
        self.progress_at = self.plane.tick
        if not self.is_over:
            self.downstream.grant(length, False)

    def body_dropped(self, length: int) -> None:
        """Queued body bytes will not be sent."""
        self.held -= length

    def _body_too_large(self) -> None:
        """End a request whose body grew beyond the limit: nothing completes it at the backend."""
        if self._head_sent:
            self._abort(BODY_TOO_LARGE)
        else:
            self.refuse(REFUSALS["BODY_TOO_LARGE"])

    def _drop_replay(self) -> None:
        if self._replay is not None:
            self._replay = None
            self.plane.budget.release(self._replay_bytes)
            self._replay_bytes = 0

    # The answer

    def answer_head(self, section: FieldSection, ended: bool) -> None:
        """Take the head of the backend's answer; it is held until the answer is complete."""
        route = self.route
        if self.is_over or route is None:
            return
        self.progress_at = self.plane.tick
        self.plane.counters.backend_duration[str(route.backend)].observe(
            time.monotonic() - self.backend_started
        )
        if self._replay is not None:
            self._drop_replay()
        code = self._code_of(section)
        if code is not None:
            self.backend_code = code
            self.plane.counters.backend_requests[str(route.backend), code] += 1
            if self._is_backend_refusal(section):
                self._backend_refused(route)
                return
            if section.status == 404 or section.grpc_status == _UNIMPLEMENTED:
                self._route_missing(route)
        elif ended:
            self.upstream_lost(False)  # no status: cut short, whoever did it
            return
        if self.plane.cors is not None:
            section = self.plane.cors.decorated(section, self.head)
        if ended:
            self._head_sent = True
            self.downstream.send_head(section, True)
            self._complete(section)
        else:
            self._answer_head = section
            self._answer_body = []

    def answer_body(self, chunk: bytes, ended: bool) -> None:
        """Take answer bytes.

        They are held with the head until the answer is complete, up to `HELD_ANSWER_BYTES`:
        clients drop their data when an answer breaks off that has begun, whatever its code.
        """
        section = self._answer_head
        if self.is_over or section is None:
            return
        self.progress_at = self.plane.tick
        if ended and self._code_of(section) is None:
            self.upstream_lost(False)  # trailers with the status were to come
            return
        length = len(chunk)
        self.response_bytes += length
        held = self._answer_body
        if held is not None:
            held.append(chunk)
            self.plane.budget.used += length
            if not ended and self.response_bytes <= HELD_ANSWER_BYTES:
                return
            length = self.response_bytes
            chunk = self._begin_answer(section, held)
        queued = self.downstream.send_body(chunk, ended)
        if ended:
            self._complete(section)
        elif self._up is not None and length > queued:
            self._up.grant(length - queued)

    def _begin_answer(self, section: FieldSection, held: list[bytes]) -> bytes:
        """Send the held head, let go of the held body and return it."""
        self._answer_body = None
        body = held[0] if len(held) == 1 else b"".join(held)
        self.plane.budget.release(len(body))
        self._head_sent = True
        self.downstream.send_head(section, False)
        return body

    def answer_left(self, length: int) -> None:
        """Queued answer bytes have left for the caller."""
        self.progress_at = self.plane.tick
        if self._up is not None and not self.is_over:
            self._up.grant(length)

    def answer_trailers(self, section: FieldSection) -> None:
        """Take the trailers, which end the backend's answer."""
        route = self.route
        head = self._answer_head
        if self.is_over or route is None or head is None:
            return
        if section.grpc_status < 0 and self._code_of(head) is None:
            self.upstream_lost(False)  # trailers without a status
            return
        self.backend_code = code = self._code_of(section) or "UNKNOWN"
        self.plane.counters.backend_requests[str(route.backend), code] += 1
        if self._is_backend_refusal(section):
            self._backend_refused(route)
            return
        if section.grpc_status == _UNIMPLEMENTED:
            self._route_missing(route)
        if self._answer_body is not None and self._answer_head is not None:
            body = self._begin_answer(self._answer_head, self._answer_body)
            if body:
                self.downstream.send_body(body, False)
        self.downstream.send_trailers(section)
        self._complete(section)

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

    def _is_backend_refusal(self, section: FieldSection) -> bool:
        """Whether the backend refused a key that we allowed from a store that it does not share."""
        refused = (
            section.grpc_status in _AUTH_GRPC
            if section.grpc_status >= 0
            else section.status in _AUTH_HTTP
        )
        if not refused or self._is_unchecked:
            return False
        relayed = (
            self._principal is not None
            and self._principal.shared
            and self.plane.settings.forward.key == "client"
        )
        if relayed and self.plane.lookups is not None:
            self.plane.lookups.doubt(self.head)
        return not relayed

    def _backend_refused(self, route: Route) -> None:
        """Make the backend's refusal retryable: the gateway is misconfigured, and that must not
        cost the caller's data.
        """
        self.plane.backend_refused(str(route.backend))
        refusal = REFUSALS["BACKEND_REFUSED"]
        if not self._head_sent:
            self.refuse(refusal)
        elif self.is_grpc:
            self.downstream.send_trailers(replies.grpc_trailers(refusal))
            self._over(BACKEND_REFUSED.grpc.name, BACKEND_REFUSED.result)
        else:
            self._abort(BACKEND_REFUSED)

    def _route_missing(self, route: Route) -> None:
        self.plane.counters.count(
            metrics.BACKEND_ROUTE_MISSING, str(route.backend), route.signal.value
        )

    def _complete(self, section: FieldSection) -> None:
        """The backend's answer has been passed on, whole."""
        code = self._code_of(section) or "OK"
        accepted = section.grpc_status == 0 if self.is_grpc else 200 <= section.status < 300
        self._up = None
        self._over(code, _ACCEPTED if accepted else Result.BACKEND_REFUSED)

    # What the backend's side sends as the head

    def forwarded_h2(self) -> bytes:
        """The fields behind the pseudo-fields: the caller's, and the credential under the
        forwarding policy.
        """
        head = self.head
        policy = self.plane.settings.forward
        fields = head.h2 if head.h2 is not None else head.encoded_h2()
        if policy.key == "client":
            fields += head.credentials_h2 or hpack.encode(head.credential_pairs)
        else:
            fields += self.plane.gateway_credential_h2
        if head.content_length >= 0:
            fields += hpack.encode_field(b"content-length", b"%d" % head.content_length)
        if policy.identity_headers:
            fields += hpack.encode(self._identity())
        return fields

    def forwarded_h1(self) -> bytes:
        """The same as HTTP/1.1 lines, without framing fields."""
        head = self.head
        policy = self.plane.settings.forward
        if policy.key == "client" or self._is_unchecked:
            lines = head.encoded_h1() + head.encoded_credentials_h1()
        elif self.route is not None and self.route.intake is not None:
            lines = head.encoded_h1() + self.plane.intake_credential_h1
        else:
            lines = head.encoded_h1() + self.plane.gateway_credential_h1
        if policy.identity_headers:
            lines += b"".join([b"%b: %b\r\n" % pair for pair in self._identity()])
        return lines

    def forwarded_target(self) -> tuple[bytes, bytes | None]:
        """Path and query for the backend, without its url's prefix. A key in the query goes the
        way of all carriers.
        """
        head = self.head
        path = self.route.target if self.route is not None else head.path
        if head.query is None or self.plane.settings.forward.key == "client":
            return path, head.query
        return path, without_key(head.query)

    def _identity(self) -> list[tuple[bytes, bytes]]:
        """Who sends, for the backend. Names may hold any text: percent-encoded UTF-8 (RFC 3986
        §2.1).
        """
        principal = self._principal
        if principal is None:
            return []
        name = quote(principal.name, safe=" !#$&'()*+,/:;=?@[]").strip().encode()
        return [(b"x-gateway-key-id", principal.key_id.encode()), (b"x-gateway-key-name", name)]

    # Ends that are no answer of the backend

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
            self._over(_NO_ANSWER, refusal.outcome.result)
            self.downstream.withhold()
            return
        self._over(
            refusal.outcome.grpc.name if is_grpc else self._http_code(refusal.outcome),
            refusal.outcome.result,
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
        self._over(self._code_of(trailers or section) or "OK", Result.ACCEPTED)
        self.downstream.send_head(section, not body and trailers is None)
        if body:
            self.downstream.send_body(body, trailers is None)
        if trailers is not None:
            self.downstream.send_trailers(trailers)

    def end_locally(self, trailers: FieldSection) -> None:
        """End the answer of a local route whose head and body were sent by its handler."""
        self._up = None
        self._over(self._code_of(trailers) or "OK", Result.ACCEPTED)
        self.downstream.send_trailers(trailers)

    def started_malformed(self) -> None:
        """Count a head whose declared body length cannot be: it is never started."""
        path = self.head.path
        self.route = self.plane.routes.get(path) or self.plane.intake_routes.find(path)
        self.plane.counters.in_flight[self.protocol] += 1
        self._over(self._http_code(MALFORMED), MALFORMED.result)

    def caller_gone(self) -> None:
        """The caller reset the stream or closed the connection."""
        if not self.is_over:
            self._cancel_upstream()
            self._over(
                CANCELED.grpc.name if self.is_grpc else self._http_code(CANCELED), CANCELED.result
            )

    def upstream_lost(self, replayable: bool) -> None:
        """The backend's side broke. `replayable`: the backend has certainly not processed the
        request.
        """
        self._up = None
        route = self.route
        if self.is_over or route is None:
            return
        if replayable and not self._replayed and self._replay is not None:
            self._replay_again()
            return
        self.plane.counters.backend_requests[str(route.backend), "none"] += 1
        refusal = REFUSALS["BACKEND_LOST"]
        if self._head_sent:
            self._abort(refusal.outcome)
        else:
            self.refuse(refusal)

    def _replay_again(self) -> None:
        """Send the request once more, on another connection."""
        self._replayed = True
        chunks = self._replay or []
        length = sum(map(len, chunks))
        if chunks or self.body_ended:
            self._waiting = chunks.copy() or [b""]
            self.held += length
            self.plane.budget.charge(length)
        if self._pool is not None:
            self._pool.open(self)

    def _abort(self, outcome: Outcome) -> None:
        """Break off an answer that has begun."""
        self._cancel_upstream()
        self._over(outcome.grpc.name if self.is_grpc else self._http_code(outcome), outcome.result)
        self.downstream.abort()

    @property
    def key_id(self) -> str:
        """Whose key it was, empty where nobody knows."""
        return self._principal.key_id if self._principal is not None else ""

    def _cancel_upstream(self) -> None:
        up, self._up = self._up, None
        if up is not None:
            up.cancel()
        elif self._pool is not None:
            self._pool.forget(self)

    def _http_status(self, outcome: Outcome) -> int:
        if self.route is not None and self.route.intake is not None:
            return _RETRY_STATUS if outcome.intake == RETRY else outcome.intake
        if outcome is QUOTA:
            return self.plane.settings.limits.quota_status
        return outcome.http

    def _http_code(self, outcome: Outcome) -> str:
        return _HTTP_CODES[self._http_status(outcome)]

    # Time and record

    @property
    def protocol(self) -> str:
        """The `protocol` label, also of a request without a route."""
        if self.route is not None:
            return self.route.protocol.value
        return Protocol.GRPC.value if self.is_grpc else Protocol.HTTP.value

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

    def _let_go(self) -> None:
        """Drop what is held of the body and of the answer."""
        waiting, self._waiting = self._waiting or [], None
        length = sum(map(len, waiting))
        self.held -= length
        answer, self._answer_body = self._answer_body or [], None
        self.plane.budget.release(length + sum(map(len, answer)))

    def _over(self, code: str, result: Result) -> None:
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
        plane.counters.in_flight[self.protocol] -= 1
        route = self.route
        counters = route.counters if route is not None else plane.unrouted_counters(self.protocol)
        counters.requests[code, result.value] += 1
        counters.request_bytes += self.request_bytes
        counters.response_bytes += self.response_bytes
        counters.duration.observe(time.monotonic() - self.started)
        principal = self._principal
        if route is not None and route.intake is not None:
            plane.intake_counts.note(route.intake, result.value, self.head, principal is not None)
        if principal is not None:
            plane.record_usage(
                principal.key_id, self.auth_outcome, self.request_bytes, self.decided_at_ms
            )
            if plane.quotas is not None:
                plane.quotas.done(principal.key_id, self)
        if plane.tracer is not None:
            plane.tracer.note(self, code, result.value)
