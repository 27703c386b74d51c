"""THE table of the agents' intake: every path that the receiver takes, who sends to it, and how.

Paths are relative to the base url that an agent is given (`…/receiver/stsAgent`, `…/stsAgent`, or
none). Anything that is in no row does not exist: nothing is normalised, and no prefix is open. What
becomes of a request stands in `outcome`; how a path reaches the backend, in `target_of`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

PathStyle = Literal["receiver", "router"]
"""What the urls of `backends.intake` name: the receiver itself, or the platform's router."""


class IntakeRoute(enum.StrEnum):
    """What a request is about; the `route` label."""

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
    """Whose path it is; the `sender` label. What such a sender does with an answer decides what
    "try again" looks like.
    """

    AGENT = "agent"
    """The main forwarder of the node, cluster and checks agents: retries 5xx, 429 and 401."""
    TRANSACTIONAL = "transactional"
    """The transactional forwarder, the platform's collector, people with curl: retries 5xx and 429,
    and takes every other 4xx for success.
    """
    PROCESS_AGENT = "process_agent"
    """Drops on every status; retries only a connection that breaks."""
    TRACE_AGENT = "trace_agent"
    RBAC_AGENT = "rbac_agent"
    LOGS_AGENT = "logs_agent"
    """Promtail."""
    OPENSHIFT_LOGGING = "openshift_logging"
    PROMETHEUS = "prometheus"
    SUPPORT = "support"
    """People: flares and the topology debug stream."""


class Row(NamedTuple):
    """One path below the base urls, or one prefix of them."""

    path: str
    route: IntakeRoute
    sender: Sender
    method: str = "POST"
    is_prefix: bool = False
    """Whether exactly one more segment of plain characters follows `path`, which ends in `/`."""
    is_service_bearers: bool = False
    """Whether the sender may come with a Kubernetes token, which only the receiver can check."""

    @property
    def wants_no_answer(self) -> bool:
        """Whether the sender keeps its data only if it gets no answer at all."""
        return self.sender is Sender.PROCESS_AGENT


_R: Final = IntakeRoute
_S: Final = Sender

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
    Row("/api/v2/", _R.API_V2, _S.AGENT, is_prefix=True),
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
"""Every path below a base url."""

BASES: Final = ("", "/stsAgent", "/receiver/stsAgent")
"""Where agents' base urls end: at the host, at a receiver, at a router."""

REMOTE_WRITE: Final = Row("/receiver/prometheus/api/v1/write", _R.REMOTE_WRITE, _S.PROMETHEUS)
"""The one path beside the base urls, always written whole."""

_DOUBLED: Final = ("/intake", "/intake/")
"""Paths that may come as `//intake`, from a base url that ends in a slash."""
_OTLP: Final = ("traces", "metrics", "logs")
_SEGMENT: Final = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,127}\Z")
_AGENT: Final = "/stsAgent"
_RECEIVER: Final = "/receiver"


class Path(NamedTuple):
    """One path as a client writes it, and as the backend gets it."""

    path: str
    target: str
    row: Row


def target_of(path: str, style: PathStyle) -> str:
    """Map a path as it came to the backend's (`backends.intake.path`).

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
    """Give every path that clients may write; of a row that is a prefix, the prefix."""
    for base in BASES:
        for row in ROWS:
            yield Path(base + row.path, target_of(base + row.path, style), row)
            if row.path in _DOUBLED:
                doubled = f"{base}/{row.path}"
                yield Path(doubled, target_of(doubled, style), row)
    yield Path(REMOTE_WRITE.path, target_of(REMOTE_WRITE.path, style), REMOTE_WRITE)


def otlp_paths() -> Iterator[tuple[str, str, str]]:
    """Give the OTLP paths below the base urls: path, path at the OTLP/HTTP backend, signal."""
    for base in BASES:
        for signal in _OTLP:
            yield f"{base}/otel/v1/{signal}", f"/v1/{signal}", signal


def row_of(path: str) -> Row | None:
    """Return the row of a path as a client writes it, or as any backend gets it."""
    row = _EXACT.get(path)
    if row is None:
        head, slash, segment = path.rpartition("/")
        row = _PREFIXES.get(head + slash) if is_segment(segment) else None
    return row


def is_segment(text: str) -> bool:
    """Whether this may follow a prefix: one segment without escapes, and neither `.` nor `..`."""
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
    """Return how `backends.intake.max_body` names a row: without base and closing slash."""
    return row.path.rstrip("/")


SIZE_KEYS: Final = frozenset(map(size_key, (*ROWS, REMOTE_WRITE)))
"""Every name that `backends.intake.max_body` may hold."""
