"""Which series exist from the start, at 0: all that can occur with labels of closed sets.

A counter that appears with its first event hides that event from `rate()` and from alerts
(Prometheus, "Avoid missing metrics"). A combination that cannot occur (gRPC with an HTTP status)
has no series. The backend's codes are an open set: the codes that clients act on have a series from
the start, others appear with the first such answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Final

from gateway import intake, metrics
from gateway.control.core.current_config import Backends
from gateway.control.metrics.busiest_keys import OTHER
from gateway.control.metrics.metric_totals import Labels, MetricTotals
from gateway.metrics import Metric
from gateway.model import BackendName, Protocol, Signal
from gateway.outcome import (
    MEDIA_TYPE,
    METHOD_NOT_ALLOWED,
    OUTCOMES,
    RETRY,
    AuthOutcome,
    GrpcCode,
    Outcome,
    Result,
)

_OTLP: Final = (Signal.TRACES, Signal.METRICS, Signal.LOGS, Signal.PROFILES)
ROUTES: Final = (
    *product((Protocol.GRPC, Protocol.HTTP), _OTLP),
    (Protocol.INTAKE, Signal.INTAKE),
)
"""The pairs of protocol and signal that can occur on a route."""
UNROUTED: Final = tuple(
    (protocol, metrics.NO_SIGNAL) for protocol in (Protocol.GRPC, Protocol.HTTP)
)
"""Those of requests without a route, health checks among them."""
_UNROUTED_RESULTS: Final = (
    Result.ACCEPTED,
    Result.NOT_FOUND,
    Result.METHOD,
    Result.MALFORMED,
    Result.OVERLOADED,
    Result.CANCELED,
    Result.INTERNAL,
)

_NEVER_ON_INTAKE: Final = (Result.NOT_FOUND, Result.MEDIA_TYPE)
"""Other paths have no route, and any media type is accepted."""

NO_ANSWER: Final = "none"
"""The `code` of a backend that did not answer, and of an agent that got no answer."""
_UNAVAILABLE: Final = 503

_A: Final = AuthOutcome
_WITHOUT_LOOKUP: Final = (
    _A.KEY_MISSING,
    _A.KEY_MALFORMED,
    _A.KEY_CONFLICT,
    _A.TOKEN_MALFORMED,
    _A.UNDECIDED,
)
_OF_A_TOKEN: Final = (_A.KEY_EXPIRED, _A.TOKEN_MALFORMED, _A.TOKEN_INVALID)
_OF_A_KEY: Final = (
    _A.ALLOWED,
    _A.KEY_EXPIRED,
    _A.KEY_REVOKED,
    _A.KEY_DISABLED,
    _A.SIGNAL_NOT_ALLOWED,
)
_OF_ENDED: Final = (_A.CERTIFICATE_EXPIRED, _A.CERTIFICATE_REVOKED)
KEY_OUTCOMES: Final = (*_OF_A_KEY, *_OF_ENDED)
"""The outcomes that are counted per key: those where it is known whose key it was."""

SOURCE_OUTCOMES: Final[dict[str, Sequence[AuthOutcome]]] = {
    "none": _WITHOUT_LOOKUP,
    "keyring": (*_OF_A_KEY, _A.KEY_UNKNOWN),
    "cache": (_A.ALLOWED, *_OF_A_TOKEN, _A.SIGNAL_NOT_ALLOWED, _A.KEY_UNKNOWN),
    "stale": (_A.ALLOWED, _A.KEY_EXPIRED, _A.SIGNAL_NOT_ALLOWED),
    "authority": (
        _A.ALLOWED,
        *_OF_A_TOKEN,
        _A.SIGNAL_NOT_ALLOWED,
        _A.KEY_UNKNOWN,
        _A.UNDECIDED,
    ),
    "certificate": (
        _A.ALLOWED,
        _A.CERTIFICATE_MISSING,
        _A.CERTIFICATE_INVALID,
        *_OF_ENDED,
        _A.SIGNAL_NOT_ALLOWED,
    ),
}
"""The outcomes that each source of a verdict can have."""

_GRPC_BACKEND_CODES: Final = (
    GrpcCode.OK,
    GrpcCode.INVALID_ARGUMENT,
    GrpcCode.PERMISSION_DENIED,
    GrpcCode.RESOURCE_EXHAUSTED,
    GrpcCode.UNIMPLEMENTED,
    GrpcCode.UNAVAILABLE,
    GrpcCode.UNAUTHENTICATED,
)
_HTTP_BACKEND_CODES: Final = (200, 400, 401, 403, 404, 413, 429, 502, 503, 504)


def start_at_zero(totals: MetricTotals, backends: Backends, stores: Iterable[str] = ()) -> None:
    """Make all series of closed label sets exist; after a reload once more.

    `stores` are the kinds of the configured key stores.
    """
    for store in stores:
        totals.start_at_zero(metrics.REVOCATION_LAG, (store,))
    for metric, labels in _closed(backends):
        totals.start_at_zero(metric, tuple(str(value) for value in labels))


def gauges_at_zero(metric: Metric, backends: Backends) -> dict[Labels, float]:
    """Return the series of a gauge that exist at 0 while no worker reports it."""
    if metric is metrics.IN_FLIGHT:
        return {(str(protocol),): 0.0 for protocol in Protocol}
    if metric in (metrics.CONNECTIONS, metrics.BUFFER_BYTES, metrics.INTAKE_HELD):
        return {(): 0.0}
    if metric in (metrics.KEY_CACHE_ENTRIES, metrics.JWT_TOKENS):
        return {(kind,): 0.0 for kind in metrics.CACHE_KINDS}
    if metric is metrics.BACKEND_CONNECTIONS:
        return {(name, address): 0.0 for name, addresses in backends for address in addresses}
    return {}


def _closed(backends: Backends) -> Iterator[tuple[Metric, Labels]]:
    yield from _of_requests()
    yield from _of_intake()
    yield from _of_authorities()
    for source, outcomes in SOURCE_OUTCOMES.items():
        yield metrics.AUTH_DURATION, (source,)
        for (protocol, signal), outcome in product(ROUTES, outcomes):
            yield metrics.AUTH_DECISIONS, (protocol, signal, outcome, source)
    for kind in BackendName:
        yield from _of_backend(kind)
    for backend, addresses in backends:
        for address in addresses:
            yield metrics.BACKEND_CONNECT_ERRORS, (backend, address)
            yield metrics.BACKEND_SILENT_CONNECTIONS, (backend, address)
    for metric, values in (
        (metrics.CONNECTIONS_REFUSED, metrics.CONNECTION_REFUSAL_REASONS),
        (metrics.ABUSE, metrics.ABUSE_KINDS),
        (metrics.ADMIN_CLOSED, metrics.ADMIN_CLOSE_REASONS),
        (metrics.INTERNAL_ERRORS, metrics.INTERNAL_PLACES),
        (metrics.WORKER_RESTARTS, metrics.RESTART_REASONS),
    ):
        for value in values:
            yield metric, (value,)
    yield metrics.LOG_LINES_DROPPED, ()
    yield metrics.LIMITS_DIVIDED, ()
    yield metrics.INTAKE_HELD_TOTAL, ()
    for metric, outcome in product((metrics.KEY_REQUESTS, metrics.KEY_BYTES), KEY_OUTCOMES):
        yield metric, (OTHER, "", outcome)
    for metric, tenant, outcome in product(
        (metrics.TENANT_REQUESTS, metrics.TENANT_BYTES), metrics.NO_TENANTS, KEY_OUTCOMES
    ):
        yield metric, (tenant, outcome)


def _of_authorities() -> Iterator[tuple[Metric, Labels]]:
    caches = (
        metrics.KEY_CACHE_HITS,
        metrics.KEY_CACHE_MISSES,
        metrics.KEY_CACHE_STALE,
        metrics.KEY_CACHE_COALESCED,
    )
    for metric, kind in product(caches, metrics.CACHE_KINDS):
        yield metric, (kind,)
    for metric, result in product(
        (metrics.AUTHORITY_REQUESTS, metrics.AUTHORITY_DURATION), metrics.AUTHORITY_RESULTS
    ):
        yield metric, (result,)
    for result in metrics.JWT_RESULTS:
        yield metrics.JWT_CHECKS, (result,)
    for metric, result in product(
        (metrics.JWT_FETCHES, metrics.JWT_FETCH_DURATION), metrics.JWT_FETCH_RESULTS
    ):
        yield metric, (result,)


def _of_requests() -> Iterator[tuple[Metric, Labels]]:
    for protocol, signal in (*ROUTES, *UNROUTED):
        for metric in (metrics.REQUEST_DURATION, metrics.REQUEST_BYTES, metrics.RESPONSE_BYTES):
            yield metric, (protocol, signal)
        for code, result in _ends(protocol):
            if signal != metrics.NO_SIGNAL or result in _UNROUTED_RESULTS:
                yield metrics.REQUESTS, (protocol, signal, code, result)


def _ends(protocol: Protocol) -> Iterator[tuple[str, str]]:
    """Yield the pairs of code and result in which a request of `protocol` can end."""
    yield ("OK" if protocol is Protocol.GRPC else "200"), Result.ACCEPTED
    for outcome in OUTCOMES:
        yield _code(protocol, outcome), outcome.result
        if protocol is Protocol.INTAKE and outcome.intake == RETRY:
            yield NO_ANSWER, outcome.result


def _code(protocol: Protocol, outcome: Outcome) -> str:
    match protocol:
        case Protocol.GRPC:
            # A request that turns out not to be gRPC is answered as plain HTTP.
            is_plain = outcome in (MEDIA_TYPE, METHOD_NOT_ALLOWED)
            return str(outcome.http) if is_plain else outcome.grpc.name
        case Protocol.HTTP:
            return str(outcome.http)
        case Protocol.INTAKE:
            return str(_UNAVAILABLE if outcome.intake == RETRY else outcome.intake)


def _of_intake() -> Iterator[tuple[Metric, Labels]]:
    rows = {(row.route, row.sender) for row in (*intake.ROWS, intake.REMOTE_WRITE)}
    for (route, sender), result in product(sorted(rows), Result):
        if result not in _NEVER_ON_INTAKE:
            yield metrics.INTAKE_REQUESTS, (route, sender, result)
    for sender, version in product(intake.Sender, metrics.NO_VERSIONS):
        yield metrics.INTAKE_AGENTS, (sender, version)


def _of_backend(backend: BackendName) -> Iterator[tuple[Metric, Labels]]:
    signals = (Signal.INTAKE,) if backend is BackendName.INTAKE else _OTLP
    codes = (
        [code.name for code in _GRPC_BACKEND_CODES]
        if backend is BackendName.OTLP_GRPC
        else [str(code) for code in _HTTP_BACKEND_CODES]
    )
    for code in (*codes, NO_ANSWER):
        yield metrics.BACKEND_REQUESTS, (backend, code)
    yield metrics.BACKEND_DURATION, (backend,)
    yield metrics.BACKEND_AUTH_REFUSED, (backend,)
    yield metrics.BACKEND_FOREIGN_ANSWERS, (backend,)
    for reason in metrics.DISPLACED_REASONS:
        yield metrics.BACKEND_DISPLACED, (backend, reason)
    for signal in signals:
        yield metrics.BACKEND_ROUTE_MISSING, (backend, signal)
