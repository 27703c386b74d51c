"""Every metric that the gateway exposes, with the closed sets of its labels' values.

The catalogue only: workers count in plain integers (`dataplane.counters`), control sums and exposes
(`control.exposition`). Labels never hold a secret, a path or a caller's address.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Kind(enum.StrEnum):
    """Prometheus metric types that are used here."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family. Counters' names end in `_total`; times are seconds, sizes bytes."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    from_worker: bool = True
    """Whether workers report it (else control measures it itself)."""


BUCKETS_S: Final = tuple(2.0**exponent / 1_000_000 for exponent in range(1, 27))
"""Upper bounds of all duration histograms: 2 µs doubling to 67 s, so that a bucket is found by
`int.bit_length` of the µs.
"""

REQUESTS: Final = Metric(
    "gateway_requests_total",
    Kind.COUNTER,
    "Requests by how they ended: code is gRPC's name or three digits",
    ("protocol", "signal", "code", "result"),
)
REQUEST_DURATION: Final = Metric(
    "gateway_request_duration_seconds",
    Kind.HISTOGRAM,
    "Time from a request's complete head to the end of its answer",
    ("protocol", "signal"),
)
REQUEST_BYTES: Final = Metric(
    "gateway_request_bytes_total",
    Kind.COUNTER,
    "Bytes of request bodies received, as they came (compressed)",
    ("protocol", "signal"),
)
RESPONSE_BYTES: Final = Metric(
    "gateway_response_bytes_total",
    Kind.COUNTER,
    "Bytes of response bodies passed back",
    ("protocol", "signal"),
)
IN_FLIGHT: Final = Metric(
    "gateway_requests_in_flight",
    Kind.GAUGE,
    "Requests that have a head and no end yet",
    ("protocol",),
)
CONNECTIONS: Final = Metric("gateway_connections", Kind.GAUGE, "Open client connections")
BUFFER_BYTES: Final = Metric(
    "gateway_buffer_bytes",
    Kind.GAUGE,
    "Bytes held for requests and answers in flight, of limits.buffer_memory per worker",
)
CONNECTIONS_REFUSED: Final = Metric(
    "gateway_connections_refused_total",
    Kind.COUNTER,
    "Connections that could not be served, by reason",
    ("reason",),
)

INTAKE_REQUESTS: Final = Metric(
    "gateway_intake_requests_total",
    Kind.COUNTER,
    "Requests of agents by what they are about, whose path it is, and how they ended",
    ("route", "sender", "result"),
)
INTAKE_AGENTS: Final = Metric(
    "gateway_intake_agents_total",
    Kind.COUNTER,
    "Requests of agents with a good key, by the version that their headers state",
    ("sender", "version"),
)

AUTH_DECISIONS: Final = Metric(
    "gateway_auth_decisions_total",
    Kind.COUNTER,
    "Verdicts on keys: outcome and where it came from",
    ("protocol", "signal", "outcome", "source"),
)
AUTH_DURATION: Final = Metric(
    "gateway_auth_duration_seconds",
    Kind.HISTOGRAM,
    "Time from a request's complete head to the verdict on its key",
    ("source",),
)

BACKEND_REQUESTS: Final = Metric(
    "gateway_backend_requests_total",
    Kind.COUNTER,
    "Requests passed to a backend, by its answer's code (none: it gave no answer)",
    ("backend", "code"),
)
BACKEND_DURATION: Final = Metric(
    "gateway_backend_duration_seconds",
    Kind.HISTOGRAM,
    "Time from passing a request's head on to the head of the backend's answer",
    ("backend",),
)
BACKEND_CONNECTIONS: Final = Metric(
    "gateway_backend_connections",
    Kind.GAUGE,
    "Open connections to a backend's address",
    ("backend", "address"),
)
BACKEND_UP: Final = Metric(
    "gateway_backend_up",
    Kind.GAUGE,
    "1 when the last connection to a backend's address was made, 0 when it failed, absent before",
    ("backend", "address"),
)
BACKEND_CONNECT_ERRORS: Final = Metric(
    "gateway_backend_connect_errors_total",
    Kind.COUNTER,
    "Connections to a backend's address that could not be made",
    ("backend", "address"),
)
BACKEND_AUTH_REFUSED: Final = Metric(
    "gateway_backend_auth_refused_total",
    Kind.COUNTER,
    "ALARM: the backend refused a key that the gateway allowed; see forward.key",
    ("backend",),
)
BACKEND_ROUTE_MISSING: Final = Metric(
    "gateway_backend_route_missing_total",
    Kind.COUNTER,
    "ALARM: the backend has no service for a signal that is routed to it",
    ("backend", "signal"),
)
INTERNAL_ERRORS: Final = Metric(
    "gateway_internal_errors_total",
    Kind.COUNTER,
    "ALARM: a bug in the gateway, by the place where it was caught",
    ("place",),
)

KEYS: Final = Metric(
    "gateway_keys", Kind.GAUGE, "Keys in the stores", ("state",), from_worker=False
)
KEY_REQUESTS: Final = Metric(
    "gateway_key_requests_total",
    Kind.COUNTER,
    "Requests per key, of the 1,000 busiest keys; the rest is key_id other",
    ("key_id", "key_name", "outcome"),
    from_worker=False,
)
KEY_BYTES: Final = Metric(
    "gateway_key_bytes_total",
    Kind.COUNTER,
    "Bytes of request bodies per key, of the 1,000 busiest keys; the rest is key_id other",
    ("key_id", "key_name", "outcome"),
    from_worker=False,
)
KEY_LAST_USED: Final = Metric(
    "gateway_key_last_used_timestamp_seconds",
    Kind.GAUGE,
    "When a key was last used",
    ("key_id", "key_name"),
    from_worker=False,
)
KEY_EXPIRY: Final = Metric(
    "gateway_key_expiry_timestamp_seconds",
    Kind.GAUGE,
    "When a key with an expiry expires",
    ("key_id", "key_name"),
    from_worker=False,
)
KEY_STORE_UP: Final = Metric(
    "gateway_key_store_up",
    Kind.GAUGE,
    "1 when the store answered last time, else 0",
    ("store",),
    from_worker=False,
)
KEY_STORE_SYNC: Final = Metric(
    "gateway_key_store_last_sync_timestamp_seconds",
    Kind.GAUGE,
    "When the keys were last known to equal the store's",
    ("store",),
    from_worker=False,
)
KEY_STORE_REVISION: Final = Metric(
    "gateway_key_store_revision",
    Kind.GAUGE,
    "The count of the store's changes that every worker decides by",
    ("store",),
    from_worker=False,
)
KEY_STORE_ERRORS: Final = Metric(
    "gateway_key_store_errors_total",
    Kind.COUNTER,
    "ALARM: failures of a key store",
    ("store", "reason"),
    from_worker=False,
)
REVOCATION_LAG: Final = Metric(
    "gateway_key_revocation_lag_seconds",
    Kind.HISTOGRAM,
    "Time from a change in the store to its confirmation by every worker",
    ("store",),
    from_worker=False,
)

KEY_CACHE_ENTRIES: Final = Metric(
    "gateway_key_cache_entries",
    Kind.GAUGE,
    "Verdicts of a remote authority that are remembered",
    ("kind",),
    from_worker=False,
)
KEY_CACHE_HITS: Final = Metric(
    "gateway_key_cache_hits_total",
    Kind.COUNTER,
    "Keys whose verdict was remembered",
    ("kind",),
)
KEY_CACHE_MISSES: Final = Metric(
    "gateway_key_cache_misses_total",
    Kind.COUNTER,
    "Keys whose verdict was not remembered, or is to be asked for again",
    ("kind",),
    from_worker=False,
)
KEY_CACHE_STALE: Final = Metric(
    "gateway_key_cache_stale_served_total",
    Kind.COUNTER,
    "Keys whose verdict was used beyond its time, because no authority could be asked",
    ("kind",),
)
KEY_CACHE_COALESCED: Final = Metric(
    "gateway_key_cache_coalesced_total",
    Kind.COUNTER,
    "Questions about a key that joined one under way",
    ("kind",),
)
AUTHORITY_REQUESTS: Final = Metric(
    "gateway_authority_requests_total",
    Kind.COUNTER,
    "Requests to a remote authority",
    ("result",),
    from_worker=False,
)
AUTHORITY_DURATION: Final = Metric(
    "gateway_authority_duration_seconds",
    Kind.HISTOGRAM,
    "Time that a request to a remote authority took",
    ("result",),
    from_worker=False,
)

WORKERS: Final = Metric(
    "gateway_workers", Kind.GAUGE, "Workers that accept connections", from_worker=False
)
WORKER_RESTARTS: Final = Metric(
    "gateway_worker_restarts_total",
    Kind.COUNTER,
    "Workers that were replaced, by reason",
    ("reason",),
    from_worker=False,
)
CONFIG_RELOAD_OK: Final = Metric(
    "gateway_config_last_reload_successful",
    Kind.GAUGE,
    "1 when the last reading of the configuration succeeded, else 0",
    from_worker=False,
)
CONFIG_RELOAD_AT: Final = Metric(
    "gateway_config_last_reload_timestamp_seconds",
    Kind.GAUGE,
    "When the configuration was last read successfully",
    from_worker=False,
)
CERTIFICATE_EXPIRY: Final = Metric(
    "gateway_tls_certificate_expiry_timestamp_seconds",
    Kind.GAUGE,
    "When a listener's certificate expires",
    ("address",),
    from_worker=False,
)
BUILD_INFO: Final = Metric(
    "gateway_build_info",
    Kind.GAUGE,
    "Always 1; the running version",
    ("version",),
    from_worker=False,
)

METRICS: Final[tuple[Metric, ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
BY_NAME: Final = {metric.name: metric for metric in METRICS}

NO_SIGNAL: Final = "none"
"""Value of `signal` for requests that no route takes."""
OTHER_VERSION: Final = "other"
UNKNOWN_VERSION: Final = "none"
NO_VERSIONS: Final = (UNKNOWN_VERSION, OTHER_VERSION)
"""Values of the label `version` that are none: nothing was stated; something unreadable, or more
different ones than are told apart.
"""
SOURCES: Final = ("keyring", "cache", "stale", "authority", "none")
"""Values of the label `source`."""
CACHE_KINDS: Final = ("positive", "negative")
"""Values of the label `kind` of the cache of verdicts."""
AUTHORITY_RESULTS: Final = (
    "allowed",
    "denied",
    "throttled",
    "error",
    "timeout",
    "unreachable",
    "unexpected",
)
"""Values of the label `result` of what a remote authority answered."""
CONNECTION_REFUSAL_REASONS: Final = (
    "limit",
    "tls_handshake",
    "proxy_header",
    "descriptors",
    "preface",
)
"""Values of the label `reason` of `gateway_connections_refused_total`."""
RESTART_REASONS: Final = ("died", "hung", "reload")
"""Values of the label `reason` of `gateway_worker_restarts_total`."""
INTERNAL_PLACES: Final = ("exchange", "connection", "upstream", "control")
"""Values of the label `place` of `gateway_internal_errors_total`."""
