"""Puts one worker's data path together: the only place that builds what others use.

Read it from the top: memory and counters, keys, backends, dialects and routes, the pipeline, the
listening side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from gateway.channel import Up
from gateway.dataplane.accept.acceptor import Acceptor
from gateway.dataplane.accept.connection_counts import SharedCounts
from gateway.dataplane.accept.protocol_detection import Server
from gateway.dataplane.auth.credentials import CredentialReader
from gateway.dataplane.auth.key_lookups import KeyLookups
from gateway.dataplane.auth.keyring import Keyring
from gateway.dataplane.auth.refusal_log import RefusalLog
from gateway.dataplane.core.budget import Budget
from gateway.dataplane.core.certificates import ClientCertificate, Revocations
from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.cors import CorsPolicy
from gateway.dataplane.core.counters import Counters
from gateway.dataplane.core.forwarded_fields import forwarded_fields
from gateway.dataplane.core.heads import FieldKinds
from gateway.dataplane.core.label_routes import LabelRoutes
from gateway.dataplane.core.open_connections import OpenConnections
from gateway.dataplane.core.routes import Route, Router
from gateway.dataplane.core.seams import ConnectionOwner
from gateway.dataplane.dialects.health import HealthService, Readiness, health_routes
from gateway.dataplane.dialects.intake.observer import IntakeObserver
from gateway.dataplane.dialects.intake.routes import IntakeRoutes
from gateway.dataplane.dialects.otlp import (
    GrpcDialect,
    GrpcOverHttp1Dialect,
    OtlpHttpDialect,
    grpc_over_http1_route,
    otlp_routes,
)
from gateway.dataplane.exchange.backend_refusals import BackendRefusals
from gateway.dataplane.exchange.observers import TrafficObserver
from gateway.dataplane.exchange.pipeline import RequestPipeline
from gateway.dataplane.exchange.quota_rows import QuotaRows
from gateway.dataplane.exchange.quotas import Quotas
from gateway.dataplane.exchange.services import ExchangeServices
from gateway.dataplane.exchange.tracer import Tracer
from gateway.dataplane.http1 import upstream as http1_upstream
from gateway.dataplane.http1.answer_reader import KnownAnswers
from gateway.dataplane.http1.probe import Http1Probe
from gateway.dataplane.http1.request_head import KnownLines
from gateway.dataplane.http1.server import Http1Server
from gateway.dataplane.http1.upstream import Http1Upstream
from gateway.dataplane.http2 import upstream as http2_upstream
from gateway.dataplane.http2.answer_sections import AnswerSections
from gateway.dataplane.http2.request_head import KnownFields
from gateway.dataplane.http2.server import Http2Server
from gateway.dataplane.http2.upstream import Http2Upstream
from gateway.dataplane.upstream.connector import Resolve, SocketConnector, resolve_by_system
from gateway.dataplane.upstream.pool import Pool
from gateway.model import BackendName, Pairs, Protocol
from gateway.outcome import REFUSALS
from gateway.settings import BackendSettings, ListenerSettings, WorkerSettings


@dataclass(frozen=True, slots=True)
class DataPath:
    """The parts of a data path that the worker itself speaks to."""

    context: WorkerContext
    keyring: Keyring
    lookups: KeyLookups | None
    refusals: RefusalLog
    services: ExchangeServices
    tracer: Tracer
    health: HealthService
    pools: Mapping[BackendName, Pool]
    """Those for all keys."""
    route_pools: Sequence[Pool]
    """Those for keys with some labels; they may be others, or among those for all."""
    acceptor: Acceptor
    revocations: Revocations

    @property
    def all_pools(self) -> list[Pool]:
        """Connections to all backends, each once."""
        return list(dict.fromkeys([*self.pools.values(), *self.route_pools]))


def assemble(
    settings: WorkerSettings,
    loop: asyncio.AbstractEventLoop,
    send: Callable[[Up], bool],
    resolve: Resolve = resolve_by_system,
) -> DataPath:
    """Build a data path; it has no listeners yet. `send` passes a message to control, `resolve`
    finds the addresses of a backend's name.

    Raises `TlsFileError`, `OSError`, `ValueError`: the settings cannot be carried out.
    """
    counts = SharedCounts(settings.counts_fd, settings.index, settings.workers)
    context = _context(settings, loop, counts)
    counters = context.counters
    kinds = FieldKinds(settings.forward.drop_headers)
    keyring = Keyring(kinds, is_partial=settings.authority is not None and settings.authority.keys)
    lookups = (
        KeyLookups(context, keyring, settings.authority, send)
        if settings.authority is not None
        else None
    )
    refusals = RefusalLog()
    credentials = CredentialReader(
        settings.schemes,
        forward_scheme=settings.forward.scheme,
        with_tokens=settings.authority is not None and settings.authority.tokens,
    )
    pools, routes = _pools(context, settings, resolve)
    health = HealthService(context, Readiness(context, keyring))
    services = ExchangeServices(
        context,
        (TrafficObserver(counters), IntakeObserver(counters)),
        BackendRefusals(counters, lookups, settings.forward),
        CorsPolicy(settings.cors) if settings.cors.allowed_origins else None,
    )
    pipeline = RequestPipeline(
        services,
        _router(settings, context, credentials, pools, health),
        keyring,
        lookups,
        refusals,
        Quotas(settings.limits.per_key, _quota_rows(settings), counters),
        LabelRoutes(routes),
    )
    pipeline.looks_at_certificates = any(map(_looks_at_certificates, settings.listeners))
    servers = _server_maker(context, pipeline, credentials, kinds)
    revocations = Revocations()
    acceptor = Acceptor(context, counts, settings.trusted_networks, servers, revocations, send)
    return DataPath(
        context=context,
        keyring=keyring,
        lookups=lookups,
        refusals=refusals,
        services=services,
        tracer=Tracer(loop, send),
        health=health,
        pools=pools,
        route_pools=[pool for _, of_route in routes for pool in of_route.values()],
        acceptor=acceptor,
        revocations=revocations,
    )


def _looks_at_certificates(listener: ListenerSettings) -> bool:
    tls = listener.tls
    return tls is not None and (tls.identity is not None or tls.has_revocation_lists)


def _context(
    settings: WorkerSettings, loop: asyncio.AbstractEventLoop, counts: SharedCounts
) -> WorkerContext:
    budget = Budget(settings.limits.buffer_memory_bytes)
    connections = OpenConnections()
    return WorkerContext(
        settings.limits, loop, budget, Counters(), connections, counts.sign_of_life
    )


def _quota_rows(settings: WorkerSettings) -> QuotaRows | None:
    return None if settings.quotas is None else QuotaRows.shared(settings.quotas)


def _pools(
    context: WorkerContext, settings: WorkerSettings, resolve: Resolve
) -> tuple[dict[BackendName, Pool], list[tuple[Pairs, dict[str, Pool]]]]:
    """Return the connections to the backends for all keys, and for keys with some labels."""
    make = _pool_maker(context, resolve)
    pools = {BackendName(backend.name): make(backend) for backend in settings.backends}
    routes = [
        (route.labels, {backend.name: make(backend) for backend in route.backends})
        for route in settings.routes
    ]
    return pools, routes


def _pool_maker(context: WorkerContext, resolve: Resolve) -> Callable[[BackendSettings], Pool]:
    """Return what makes pools; those of equal settings are one."""
    sections = AnswerSections()
    answers = KnownAnswers()
    made: list[tuple[BackendSettings, Pool]] = []

    def make(backend: BackendSettings) -> Pool:
        for known, pool in made:
            if known == backend:
                return pool
        if BackendName(backend.name) is BackendName.OTLP_GRPC:
            connector = SocketConnector(
                context.loop,
                backend,
                partial(Http2Upstream, context, authority=backend.host, answers=sections),
                http2_upstream.ALPN,
                shares_connections=True,
                resolve=resolve,
            )
        else:
            connector = SocketConnector(
                context.loop,
                backend,
                partial(Http1Upstream, context, authority=backend.host, known_answers=answers),
                http1_upstream.ALPN,
                shares_connections=False,
                make_probe=partial(_probe, context.loop, backend.host),
                resolve=resolve,
            )
        pool = Pool(context, backend, connector)
        made.append((backend, pool))
        return pool

    return make


def _probe(
    loop: asyncio.AbstractEventLoop, authority: str | None, owner: ConnectionOwner
) -> Http1Probe:
    return Http1Probe(loop, authority or owner.target.address)


def _router(
    settings: WorkerSettings,
    context: WorkerContext,
    credentials: CredentialReader,
    pools: Mapping[BackendName, Pool],
    health: HealthService,
) -> Router:
    limits = settings.limits
    counters = context.counters
    forward = settings.forward
    fields = forwarded_fields(forward, b"authorization", forward.scheme, credentials.key_in)
    grpc = GrpcDialect(fields, limits.quota_status)
    http = OtlpHttpDialect(fields, limits.quota_status)
    intake = IntakeRoutes(settings, counters, credentials, pools, http)
    rows = [
        *otlp_routes(grpc, http, counters, pools, limits.max_body_bytes),
        *intake.exact,
        *health_routes(health, context, grpc=grpc, http=http),
    ]
    return Router(
        rows,
        [intake],
        not_found_grpc=_not_found(grpc, counters, Protocol.GRPC),
        not_found_http=_not_found(http, counters, Protocol.HTTP),
        grpc_over_http1=grpc_over_http1_route(
            context, GrpcOverHttp1Dialect(fields, limits.quota_status)
        ),
    )


def _not_found(dialect: OtlpHttpDialect, counters: Counters, protocol: Protocol) -> Route:
    unrouted = counters.unrouted(protocol.value)
    return Route(b"", dialect, unrouted, refusal=REFUSALS["NOT_FOUND"])


def _server_maker(
    context: WorkerContext,
    pipeline: RequestPipeline,
    credentials: CredentialReader,
    kinds: FieldKinds,
) -> Callable[[str, ClientCertificate | None, bool], Server]:
    fields = KnownFields(credentials, kinds)
    lines = KnownLines(credentials, kinds)

    def make(peer: str, certificate: ClientCertificate | None, is_http2: bool) -> Server:
        if is_http2:
            return Http2Server(context, pipeline, fields, peer, certificate)
        return Http1Server(context, pipeline, lines, peer, certificate)

    return make
