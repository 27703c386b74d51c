"""The rows that the agents' intake adds to the routing table, and its closed prefixes.

The paths stand in `gateway.intake`. `…/otel/v1/…` is OTLP in every respect but its path.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from gateway import intake
from gateway.dataplane.heads import FieldSection
from gateway.dataplane.replies import JSON
from gateway.dataplane.routes import IntakeRules, Route
from gateway.intake import IntakeRoute, Row
from gateway.model import BackendName, Protocol, Signal

if TYPE_CHECKING:
    from gateway.dataplane.counters import Counters
    from gateway.dataplane.exchange import Exchange
    from gateway.settings import WorkerSettings

_VALID_BODY: Final = b'{"valid":true}'
_VALID: Final = FieldSection(
    200, [(b"content-type", JSON), (b"content-length", b"%d" % len(_VALID_BODY))]
)
_VALID.content_length = len(_VALID_BODY)


def _answer_valid(exchange: Exchange) -> None:
    """Say that the key is good; agents want exactly 200 or 403 (`/api/v1/validate`)."""
    exchange.answer_locally(_VALID, _VALID_BODY)


class IntakeRoutes:
    """All routes of the agents' intake, under the worker's settings."""

    def __init__(self, settings: WorkerSettings, counters: Counters) -> None:
        self._settings = settings.intake
        self._max_body_bytes = settings.limits.max_body_bytes
        self._counters = counters
        self.exact: list[Route] = [*self._otlp()]
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
        settings = self._settings
        return Route(
            path.encode(),
            Protocol.INTAKE,
            Signal.INTAKE,
            BackendName.INTAKE,
            self._counters.route(Protocol.INTAKE, Signal.INTAKE),
            (row.method.encode(),),
            target=target.encode(),
            max_body_bytes=settings.max_body.get(intake.size_key(row), self._max_body_bytes),
            intake=IntakeRules(
                row.route.value,
                row.sender.value,
                row.wants_no_answer and settings.no_answer == "close",
                row.is_service_bearers and settings.service_bearer == "forward",
                _answer_valid if row.route is IntakeRoute.VALIDATE else None,
            ),
        )

    def _otlp(self) -> Iterator[Route]:
        for path, target, name in intake.otlp_paths():
            signal = Signal(name)
            yield Route(
                path.encode(),
                Protocol.HTTP,
                signal,
                BackendName.OTLP_HTTP,
                self._counters.route(Protocol.HTTP, signal),
                target=target.encode(),
            )
