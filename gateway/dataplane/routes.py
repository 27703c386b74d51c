"""The routing table: exact path → what it is, for every protocol. No normalising, no prefixes to
guess.

`..`, `//`, `%2f` and absolute-form targets are in no row, so they are not found. The rows of the
agents' intake are made in `intake_routes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.dataplane.counters import Counters, RouteCounters
from gateway.model import BackendName, Protocol, Signal

if TYPE_CHECKING:
    from gateway.dataplane.exchange import Exchange

_OTLP: Final = (
    (Signal.TRACES, "trace.v1.TraceService", "/v1/traces"),
    (Signal.METRICS, "metrics.v1.MetricsService", "/v1/metrics"),
    (Signal.LOGS, "logs.v1.LogsService", "/v1/logs"),
    (Signal.PROFILES, "profiles.v1development.ProfilesService", "/v1development/profiles"),
)

OTLP_SERVICES: Final = tuple(f"opentelemetry.proto.collector.{service}" for _, service, _ in _OTLP)
"""Full gRPC service names."""


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """What is special about a route of the agents' intake (`gateway.intake`)."""

    label: str
    """Value of the label `route`."""
    sender: str
    """Value of the label `sender`."""
    withholds_answer: bool
    """Whether "try again" is said by no answer at all instead of 503."""
    passes_service_bearer: bool
    """Whether a Kubernetes token goes to the receiver unchecked."""
    answer: Callable[[Exchange], None] | None = None
    """Answers a request whose key is good, instead of the receiver."""


@dataclass(slots=True, eq=False)
class Route:
    """One row. A route with a `local` handler is answered by the worker itself, without a key."""

    path: bytes
    protocol: Protocol
    signal: Signal
    backend: BackendName | None
    counters: RouteCounters
    methods: tuple[bytes, ...] = (b"POST",)
    local: Callable[[Exchange], None] | None = None
    target: bytes = b""
    """Path at the backend, without its url's prefix; where not given, the path itself."""
    max_body_bytes: int = 0
    """The route's own limit; 0 becomes `limits.max_body` when the table is made."""
    intake: IntakeRules | None = None
    """Set on the routes of the agents' intake."""
    signal_bit: int = field(init=False)
    backend_label: str = field(init=False)
    """The label `backend`: plain, because an enum's value costs 0.25 µs each time."""

    def __post_init__(self) -> None:
        """Look up once what each request needs."""
        self.signal_bit = self.signal.bit
        self.backend_label = self.backend.value if self.backend is not None else "none"
        self.target = self.target or self.path

    @property
    def allow(self) -> bytes:
        """Value of the Allow field (RFC 9110 §10.2.1)."""
        return b", ".join(self.methods)


def otlp_routes(counters: Counters) -> list[Route]:
    """All OTLP routes (OTLP specification, "OTLP/gRPC" and "OTLP/HTTP Request")."""
    routes = []
    for signal, service, path in _OTLP:
        grpc_path = f"/opentelemetry.proto.collector.{service}/Export".encode()
        grpc, http = counters.route(Protocol.GRPC, signal), counters.route(Protocol.HTTP, signal)
        routes.append(Route(grpc_path, Protocol.GRPC, signal, BackendName.OTLP_GRPC, grpc))
        routes.append(Route(path.encode(), Protocol.HTTP, signal, BackendName.OTLP_HTTP, http))
    return routes
