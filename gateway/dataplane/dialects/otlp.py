"""OTLP clients: over gRPC, and over HTTP with protobuf or JSON (OTLP specification).

In what form a refusal is sent depends on what the client speaks, not on the path: a gRPC client at
an HTTP path still reads `grpc-status`. The exceptions are refusals of just that mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.dataplane.auth.credentials import choose
from gateway.dataplane.core import replies
from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.counters import Counters
from gateway.dataplane.core.credential import Credential
from gateway.dataplane.core.forwarded_fields import ForwardedFields
from gateway.dataplane.core.heads import HTML, FieldSection, RequestHead, media_type
from gateway.dataplane.core.replies import GRPC_CODES, HTTP_CODES, Reply
from gateway.dataplane.core.routes import Route
from gateway.dataplane.core.seams import Dialect, LocalRequest, RequestPool
from gateway.model import BackendName, Protocol, Signal
from gateway.outcome import MEDIA_TYPE, METHOD_NOT_ALLOWED, REFUSALS, Outcome, Refusal

_HTTP_TYPES: Final = (replies.PROTOBUF, replies.JSON)
_GRPC_TYPES: Final = (b"application/grpc", b"application/grpc+proto")
_OK: Final = 200
_RETRYABLE: Final = (429, 502, 503, 504)
"""OTLP specification, "Retryable Response Codes"."""
_KEY_REFUSED: Final = (401, 403)

GRPC_OVER_HTTP1: Final = (
    "gRPC came over HTTP/1.1: have the proxy before the gateway use HTTP/2 (nginx: grpc_pass), or "
    "the sender OTLP/HTTP"
)

_SERVICES: Final = (
    (Signal.TRACES, "trace.v1.TraceService", "/v1/traces"),
    (Signal.METRICS, "metrics.v1.MetricsService", "/v1/metrics"),
    (Signal.LOGS, "logs.v1.LogsService", "/v1/logs"),
    (Signal.PROFILES, "profiles.v1development.ProfilesService", "/v1development/profiles"),
)
OTLP_SERVICES: Final = tuple(
    f"opentelemetry.proto.collector.{service}" for _, service, _ in _SERVICES
)
"""Full gRPC service names."""


class OtlpHttpDialect(Dialect):
    """OTLP/HTTP, and what a request for an unknown path is told."""

    __slots__ = ("_fields", "_quota_status")

    def __init__(self, fields: ForwardedFields, quota_status: int) -> None:
        self._fields = fields
        self._quota_status = quota_status

    def find_credential(self, head: RequestHead) -> Credential:
        """See `Dialect`."""
        return choose(head.credentials)

    def fields_for(self, credential: Credential) -> ForwardedFields:
        """See `Dialect`."""
        return self._fields

    def admit(self, head: RequestHead) -> Refusal | None:
        """See `Dialect`."""
        content_type = head.content_type
        if content_type in _HTTP_TYPES or media_type(content_type) in _HTTP_TYPES:
            return None
        return REFUSALS["MEDIA_TYPE"]

    def reply(self, refusal: Refusal, head: RequestHead, allow: bytes) -> Reply | None:
        """See `Dialect`."""
        outcome = refusal.outcome
        if head.is_grpc and outcome is not MEDIA_TYPE and outcome is not METHOD_NOT_ALLOWED:
            return replies.grpc_reply(refusal)
        is_protobuf = media_type(head.content_type) == replies.PROTOBUF
        return replies.http_reply(
            refusal,
            is_protobuf,
            allow if outcome is METHOD_NOT_ALLOWED else b"",
            self._http_status(outcome),
        )

    def late_trailers(self, refusal: Refusal) -> FieldSection | None:
        """See `Dialect`."""
        return None

    def code_of(self, outcome: Outcome, head: RequestHead) -> str:
        """See `Dialect`."""
        return outcome.grpc.name if head.is_grpc else HTTP_CODES[self._http_status(outcome)]

    def code(self, section: FieldSection) -> str | None:
        """See `Dialect`."""
        return HTTP_CODES[section.status]

    def is_foreign(self, head: FieldSection) -> bool:
        """See `Dialect`."""
        if head.media_type in _HTTP_TYPES:
            return 300 <= head.status < 400
        return _is_no_verdict(head)

    def is_accepted(self, section: FieldSection) -> bool:
        """See `Dialect`."""
        return 200 <= section.status < 300

    def _http_status(self, outcome: Outcome) -> int:
        return self._quota_status if outcome.is_quota else outcome.http


class GrpcDialect(OtlpHttpDialect):
    """gRPC: the code of an answer stands in its trailers. What is no gRPC at a gRPC path is told
    so in HTTP.
    """

    __slots__ = ()

    def admit(self, head: RequestHead) -> Refusal | None:
        """See `Dialect`."""
        if head.is_grpc and media_type(head.content_type) in _GRPC_TYPES:
            return None
        return REFUSALS["GRPC_MEDIA_TYPE"]

    def late_trailers(self, refusal: Refusal) -> FieldSection | None:
        """See `Dialect`."""
        return replies.grpc_trailers(refusal)

    def code(self, section: FieldSection) -> str | None:
        """See `Dialect`."""
        status = section.grpc_status
        if status >= 0:
            return GRPC_CODES[status] if status < len(GRPC_CODES) else "UNKNOWN"
        return None if section.status == _OK else HTTP_CODES[section.status]

    def is_foreign(self, head: FieldSection) -> bool:
        """See `Dialect`."""
        if head.grpc_status >= 0 or head.media_type.startswith(replies.GRPC):
            return 300 <= head.status < 400
        return _is_no_verdict(head)

    def is_accepted(self, section: FieldSection) -> bool:
        """See `Dialect`."""
        return section.grpc_status == 0


class GrpcOverHttp1Dialect(GrpcDialect):
    """gRPC that some proxy has taken out of HTTP/2, or that never was in it. The answer is a gRPC
    client's all the same: what the proxy passes on of it says what is wrong.
    """

    __slots__ = ()

    def reply(self, refusal: Refusal, head: RequestHead, allow: bytes) -> Reply | None:
        """See `Dialect`."""
        return replies.grpc_reply_http1(refusal)

    def code_of(self, outcome: Outcome, head: RequestHead) -> str:
        """See `Dialect`."""
        return outcome.grpc.name


def grpc_over_http1_route(context: WorkerContext, dialect: GrpcOverHttp1Dialect) -> Route:
    """Return the row that gRPC over HTTP/1.1 is refused by, whatever its path: it is logged, and no
    key is asked for.
    """

    def refuse(request: LocalRequest) -> None:
        peer = request.downstream.peer
        context.throttled.warn(GRPC_OVER_HTTP1, peer, context.now())
        request.refuse(REFUSALS["GRPC_NEEDS_HTTP2"])

    return Route(
        b"",
        dialect,
        context.counters.unrouted(Protocol.GRPC.value),
        max_body_bytes=context.limits.max_body_bytes,
        handler=refuse,
        needs_key=False,
    )


def _is_no_verdict(head: FieldSection) -> bool:
    """Whether an answer whose type is not OTLP's says nothing about the data.

    A success without a type may be an empty message. An error without one is foreign: so Go's
    server answers plain text where it expects TLS. Collectors before 0.106 refuse keys in
    text/plain.
    """
    status = head.status
    if head.media_type in HTML:
        return status not in _RETRYABLE
    if status < 300:
        return head.media_type != b""
    return status < 500 and status not in _RETRYABLE and status not in _KEY_REFUSED


def otlp_routes(
    grpc: GrpcDialect,
    http: OtlpHttpDialect,
    counters: Counters,
    pools: Mapping[BackendName, RequestPool],
    max_body_bytes: int,
) -> list[Route]:
    """Return the rows of both (OTLP specification, "OTLP/gRPC" and "OTLP/HTTP Request").

    Over HTTP also with one slash too many: before the path, from a base URL that ends in one, or
    behind it. The backend gets the path without it.
    """
    routes = []
    for signal, service, path in _SERVICES:
        routes.append(
            Route(
                f"/opentelemetry.proto.collector.{service}/Export".encode(),
                grpc,
                counters.route(Protocol.GRPC, signal),
                signal=signal,
                backend=BackendName.OTLP_GRPC,
                pool=pools.get(BackendName.OTLP_GRPC),
                max_body_bytes=max_body_bytes,
            )
        )
        routes.extend(
            Route(
                spelling.encode(),
                http,
                counters.route(Protocol.HTTP, signal),
                signal=signal,
                backend=BackendName.OTLP_HTTP,
                pool=pools.get(BackendName.OTLP_HTTP),
                target=path.encode(),
                max_body_bytes=max_body_bytes,
            )
            for spelling in (path, f"/{path}", f"{path}/")
        )
    return routes
