"""The gateway's own routing table, without backends: which signal a request is, what its sender
understands.
"""

from __future__ import annotations

from gateway.dataplane.auth.credentials import CredentialReader
from gateway.dataplane.core.counters import Counters
from gateway.dataplane.core.forwarded_fields import forwarded_fields
from gateway.dataplane.core.routes import Route, Router
from gateway.dataplane.dialects.intake.routes import IntakeRoutes
from gateway.dataplane.dialects.otlp import (
    GrpcDialect,
    GrpcOverHttp1Dialect,
    OtlpHttpDialect,
    otlp_routes,
)
from gateway.model import Protocol
from gateway.outcome import REFUSALS
from gateway.settings import WorkerSettings


class Routing:
    """All routes but those of health checks, which the proxy answers itself."""

    def __init__(self, settings: WorkerSettings, credentials: CredentialReader) -> None:
        limits, counters = settings.limits, Counters()
        fields = forwarded_fields(settings.forward, b"authorization", settings.forward.scheme)
        grpc = GrpcDialect(fields, limits.quota_status)
        http = OtlpHttpDialect(fields, limits.quota_status)
        intake = IntakeRoutes(settings, counters, credentials, {}, http)
        self.router = Router(
            [*otlp_routes(grpc, http, counters, {}, limits.max_body_bytes), *intake.exact],
            [intake],
            not_found_grpc=_refusing(grpc, counters, Protocol.GRPC, "NOT_FOUND"),
            not_found_http=_refusing(http, counters, Protocol.HTTP, "NOT_FOUND"),
            grpc_over_http1=_refusing(
                GrpcOverHttp1Dialect(fields, limits.quota_status),
                counters,
                Protocol.GRPC,
                "GRPC_NEEDS_HTTP2",
            ),
        )


def _refusing(dialect: OtlpHttpDialect, counters: Counters, protocol: Protocol, why: str) -> Route:
    return Route(b"", dialect, counters.unrouted(protocol.value), refusal=REFUSALS[why])
