"""The rows that the agents' intake adds to the routing table, and its closed prefixes.

The paths stand in `gateway.intake`. `…/otel/v1/…` is OTLP in every respect but its path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from gateway import intake
from gateway.dataplane.auth.credentials import CredentialReader
from gateway.dataplane.core.counters import Counters
from gateway.dataplane.core.forwarded_fields import forwarded_fields
from gateway.dataplane.core.heads import FieldSection
from gateway.dataplane.core.replies import JSON
from gateway.dataplane.core.routes import Route
from gateway.dataplane.core.seams import Dialect, LocalRequest, RequestPool
from gateway.dataplane.dialects.intake.dialect import IntakeDialect, IntakeRules
from gateway.intake import IntakeRoute, Row
from gateway.model import BackendName, Protocol, Signal
from gateway.settings import WorkerSettings

_VALID_BODY: Final = b'{"valid":true}'
_VALID: Final = FieldSection(
    200, [(b"content-type", JSON), (b"content-length", b"%d" % len(_VALID_BODY))]
)
_VALID.content_length = len(_VALID_BODY)


def _answer_valid(request: LocalRequest) -> None:
    """Say that the key is good; agents want exactly 200 or 403 (`/api/v1/validate`)."""
    request.answer_locally(_VALID, _VALID_BODY)


class IntakeRoutes:
    """All routes of the agents' intake, under the worker's settings (a `RouteFinder`)."""

    def __init__(
        self,
        settings: WorkerSettings,
        counters: Counters,
        reader: CredentialReader,
        pools: Mapping[BackendName, RequestPool],
        otlp_http: Dialect,
    ) -> None:
        self._settings = settings.intake
        self._max_body_bytes = settings.limits.max_body_bytes
        self._counters = counters
        self._reader = reader
        self._pools = pools
        self._fields = forwarded_fields(settings.forward, b"sts-api-key", "")
        self._dialects: dict[IntakeRules, IntakeDialect] = {}
        self.exact: list[Route] = [*self._otlp(otlp_http)]
        """Rows with a whole path."""
        self._prefixes: dict[str, tuple[str, Row]] = {}
        """Prefix → the backend's prefix, and its row."""
        for path, target, row in intake.paths(self._settings.path):
            if row.is_prefix:
                self._prefixes[path] = target, row
            else:
                self.exact.append(self._route(path, target, row))

    def find(self, path: bytes) -> Route | None:
        """Return the route of a path below one of the closed prefixes."""
        head, slash, segment = path.decode("latin-1").rpartition("/")
        found = self._prefixes.get(head + slash)
        if found is None or not intake.is_segment(segment):
            return None
        target, row = found
        return self._route(head + slash + segment, target + segment, row)

    def _route(self, path: str, target: str, row: Row) -> Route:
        return Route(
            path.encode(),
            self._dialect(row),
            self._counters.route(Protocol.INTAKE, Signal.INTAKE),
            signal=Signal.INTAKE,
            backend=BackendName.INTAKE,
            pool=self._pools.get(BackendName.INTAKE),
            methods=(row.method.encode(),),
            target=target.encode(),
            max_body_bytes=self._settings.max_body.get(intake.size_key(row), self._max_body_bytes),
            hold_s=self._settings.hold_timeout_s if row.drops_on_failure else 0.0,
            handler=_answer_valid if row.route is IntakeRoute.VALIDATE else None,
        )

    def _dialect(self, row: Row) -> IntakeDialect:
        rules = IntakeRules(
            row.route.value,
            row.sender.value,
            row.drops_on_failure and self._settings.no_answer == "close",
            row.is_service_bearers and self._settings.service_bearer == "forward",
        )
        dialect = self._dialects.get(rules)
        if dialect is None:
            dialect = self._dialects[rules] = IntakeDialect(rules, self._reader, self._fields)
        return dialect

    def _otlp(self, dialect: Dialect) -> Iterator[Route]:
        for path, target, name in intake.otlp_paths():
            signal = Signal(name)
            yield Route(
                path.encode(),
                dialect,
                self._counters.route(Protocol.HTTP, signal),
                signal=signal,
                backend=BackendName.OTLP_HTTP,
                pool=self._pools.get(BackendName.OTLP_HTTP),
                target=target.encode(),
                max_body_bytes=self._max_body_bytes,
            )
