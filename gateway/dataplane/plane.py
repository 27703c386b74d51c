"""What all connections and exchanges of a worker share, and the sweep that keeps their times."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from gateway import metrics
from gateway.dataplane.budget import Budget
from gateway.dataplane.cors import CorsPolicy
from gateway.dataplane.counters import Counters, RouteCounters
from gateway.dataplane.credentials import CredentialReader
from gateway.dataplane.http1_upstream import Http1Upstream
from gateway.dataplane.http2_upstream import Http2Upstream
from gateway.dataplane.intake_counts import IntakeCounts
from gateway.dataplane.intake_routes import IntakeRoutes
from gateway.dataplane.keyring import Keyring
from gateway.dataplane.local import Local
from gateway.dataplane.lookups import Lookups
from gateway.dataplane.pool import Pool
from gateway.dataplane.quotas import Quotas
from gateway.dataplane.refusals import RefusalLog
from gateway.dataplane.routes import otlp_routes
from gateway.model import BackendName
from gateway.wire import hpack

if TYPE_CHECKING:
    from gateway.dataplane.trace import Tracer
    from gateway.settings import WorkerSettings

RECEIVE_BUFFER_BYTES: Final = 256 * 1024
_log = structlog.get_logger(__name__)


class ServerConnection(Protocol):
    """What the plane knows of a client's connection."""

    def sweep(self, now: float) -> None:
        """Enforce header, idle, stall, age and request limits."""

    def start_drain(self) -> None:
        """Take no new request; close when the open ones are done."""

    def abort(self) -> None:
        """Close at once."""


class DataPlane:
    """One worker's shared state. There is one, made after `Start`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.budget = Budget(settings.limits.buffer_memory_bytes)
        self.counters = Counters()
        self.credentials = CredentialReader(settings.schemes)
        self.keyring = Keyring(is_partial=settings.authority is not None)
        self.lookups = Lookups(self, settings.authority) if settings.authority else None
        self.refusals = RefusalLog()
        self.tracer: Tracer | None = None
        """Set while somebody watches requests."""
        self.quotas = Quotas(settings.limits.per_key)
        self.cors = CorsPolicy(settings.cors) if settings.cors.allowed_origins else None
        self.receive_buffer = bytearray(RECEIVE_BUFFER_BYTES)
        self.receive_view = memoryview(self.receive_buffer)
        self.connections: set[ServerConnection] = set()
        self.draining = False
        self.tick = time.monotonic()
        """Monotonic seconds of the last sweep: fine enough for limits of seconds, and costs
        nothing to read.
        """
        self.local = Local(self)
        self.intake_counts = IntakeCounts(self.counters)
        self.intake_routes = IntakeRoutes(settings, self.counters)
        rows = (*otlp_routes(self.counters), *self.intake_routes.exact, *self.local.routes())
        self.routes = {route.path: route for route in rows}
        for route in rows:
            route.max_body_bytes = route.max_body_bytes or settings.limits.max_body_bytes
        self.pools: dict[BackendName, Pool] = {}
        for backend in settings.backends:
            kind = Http2Upstream if backend.name == BackendName.OTLP_GRPC else Http1Upstream
            self.pools[BackendName(backend.name)] = Pool(self, backend, kind)
        self._refused_backends: set[str] = set()
        self._gateway_credential = self._encode_gateway_credential()
        self.intake_credential_h1 = self._encode_intake_credential()
        """As `gateway_credential_h1`, for the agents' receiver."""

    def start(self) -> None:
        """Begin to connect to the backends."""
        for pool in self.pools.values():
            pool.maintain()

    async def close(self) -> None:
        """Close every connection, to clients and backends."""
        for connection in list(self.connections):
            connection.abort()
        for pool in self.pools.values():
            await pool.close()
        await asyncio.sleep(0)  # the loop closes in its next turn what was aborted in this one

    @staticmethod
    def now() -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def sweep(self, now: float | None = None) -> None:
        """Once a second: keep every limit of time, and current the gauges."""
        self.tick = time.monotonic() if now is None else now
        for connection in list(self.connections):
            connection.sweep(self.tick)
        for pool in self.pools.values():
            pool.sweep(self.tick)
        self.local.sweep(self.tick)
        if self.lookups is not None:
            self.lookups.sweep(self.tick)
        gauges = self.counters.gauges
        gauges[metrics.CONNECTIONS.name, ()] = len(self.connections)
        gauges[metrics.BUFFER_BYTES.name, ()] = self.budget.used

    def start_drain(self) -> None:
        """Let every connection finish what it has begun."""
        self.local.start_drain()
        self.draining = True
        for connection in list(self.connections):
            connection.start_drain()

    def connection_age_limit(self) -> float:
        """Seconds after which a new connection is to be ended: ±10 %, so that connections made
        together do not end together.
        """
        return self.settings.limits.max_connection_age_s * random.uniform(0.9, 1.1)

    def unrouted_counters(self, protocol: str) -> RouteCounters:
        """Counters of requests for no route: signal `none`."""
        return self.counters.unrouted(protocol)

    def backend_refused(self, backend: str) -> None:
        """Raise the alarm that a backend does not accept what the gateway allowed; log the first
        of them.
        """
        self.counters.count(metrics.BACKEND_AUTH_REFUSED, backend)
        if backend not in self._refused_backends:
            self._refused_backends.add(backend)
            _log.error(
                "the backend refuses a key that this gateway allowed; clients are told to retry",
                backend=backend,
                forward_key=self.settings.forward.key,
                do="set forward.key to 'gateway' with forward.gateway_key, or to 'none', "
                "or let the backend know the keys",
            )

    def report_bug(self, place: str) -> None:
        """Log the exception being handled and raise the alarm metric."""
        self.counters.count(metrics.INTERNAL_ERRORS, place)
        _log.exception("a bug in the gateway: please report it", place=place)

    def _encode_gateway_credential(self) -> tuple[bytes, bytes]:
        """The gateway's own credential as an HTTP/1.1 line and as an HPACK representation."""
        forward = self.settings.forward
        if forward.key != "gateway" or forward.gateway_key is None:
            return b"", b""
        value = f"{forward.scheme} {forward.gateway_key}".encode()
        return b"authorization: " + value + b"\r\n", hpack.encode_field(
            b"authorization", value, sensitive=True
        )

    def _encode_intake_credential(self) -> bytes:
        forward = self.settings.forward
        if forward.key != "gateway" or forward.gateway_key is None:
            return b""
        return b"sts-api-key: %b\r\n" % forward.gateway_key.encode()

    @property
    def gateway_credential_h1(self) -> bytes:
        """The credential line under `forward.key: gateway`, else nothing."""
        return self._gateway_credential[0]

    @property
    def gateway_credential_h2(self) -> bytes:
        """The credential field under `forward.key: gateway`, else nothing."""
        return self._gateway_credential[1]
