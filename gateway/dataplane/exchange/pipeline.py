"""One request from its head to the backend: the one place where the order of things can be read,
for every protocol.

Head → route → method → credential → verdict → admission → forward. The server side has parsed a
complete head and knows nothing else; what this kind of client may send and is told, the route's
dialect says. The first step that refuses answers.
"""

from __future__ import annotations

import time
from typing import Final

from gateway.dataplane.auth.certificate_verdicts import verdict_by_certificate
from gateway.dataplane.auth.key_lookups import KeyLookups
from gateway.dataplane.auth.keyring import NOT_HERE, Keyring
from gateway.dataplane.auth.refusal_log import RefusalLog
from gateway.dataplane.core.credential import Credential
from gateway.dataplane.core.heads import RequestHead, common_name
from gateway.dataplane.core.label_routes import LabelRoutes
from gateway.dataplane.core.routes import Router
from gateway.dataplane.core.seams import Downstream
from gateway.dataplane.exchange.exchange import Exchange
from gateway.dataplane.exchange.forwarding import Forwarding
from gateway.dataplane.exchange.memory_shares import MemoryShares
from gateway.dataplane.exchange.quotas import Quotas
from gateway.dataplane.exchange.services import ExchangeServices
from gateway.model import Denied, Principal, Verdict
from gateway.outcome import REFUSALS, Refusal

_monotonic: Final = time.monotonic
_time_ns: Final = time.time_ns
CERTIFICATE_SOURCE: Final = "certificate"
"""The source of a verdict that a certificate decided (`metrics.SOURCES`)."""


class RequestPipeline:
    """See the module. There is one per worker."""

    __slots__ = (
        "_budget",
        "_counters",
        "_keyring",
        "_label_routes",
        "_lookups",
        "_quotas",
        "_refusals",
        "_router",
        "_routes",
        "_services",
        "_shares",
        "cors",
        "looks_at_certificates",
    )

    def __init__(
        self,
        services: ExchangeServices,
        router: Router,
        keyring: Keyring,
        lookups: KeyLookups | None,
        refusals: RefusalLog,
        quotas: Quotas,
        label_routes: LabelRoutes | None = None,
    ) -> None:
        self._services = services
        self._shares = MemoryShares(services.context)
        self.cors = services.cors
        """For refusals of what never became an exchange."""
        self._counters = services.context.counters
        self._budget = services.context.budget
        self._router = router
        self._routes = router.exact
        self._keyring = keyring
        self._lookups = lookups
        self._refusals = refusals
        self._quotas = quotas
        self._label_routes = label_routes or LabelRoutes()
        self.looks_at_certificates = False
        """Whether a listener looks at clients' certificates."""

    def make(self, downstream: Downstream, head: RequestHead) -> Exchange:
        """Make the exchange of a complete head; `start` follows when the server side knows it."""
        if head.is_grpc_over_http1:
            route = self._router.find_grpc_over_http1(head)
        else:
            route = self._routes.get(head.path) or self._router.find(head)
        return Exchange(self._services, downstream, head, route)

    def start(self, exchange: Exchange) -> None:
        """Decide on the head: refuse the request, answer it, or forward it."""
        route = exchange.route
        head = exchange.head
        cors = self._services.cors
        if route.refusal is not None:
            exchange.refuse(route.refusal)
        elif cors is not None and (preflight := cors.preflight(head)) is not None:
            exchange.answer_locally(preflight, b"")
        elif head.method not in route.methods:
            exchange.refuse(route.other_method)
        elif route.handler is not None and not route.needs_key:
            route.handler(exchange)
        else:
            self._authenticate(exchange)

    def _authenticate(self, exchange: Exchange) -> None:
        """Find the key, and have it decided on, at once or after a look-up."""
        route = exchange.route
        head = exchange.head
        credentials = head.credentials
        if len(credentials) == 1 and head.query is None and credentials[0].digest is not None:
            credential = credentials[0]  # the usual case, for every dialect
        else:
            credential = route.dialect.find_credential(head)
        if self.looks_at_certificates and self._decided_by_certificate(exchange, credential):
            return
        if credential.passes_unchecked:  # only the receiver can judge it
            self._go_on(exchange, credential)
            return
        now_ms = exchange.record.decided_at_ms = _time_ns() // 1_000_000
        verdict = self._keyring.decide(credential, route.signal_bit, now_ms)
        if verdict is NOT_HERE and self._lookups is not None:
            waiter = _WaitingExchange(self, exchange, credential)
            self._lookups.decide(waiter, head, credential, route.signal_bit)
            return
        source = "keyring" if credential.digest is not None else "none"
        self.decided(exchange, credential, verdict, source)

    def _decided_by_certificate(self, exchange: Exchange, credential: Credential) -> bool:
        """Let the caller's certificate decide; return whether it does."""
        certificate = exchange.downstream.certificate
        if certificate is None:
            return False
        now_ms = exchange.record.decided_at_ms = _time_ns() // 1_000_000
        signal_bit = exchange.route.signal_bit
        verdict = verdict_by_certificate(certificate, credential, signal_bit, now_ms)
        if verdict is None:
            return False
        if isinstance(verdict, Denied):
            credential = certificate.credential
        self.decided(exchange, credential, verdict, CERTIFICATE_SOURCE)
        return True

    def decided(
        self, exchange: Exchange, credential: Credential, verdict: Verdict, source: str
    ) -> None:
        """Go on with the verdict. `source`: where it comes from, see `metrics.SOURCES`."""
        record = exchange.record
        if type(verdict) is Principal:
            record.principal = verdict
            record.auth_outcome = "allowed"
            if source == "keyring":
                exchange.route.counters.allowed += 1
                self._counters.keyring_duration.observe(_monotonic() - record.started)
            else:
                self._note_verdict(exchange, "allowed", source)
            self._go_on(exchange, credential)
        elif isinstance(verdict, Denied):
            refusal = REFUSALS[verdict.refusal]
            record.principal = verdict.principal
            self._note_verdict(exchange, refusal.outcome.name, source)
            self._refusals.note(
                credential,
                refusal.outcome.name,
                verdict.principal,
                peer=record.peer,
                protocol=exchange.route.counters.protocol,
                signal=exchange.route.counters.signal,
            )
            exchange.refuse(refusal)
        else:
            self._note_verdict(
                exchange, "undecided", "authority" if source == "authority" else "none"
            )
            exchange.refuse(REFUSALS["UNDECIDED"])

    def _note_verdict(self, exchange: Exchange, outcome: str, source: str) -> None:
        record = exchange.record
        record.auth_outcome = outcome
        exchange.route.counters.verdicts[outcome, source] += 1
        self._counters.auth_duration[source].observe(_monotonic() - record.started)

    def _go_on(self, exchange: Exchange, credential: Credential) -> None:
        """Admit a request whose key may send, and forward it."""
        route = exchange.route
        if route.handler is not None:
            route.handler(exchange)
            return
        refusal = self._admit(exchange)
        if refusal is not None:
            exchange.refuse(refusal)
            return
        pool = route.pool
        no_backend = route.no_backend
        fields = route.dialect.fields_for(credential)
        principal = exchange.record.principal
        if principal is not None and principal.tenant is not None:
            headers, labels = principal.tenant
            if headers:
                fields = fields.for_tenant(headers)
            own = self._label_routes.find(labels)
            if own is not None:
                pool = own.get(route.backend)
                no_backend = REFUSALS["NO_BACKEND_ROUTE"]
        if pool is None:
            exchange.refuse(no_backend)
            return
        if exchange.head.expects_continue:
            exchange.downstream.accept_body()
        forwarding = exchange.sink = Forwarding(exchange, pool, fields)
        forwarding.begin()

    def _admit(self, exchange: Exchange) -> Refusal | None:
        """Check what comes after the verdict: content type, declared size, limits."""
        head = exchange.head
        route = exchange.route
        refusal = route.dialect.admit(head)
        if refusal is not None:
            return refusal
        if head.content_length > route.max_body_bytes:
            return REFUSALS["BODY_TOO_LARGE"]
        budget = self._budget
        if budget.used >= budget.near and not self._shares.may_begin(exchange.sender):
            return REFUSALS["OVERLOADED"]
        principal, quotas = exchange.record.principal, self._quotas
        if principal is not None and (quotas.has_default or principal.limits is not None):
            exchange.lease = quotas.admit(
                principal.key_id,
                principal.limits,
                max(head.content_length, exchange.record.request_bytes),
            )
            if exchange.lease is None:
                return REFUSALS["QUOTA"]
        return None


class _WaitingExchange:
    """An exchange that waits for the verdict on its key (`seams.VerdictWaiter`)."""

    __slots__ = ("_credential", "_exchange", "_pipeline")

    def __init__(
        self, pipeline: RequestPipeline, exchange: Exchange, credential: Credential
    ) -> None:
        self._pipeline = pipeline
        self._exchange = exchange
        self._credential = credential

    @property
    def is_over(self) -> bool:
        """See `VerdictWaiter`."""
        return self._exchange.is_over

    def decided(self, verdict: Verdict, source: str) -> None:
        """See `VerdictWaiter`."""
        if type(verdict) is Principal and verdict.tenant is not None:
            # The head may have been read before any key had these headers.
            names = {common_name(name.encode()) for name, _ in verdict.tenant.headers}
            self._exchange.head.drop_fields(names)
        self._pipeline.decided(self._exchange, self._credential, verdict, source)

    def failed(self) -> None:
        """See `VerdictWaiter`."""
        self._exchange.refuse(REFUSALS["INTERNAL"])
