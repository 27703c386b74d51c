"""What passes between an exchange and its backend: head and body there, the answer back.

The backend's answer is the caller's, as it is, with two exceptions: its refusal of a key that we
allowed becomes retryable, and an answer that breaks off never looks like a whole one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from gateway import metrics
from gateway.dataplane import replies
from gateway.dataplane.ending import Ending
from gateway.dataplane.intake_credentials import without_key
from gateway.outcome import (
    BACKEND_REFUSED,
    BODY_TOO_LARGE,
    REFUSALS,
    GrpcCode,
    Refusal,
    Result,
)
from gateway.wire import hpack

if TYPE_CHECKING:
    from gateway.dataplane.heads import FieldSection
    from gateway.dataplane.routes import Route
    from gateway.dataplane.sides import Upstream

REPLAY_BYTES: Final = 64 * 1024
"""Largest body that is held until the backend answers, to be sent again when the backend did not
process it.
"""
HELD_ANSWER_BYTES: Final = 32 * 1024
"""Largest answer that is sent only when it is complete; less than any window, so that none fills
while it is held. OTLP's answers are a few hundred bytes.
"""

_AUTH_GRPC: Final = (GrpcCode.UNAUTHENTICATED, GrpcCode.PERMISSION_DENIED)
_AUTH_HTTP: Final = (401, 403)
_FIRST_ERROR: Final = 400
_NOT_FOUND: Final = 404
# Bound once: in CPython 3.11 a look-up of an enum's member costs 0.15 µs, and a request has many.
_ACCEPTED: Final = Result.ACCEPTED.value
_ANSWERED_WITH_ERROR: Final = Result.BACKEND_REFUSED.value
_UNIMPLEMENTED: Final = GrpcCode.UNIMPLEMENTED


class Relaying(Ending):
    """Adds the backend to an exchange: what it is sent, what it answers, how it may fail."""

    __slots__ = ()

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

    def body(self, chunk: bytes, ended: bool) -> None:
        """Take body bytes from the server side; `ended`: these are the last."""
        plane = self.plane
        length = len(chunk)
        self.request_bytes += length
        self.body_ended = ended
        self.progress_at = plane.tick
        if self.is_over:
            return
        route = self.route
        if route is not None and self.request_bytes > route.max_body_bytes:
            self._body_too_large()
            return
        replay = self._replay
        if replay is not None:
            budget = plane.budget
            if self._replay_bytes + length <= REPLAY_BYTES and budget.used < budget.near:
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
        plane.budget.charge(length)

    def _pass_on(self, up: Upstream, chunk: bytes, ended: bool, *, keeps_up: bool) -> None:
        queued = up.send_body(chunk, ended)
        if queued:
            self.held += queued
            keeps_up = False
        left = len(chunk) - queued
        if left and not ended:
            self.downstream.grant(left, keeps_up)

    def _hold_for_replay(self, waiting: list[bytes]) -> None:
        length = sum(map(len, waiting))
        if length <= REPLAY_BYTES:
            self._replay = waiting.copy()
            self._replay_bytes = length
            self.plane.budget.charge(length)

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
        self.plane.counters.backend_requests[route.backend_label, "none"] += 1
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

    def answer_head(self, section: FieldSection, ended: bool) -> None:
        """Take the head of the backend's answer; it is held until the answer is complete."""
        taken = self._take_answer_head(section, ended)
        if taken is None:
            return
        if ended:
            self._head_sent = True
            self.downstream.send_head(taken, True)
            self._complete(taken, self.backend_code)
        else:
            self._answer_head = taken
            self._answer_body = []

    def whole_answer(self, section: FieldSection, body: bytes) -> None:
        """Take an answer that came at once and has a body: there is nothing to hold."""
        taken = self._take_answer_head(section, False)
        if taken is not None:
            self.response_bytes = len(body)
            self._head_sent = True
            self.downstream.send_answer(taken, body)
            self._complete(taken, self.backend_code)

    def _take_answer_head(self, section: FieldSection, ended: bool) -> FieldSection | None:
        """Take note of the backend's head; return what goes to the caller, None if nothing."""
        route = self.route
        if self.is_over or route is None:
            return None
        plane = self.plane
        counters = plane.counters
        self.progress_at = plane.tick
        label = route.backend_label
        counters.backend_duration[label].observe(time.monotonic() - self.backend_started)
        if self._replay is not None:
            self._drop_replay()
        code = self._code_of(section)
        if code is not None:
            self.backend_code = code
            counters.backend_requests[label, code] += 1
            is_error = section.status >= _FIRST_ERROR or section.grpc_status > 0
            if is_error and self._is_answered_error(route, section):
                return None
        elif ended:
            self.upstream_lost(False)  # no status: cut short, whoever did it
            return None
        return section if plane.cors is None else plane.cors.decorated(section, self.head)

    def answer_body(self, chunk: bytes, ended: bool) -> None:
        """Take answer bytes.

        They are held with the head until the answer is complete, up to `HELD_ANSWER_BYTES`:
        clients drop their data when an answer breaks off that has begun, whatever its code.
        """
        section = self._answer_head
        if self.is_over or section is None:
            return
        self.progress_at = self.plane.tick
        if ended and not self.backend_code:
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
            self._complete(section, self.backend_code)
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
        self.plane.counters.backend_requests[route.backend_label, code] += 1
        if section.grpc_status and self._is_answered_error(route, section):
            return
        if self._answer_body is not None and self._answer_head is not None:
            body = self._begin_answer(self._answer_head, self._answer_body)
            if body:
                self.downstream.send_body(body, False)
        self.downstream.send_trailers(section)
        self._complete(section, code)

    def _is_answered_error(self, route: Route, section: FieldSection) -> bool:
        """Take note of a backend's error; return whether it was answered with our own words."""
        if self._is_backend_refusal(section):
            self._backend_refused(route)
            return True
        if section.status == _NOT_FOUND or section.grpc_status == _UNIMPLEMENTED:
            self.plane.counters.count(
                metrics.BACKEND_ROUTE_MISSING, route.backend_label, route.signal.value
            )
        return False

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
        self.plane.backend_refused(route.backend_label)
        refusal = REFUSALS["BACKEND_REFUSED"]
        if not self._head_sent:
            self.refuse(refusal)
        elif self.is_grpc:
            self.downstream.send_trailers(replies.grpc_trailers(refusal))
            self._over(BACKEND_REFUSED.grpc.name, BACKEND_REFUSED.result.value)
        else:
            self._abort(BACKEND_REFUSED)

    def _complete(self, section: FieldSection, code: str) -> None:
        """The backend's answer has been passed on, whole."""
        accepted = section.grpc_status == 0 if self.is_grpc else 200 <= section.status < 300
        self._up = None
        self._over(code, _ACCEPTED if accepted else _ANSWERED_WITH_ERROR)

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
