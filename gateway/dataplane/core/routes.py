"""The routing table: path → what is done with a request for it, for every protocol.

Exact paths, no normalising, no prefixes to guess: `..` and `%2f` are in no row, so they are not
found. Where one slash too many is let through, the path with it is a row of its own. The rows are
the dialects'; `assembly` puts them together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from gateway.dataplane.core.counters import RouteCounters
from gateway.dataplane.core.heads import RequestHead
from gateway.dataplane.core.seams import Dialect, Handler, RequestPool
from gateway.model import BackendName, Signal
from gateway.outcome import REFUSALS, Refusal

POST = (b"POST",)


class Route:
    """One row. What a request for it may do, where it goes, how it is counted."""

    __slots__ = (
        "allow",
        "backend",
        "counters",
        "dialect",
        "handler",
        "has_deadlines",
        "hold_s",
        "max_body_bytes",
        "methods",
        "needs_key",
        "no_backend",
        "other_method",
        "path",
        "pool",
        "refusal",
        "signal",
        "signal_bit",
        "target",
    )

    def __init__(  # noqa: PLR0913 - the columns of the table, most of them by name
        self,
        path: bytes,
        dialect: Dialect,
        counters: RouteCounters,
        *,
        signal: Signal | None = None,
        backend: BackendName | None = None,
        pool: RequestPool | None = None,
        methods: tuple[bytes, ...] = POST,
        target: bytes = b"",
        max_body_bytes: int = 0,
        handler: Handler | None = None,
        needs_key: bool = True,
        refusal: Refusal | None = None,
        hold_s: float = 0.0,
        other_method: Refusal = REFUSALS["METHOD_NOT_ALLOWED"],
    ) -> None:
        self.path = path
        self.dialect = dialect
        self.counters = counters
        self.signal = signal
        """What its requests carry; None where they carry no telemetry."""
        self.signal_bit = signal.bit if signal is not None else 0
        self.backend = backend.value if backend is not None else "none"
        """The label `backend`: plain, because an enum's value costs 0.25 µs each time."""
        self.methods = methods
        self.allow = b", ".join(methods)
        """Value of the Allow field (RFC 9110 §10.2.1)."""
        self.target = target or path
        """Path at the backend, without its url's prefix."""
        self.max_body_bytes = max_body_bytes
        self.handler = handler
        """Answers instead of a backend: with `needs_key` only who has a good key."""
        self.needs_key = needs_key
        self.has_deadlines = needs_key
        """Whether the exchange watches the time; a handler without keys does so itself."""
        self.refusal = refusal
        """Every request for it is refused with this."""
        self.hold_s = hold_s
        """For how many seconds from its head on a request may wait for a backend that is away."""
        self.other_method = other_method
        """A request with another method is refused with this."""
        self.pool = pool
        """Connections to its backend; None where none is configured."""
        self.no_backend = REFUSALS.get(f"NO_BACKEND_{self.backend.upper()}", REFUSALS["NOT_FOUND"])


class RouteFinder(Protocol):
    """Finds routes that no table can hold, because a part of their path is free."""

    def find(self, path: bytes) -> Route | None:
        """Return the route of a path."""


class Router:
    """The whole table. `not_found` are the rows that requests for no route are counted in: of gRPC
    and of HTTP. `grpc_over_http1` is for gRPC that did not come over HTTP/2.
    """

    __slots__ = ("_finders", "_grpc_over_http1", "_not_found_grpc", "_not_found_http", "exact")

    def __init__(
        self,
        rows: Iterable[Route],
        finders: Iterable[RouteFinder],
        *,
        not_found_grpc: Route,
        not_found_http: Route,
        grpc_over_http1: Route,
    ) -> None:
        self.exact = {row.path: row for row in rows}
        """Rows by their whole path, for look-ups on the data path."""
        self._finders = tuple(finders)
        self._not_found_grpc = not_found_grpc
        self._not_found_http = not_found_http
        self._grpc_over_http1 = grpc_over_http1

    def find(self, head: RequestHead) -> Route:
        """Return the route of a request whose path is in no row; one that refuses it where there
        is none.
        """
        for finder in self._finders:
            route = finder.find(head.path)
            if route is not None:
                return route
        return self._not_found_grpc if head.is_grpc else self._not_found_http

    def find_grpc_over_http1(self, head: RequestHead) -> Route:
        """Return the route of a request that says it is gRPC, in HTTP/1.1: the one that refuses it,
        unless it is for a backend that takes any content type.
        """
        route = self.exact.get(head.path) or self.find(head)
        is_intake = route.backend == BackendName.INTAKE.value
        return route if is_intake else self._grpc_over_http1
