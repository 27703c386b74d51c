"""One request from its head to its record: the one place where the order of things can be read, for
every protocol.

Head → route → credentials → verdict → admit → forward → answer → record. The server side has parsed
a complete head and knows nothing else; the backend's side moves bytes. Every decision between them
is taken here, and every exchange is recorded exactly once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from gateway.dataplane import replies
from gateway.dataplane.credentials import Credential, choose
from gateway.dataplane.intake_credentials import choose_intake
from gateway.dataplane.keyring import NOT_HERE
from gateway.dataplane.relaying import Relaying
from gateway.model import Denied, Principal, Protocol, Verdict
from gateway.outcome import (
    REFUSALS,
    Refusal,
)

if TYPE_CHECKING:
    from gateway.dataplane.routes import IntakeRules, Route


# Bound once: in CPython 3.11 a look-up of an enum's member costs 0.15 µs, and a request has many.
_GRPC: Final = Protocol.GRPC
_HTTP: Final = Protocol.HTTP
_GRPC_TYPES: Final = (b"application/grpc", b"application/grpc+proto")
_HTTP_TYPES: Final = (replies.PROTOBUF, replies.JSON)


class Exchange(Relaying):
    """See the module. Created by the server side for each complete head, then `start`."""

    __slots__ = ()

    def start(self) -> None:
        """Decide on the head: refuse it, answer it, or forward it."""
        plane = self.plane
        head = self.head
        route = self.route = plane.routes.get(head.path) or plane.intake_routes.find(head.path)
        if route is None:
            plane.counters.in_flight[self.protocol] += 1
            self.refuse(REFUSALS["NOT_FOUND"])
            return
        plane.counters.in_flight[route.counters.protocol] += 1
        if plane.cors is not None and (preflight := plane.cors.preflight(head)) is not None:
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
        plane = self.plane
        if plane.budget.used >= plane.budget.near:
            return REFUSALS["OVERLOADED"]
        principal, quotas = self._principal, plane.quotas
        if principal is not None and (quotas.has_default or principal.limits is not None):
            return quotas.admit(principal.key_id, self, principal.limits)
        return None

    def _forward(self, route: Route) -> None:
        """Pass the head to the backend, as soon as it has a connection."""
        pool = self.plane.pools.get(route.backend) if route.backend is not None else None
        if pool is None:
            self.refuse(REFUSALS[f"NO_BACKEND_{route.backend_label.upper()}"])
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
