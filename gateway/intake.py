"""The table of the agents' intake: every path of the receiver, its senders and its method.

Paths are relative to the base URL in an agent's configuration (`…/receiver/stsAgent`, `…/stsAgent`,
or none). A path without a row does not exist: paths are not normalised, and there are no open
prefixes. `outcome` has the responses; `target_of` maps a path to the backend's.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

PathStyle = Literal["receiver", "router"]
"""Whether the URLs of `backends.intake` name the receiver itself or the platform's router."""


class IntakeRoute(enum.StrEnum):
    """The kind of data in a request; the `route` label."""

    INTAKE = "intake"
    SERIES = "series"
    EVENTS = "events"
    CHECKS = "checks"
    METADATA = "metadata"
    SKETCHES = "sketches"
    API_V2 = "api_v2"
    CONNECTIONS = "connections"
    PROCESSES = "processes"
    TRACES = "traces"
    LOGS = "logs"
    REMOTE_WRITE = "remote_write"
    RBAC = "rbac"
    TOPOLOGY = "topology"
    FLARE = "flare"
    FEATURES = "features"
    VALIDATE = "validate"


class Sender(enum.StrEnum):
    """The kind of sender that uses a path; the `sender` label. It decides which response makes the
    sender retry.
    """

    AGENT = "agent"
    """The main forwarder of the node, cluster and checks agents: retries 5xx, 429 and 401."""
    TRANSACTIONAL = "transactional"
    """The transactional forwarder, the platform's collector, people with curl: retries 5xx and 429,
    and treats every other 4xx as success.
    """
    PROCESS_AGENT = "process_agent"
    """Drops on every failure, whether it is a status, a broken connection or a timeout of 30 s."""
    TRACE_AGENT = "trace_agent"
    RBAC_AGENT = "rbac_agent"
    LOGS_AGENT = "logs_agent"
    """Promtail."""
    OPENSHIFT_LOGGING = "openshift_logging"
    PROMETHEUS = "prometheus"
    SUPPORT = "support"
    """People: flares and the topology debug stream."""


class Row(NamedTuple):
    """One path under the base URLs, or one prefix of paths."""

    path: str
    route: IntakeRoute
    sender: Sender
    method: str = "POST"
    is_prefix: bool = False
    """Whether exactly one more segment of plain characters follows `path`, which ends in `/`."""
    is_service_bearers: bool = False
    """Whether the sender may use a Kubernetes token, which only the receiver can check."""

    @property
    def drops_on_failure(self) -> bool:
        """Whether the sender sends nothing a second time."""
        return self.sender is Sender.PROCESS_AGENT


_R: Final = IntakeRoute
_S: Final = Sender

_API_V2: Final = (
    "series",
    "events",
    "service_checks",
    "host_metadata",
    "metadata",
    "orch",
    "orchmanif",
    "proclcycle",
)
"""All that agents send to `/api/v2/`: other formats have paths there, too, such as Zipkin's."""

ROWS: Final = (
    Row("/intake/", _R.INTAKE, _S.AGENT),
    Row("/intake", _R.INTAKE, _S.TRANSACTIONAL),
    Row("/api/v1/series", _R.SERIES, _S.AGENT),
    Row("/api/v1/events", _R.EVENTS, _S.AGENT),
    Row("/api/v1/check_run", _R.CHECKS, _S.AGENT),
    Row("/api/v1/sketches", _R.SKETCHES, _S.AGENT),
    Row("/api/beta/sketches", _R.SKETCHES, _S.AGENT),
    Row("/api/v1/metadata", _R.METADATA, _S.AGENT),
    Row("/api/v1/discovery", _R.METADATA, _S.AGENT),
    Row("/api/v1/container", _R.METADATA, _S.AGENT),
    Row("/api/v1/orchestrator", _R.METADATA, _S.AGENT),
    Row("/api/v1/collector", _R.PROCESSES, _S.PROCESS_AGENT),
    Row("/api/v1/connections", _R.CONNECTIONS, _S.PROCESS_AGENT),
    *(Row(f"/api/v2/{name}", _R.API_V2, _S.AGENT) for name in _API_V2),
    Row("/api/v0.2/traces", _R.TRACES, _S.TRACE_AGENT),
    Row("/api/v0.2/stats", _R.TRACES, _S.TRACE_AGENT),
    Row("/logs/k8s", _R.LOGS, _S.LOGS_AGENT),
    Row("/logs/openshift/loki/api/v1/push", _R.LOGS, _S.OPENSHIFT_LOGGING),
    Row("/rbac/", _R.RBAC, _S.RBAC_AGENT, is_prefix=True, is_service_bearers=True),
    Row("/features", _R.FEATURES, _S.AGENT, "GET", is_service_bearers=True),
    Row("/api/v1/validate", _R.VALIDATE, _S.AGENT, "GET"),
    Row("/topology/debug", _R.TOPOLOGY, _S.SUPPORT),
    Row("/support/flare", _R.FLARE, _S.SUPPORT),
    Row("/support/flare/", _R.FLARE, _S.SUPPORT, is_prefix=True),
)
"""Every path under a base URL."""

BASES: Final = ("", "/stsAgent", "/receiver/stsAgent")
"""The paths of the agents' base URLs: none, a receiver's, a router's."""

REMOTE_WRITE: Final = Row("/receiver/prometheus/api/v1/write", _R.REMOTE_WRITE, _S.PROMETHEUS)
"""The one path that is not under a base URL."""

_DOUBLED: Final = ("/intake", "/intake/")
"""Paths that may arrive as `//intake`, from a base URL that ends in a slash."""
_OTLP: Final = ("traces", "metrics", "logs")
_SEGMENT: Final = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,127}\Z")
_AGENT: Final = "/stsAgent"
_RECEIVER: Final = "/receiver"


class Path(NamedTuple):
    """One path as the client sends it, and as the backend gets it."""

    path: str
    target: str
    row: Row


def target_of(path: str, style: PathStyle) -> str:
    """Map a path as received to the backend's (`backends.intake.path`).

    `receiver`: `/receiver/X` → `/X`, `/stsAgent/X` as it is, a bare X → `/stsAgent/X`. `router`:
    `/receiver/…` and `/stsAgent/…` as they are, a bare X → `/receiver/stsAgent/X`. A doubled slash
    becomes one.
    """
    path = path.replace("//", "/")
    if path.startswith(_RECEIVER + "/"):
        return path.removeprefix(_RECEIVER) if style == "receiver" else path
    if path.startswith(_AGENT + "/"):
        return path
    return _AGENT + path if style == "receiver" else _RECEIVER + _AGENT + path


def paths(style: PathStyle) -> Iterator[Path]:
    """Yield every path that clients may send; for a row that is a prefix, the prefix."""
    for base in BASES:
        for row in ROWS:
            yield Path(base + row.path, target_of(base + row.path, style), row)
            if row.path in _DOUBLED:
                doubled = f"{base}/{row.path}"
                yield Path(doubled, target_of(doubled, style), row)
    yield Path(REMOTE_WRITE.path, target_of(REMOTE_WRITE.path, style), REMOTE_WRITE)


def otlp_paths() -> Iterator[tuple[str, str, str]]:
    """Yield the OTLP paths under the base URLs: path, path at the OTLP/HTTP backend, signal.

    Each also with one slash too many, before `otel`, before `v1` or at the end.
    """
    for base in BASES:
        for signal in _OTLP:
            for path in ("/otel/v1/{}", "//otel/v1/{}", "/otel//v1/{}", "/otel/v1/{}/"):
                yield base + path.format(signal), f"/v1/{signal}", signal


def row_of(path: str) -> Row | None:
    """Return the row of a path as a client sends it, or as any backend gets it."""
    row = _EXACT.get(path)
    if row is None:
        head, slash, segment = path.rpartition("/")
        row = _PREFIXES.get(head + slash) if is_segment(segment) else None
    return row


def is_segment(text: str) -> bool:
    """Whether this may follow a prefix: one segment without escapes that is not `.` or `..`."""
    return _SEGMENT.match(text) is not None


_ALL: Final = {
    text: found.row
    for style in ("receiver", "router")
    for found in paths(style)
    for text in (found.path, found.target)
}
_EXACT: Final = {path: row for path, row in _ALL.items() if not row.is_prefix}
_PREFIXES: Final = {path: row for path, row in _ALL.items() if row.is_prefix}


def size_key(row: Row) -> str:
    """Return a row's name in `backends.intake.max_body`: without base URL and trailing slash."""
    return row.path.rstrip("/")


SIZE_KEYS: Final = frozenset(map(size_key, (*ROWS, REMOTE_WRITE)))
"""Every valid name in `backends.intake.max_body`."""
