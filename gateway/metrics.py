"""Every metric that the gateway exposes, with the fixed sets of its label values.

This is only the catalogue: workers count in plain integers (`dataplane.counters`), control sums and
exposes (`control.exposition`). Labels never contain a secret, a path or a sender's address.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Kind(enum.StrEnum):
    """The Prometheus metric types in use."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family. Counter names end in `_total`; times are seconds, sizes bytes."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    from_worker: bool = True
    """Whether workers report it; otherwise control measures it."""


BUCKETS_S: Final = tuple(2.0**exponent / 1_000_000 for exponent in range(1, 27))
"""Upper bounds of all duration histograms: 2 µs, doubling up to 67 s. `int.bit_length` of the µs
finds the bucket.
"""

REQUESTS: Final = Metric(
    "gateway_requests_total",
    Kind.COUNTER,
    "Requests by result; code is the name of the gRPC status or the HTTP status",
    ("protocol", "signal", "code", "result"),
)
REQUEST_DURATION: Final = Metric(
    "gateway_request_duration_seconds",
    Kind.HISTOGRAM,
    "Time from a request's complete head to the end of its response",
    ("protocol", "signal"),
)
REQUEST_BYTES: Final = Metric(
    "gateway_request_bytes_total",
    Kind.COUNTER,
    "Bytes of request bodies, as received (compressed)",
    ("protocol", "signal"),
)
RESPONSE_BYTES: Final = Metric(
    "gateway_response_bytes_total",
    Kind.COUNTER,
    "Bytes of response bodies returned to senders",
    ("protocol", "signal"),
)
IN_FLIGHT: Final = Metric(
    "gateway_requests_in_flight",
    Kind.GAUGE,
    "Requests whose head has arrived and whose response is not finished",
    ("protocol",),
)
CONNECTIONS: Final = Metric("gateway_connections", Kind.GAUGE, "Open client connections")
BUFFER_BYTES: Final = Metric(
    "gateway_buffer_bytes",
    Kind.GAUGE,
    "Bytes used for requests and responses in flight; limits.buffer_memory bounds it per worker",
)
CONNECTIONS_REFUSED: Final = Metric(
    "gateway_connections_refused_total",
    Kind.COUNTER,
    "Refused connections, by reason",
    ("reason",),
)
ABUSE: Final = Metric(
    "gateway_abuse_total",
    Kind.COUNTER,
    "Client connections that were ended for too much of what is of no use, by what it was",
    ("kind",),
)

INTAKE_REQUESTS: Final = Metric(
    "gateway_intake_requests_total",
    Kind.COUNTER,
    "Requests from agents by kind of data, kind of sender and result",
    ("route", "sender", "result"),
)
INTAKE_AGENTS: Final = Metric(
    "gateway_intake_agents_total",
    Kind.COUNTER,
    "Requests from agents with a valid key, by the version in their headers",
    ("sender", "version"),
)
INTAKE_HELD: Final = Metric(
    "gateway_intake_requests_held",
    Kind.GAUGE,
    "Requests of the process agent that wait for the receiver to come back",
)
INTAKE_HELD_TOTAL: Final = Metric(
    "gateway_intake_held_total",
    Kind.COUNTER,
    "Requests of the process agent that had to wait for the receiver to come back",
)

AUTH_DECISIONS: Final = Metric(
    "gateway_auth_decisions_total",
    Kind.COUNTER,
    "Verdicts on API keys, by outcome and source",
    ("protocol", "signal", "outcome", "source"),
)
AUTH_DURATION: Final = Metric(
    "gateway_auth_duration_seconds",
    Kind.HISTOGRAM,
    "Time from a request's complete head to the verdict on its key",
    ("source",),
)
LIMITS_DIVIDED: Final = Metric(
    "gateway_key_limits_divided_total",
    Kind.COUNTER,
    "Requests of keys for which each worker used its share of the limits, because too many keys"
    " with limits were in use at once",
)

BACKEND_REQUESTS: Final = Metric(
    "gateway_backend_requests_total",
    Kind.COUNTER,
    "Requests forwarded to a backend, by its response code (none: no response)",
    ("backend", "code"),
)
BACKEND_DURATION: Final = Metric(
    "gateway_backend_duration_seconds",
    Kind.HISTOGRAM,
    "Time from sending a request's head to the head of the backend's response",
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
    "1 if the backend answers at an address, 0 if it is silent or cannot be reached",
    ("backend", "address"),
)
BACKEND_SILENT_CONNECTIONS: Final = Metric(
    "gateway_backend_silent_connections_total",
    Kind.COUNTER,
    "Connections that were replaced, because the backend was there but no longer answered",
    ("backend", "address"),
)
BACKEND_CONNECT_ERRORS: Final = Metric(
    "gateway_backend_connect_errors_total",
    Kind.COUNTER,
    "Failed connection attempts to a backend's address, and failed look-ups of its name",
    ("backend", "address"),
)
BACKEND_AUTH_REFUSED: Final = Metric(
    "gateway_backend_auth_refused_total",
    Kind.COUNTER,
    "ALARM: the backend refused a key that the gateway accepted; see forward.key",
    ("backend",),
)
BACKEND_FOREIGN_ANSWERS: Final = Metric(
    "gateway_backend_foreign_answers_total",
    Kind.COUNTER,
    "ALARM: something else answered in the backend's place, such as a proxy or a login page",
    ("backend",),
)
BACKEND_DISPLACED: Final = Metric(
    "gateway_backend_displaced_total",
    Kind.COUNTER,
    "Requests that gave up their place to others (slow_upload), or in the queue (queue)",
    ("backend", "reason"),
)
BACKEND_ROUTE_MISSING: Final = Metric(
    "gateway_backend_route_missing_total",
    Kind.COUNTER,
    "ALARM: the backend has no service for a signal that is forwarded to it",
    ("backend", "signal"),
)
LOG_LINES_DROPPED: Final = Metric(
    "gateway_log_lines_dropped_total",
    Kind.COUNTER,
    "Lines of the log that were dropped, because nobody read it",
)
INTERNAL_ERRORS: Final = Metric(
    "gateway_internal_errors_total",
    Kind.COUNTER,
    "ALARM: bugs in the gateway, by the place where they were caught",
    ("place",),
)

KEYS: Final = Metric(
    "gateway_keys", Kind.GAUGE, "Keys in the stores", ("state",), from_worker=False
)
KEY_REQUESTS: Final = Metric(
    "gateway_key_requests_total",
    Kind.COUNTER,
    "Requests of the 1,000 busiest keys; the others are key_id other",
    ("key_id", "key_name", "outcome"),
    from_worker=False,
)
KEY_BYTES: Final = Metric(
    "gateway_key_bytes_total",
    Kind.COUNTER,
    "Bytes of request bodies of the 1,000 busiest keys; the others are key_id other",
    ("key_id", "key_name", "outcome"),
    from_worker=False,
)
TENANT_REQUESTS: Final = Metric(
    "gateway_tenant_requests_total",
    Kind.COUNTER,
    "Requests by the value that their keys have for the label metrics.tenant_label",
    ("tenant", "outcome"),
    from_worker=False,
)
TENANT_BYTES: Final = Metric(
    "gateway_tenant_bytes_total",
    Kind.COUNTER,
    "Bytes of request bodies by the value that their keys have for metrics.tenant_label",
    ("tenant", "outcome"),
    from_worker=False,
)
KEY_LAST_USED: Final = Metric(
    "gateway_key_last_used_timestamp_seconds",
    Kind.GAUGE,
    "Time of a key's last use",
    ("key_id", "key_name"),
    from_worker=False,
)
KEY_EXPIRY: Final = Metric(
    "gateway_key_expiry_timestamp_seconds",
    Kind.GAUGE,
    "Time when a key expires; only keys that expire",
    ("key_id", "key_name"),
    from_worker=False,
)
KEY_STORE_UP: Final = Metric(
    "gateway_key_store_up",
    Kind.GAUGE,
    "1 if the last access to the store succeeded, else 0",
    ("store",),
    from_worker=False,
)
KEY_STORE_SYNC: Final = Metric(
    "gateway_key_store_last_sync_timestamp_seconds",
    Kind.GAUGE,
    "Time when the keys were last known to match the store",
    ("store",),
    from_worker=False,
)
KEY_STORE_REVISION: Final = Metric(
    "gateway_key_store_revision",
    Kind.GAUGE,
    "The store's revision that every worker uses",
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
    "Cached verdicts of a remote authority",
    ("kind",),
    from_worker=False,
)
KEY_CACHE_HITS: Final = Metric(
    "gateway_key_cache_hits_total",
    Kind.COUNTER,
    "Look-ups that found a cached verdict",
    ("kind",),
)
KEY_CACHE_MISSES: Final = Metric(
    "gateway_key_cache_misses_total",
    Kind.COUNTER,
    "Look-ups without a cached verdict, or with one that is due for a refresh",
    ("kind",),
    from_worker=False,
)
KEY_CACHE_STALE: Final = Metric(
    "gateway_key_cache_stale_served_total",
    Kind.COUNTER,
    "Look-ups that used a stale verdict, because no authority was available",
    ("kind",),
)
KEY_CACHE_COALESCED: Final = Metric(
    "gateway_key_cache_coalesced_total",
    Kind.COUNTER,
    "Look-ups that joined a request in flight for the same key",
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
    "Duration of requests to a remote authority",
    ("result",),
    from_worker=False,
)

JWT_CHECKS: Final = Metric(
    "gateway_jwt_checks_total",
    Kind.COUNTER,
    "Tokens of identity providers that were checked, because no verdict was remembered",
    ("result",),
    from_worker=False,
)
JWT_TOKENS: Final = Metric(
    "gateway_jwt_tokens",
    Kind.GAUGE,
    "Tokens of identity providers whose verdict is remembered",
    ("kind",),
    from_worker=False,
)
JWT_FETCHES: Final = Metric(
    "gateway_jwt_key_fetches_total",
    Kind.COUNTER,
    "Fetches of an issuer's keys",
    ("result",),
    from_worker=False,
)
JWT_FETCH_DURATION: Final = Metric(
    "gateway_jwt_key_fetch_duration_seconds",
    Kind.HISTOGRAM,
    "Duration of fetches of an issuer's keys",
    ("result",),
    from_worker=False,
)

ADMIN_CLOSED: Final = Metric(
    "gateway_admin_connections_closed_total",
    Kind.COUNTER,
    "Connections to admin addresses that were closed for their limits, by reason",
    ("reason",),
    from_worker=False,
)
WORKERS: Final = Metric(
    "gateway_workers", Kind.GAUGE, "Workers that accept connections", from_worker=False
)
WORKERS_UNSTEADY: Final = Metric(
    "gateway_workers_unsteady",
    Kind.GAUGE,
    "ALARM: places whose workers have died three times in a row, none of them a minute old",
    from_worker=False,
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
    "1 if the last load of the configuration succeeded, else 0",
    from_worker=False,
)
CONFIG_RELOAD_AT: Final = Metric(
    "gateway_config_last_reload_timestamp_seconds",
    Kind.GAUGE,
    "Time of the last successful load of the configuration",
    from_worker=False,
)
TLS_FILES_OK: Final = Metric(
    "gateway_tls_files_last_read_successful",
    Kind.GAUGE,
    "ALARM at 0: certificate, key, CA or CRL files have changed and cannot be used; old ones stay",
    from_worker=False,
)
CERTIFICATE_EXPIRY: Final = Metric(
    "gateway_tls_certificate_expiry_timestamp_seconds",
    Kind.GAUGE,
    "Time when a listener's certificate expires",
    ("address",),
    from_worker=False,
)
CRL_NEXT_UPDATE: Final = Metric(
    "gateway_tls_crl_next_update_timestamp_seconds",
    Kind.GAUGE,
    "Time when a list of revoked client certificates is out of date",
    ("file",),
    from_worker=False,
)
BUILD_INFO: Final = Metric(
    "gateway_build_info",
    Kind.GAUGE,
    "Always 1; the running version, and how the data path runs",
    ("version", "data_path"),
    from_worker=False,
)

METRICS: Final[tuple[Metric, ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
BY_NAME: Final = {metric.name: metric for metric in METRICS}

NO_SIGNAL: Final = "none"
"""Value of `signal` for requests without a route."""
OTHER_VERSION: Final = "other"
UNKNOWN_VERSION: Final = "none"
NO_VERSIONS: Final = (UNKNOWN_VERSION, OTHER_VERSION)
"""Values of the label `version` that are not versions: `none` if the headers have none, `other` if
it is unreadable, or if there are more versions than the limit.
"""
NO_TENANT: Final = "none"
OTHER_TENANT: Final = "other"
NO_TENANTS: Final = (NO_TENANT, OTHER_TENANT)
"""Values of the label `tenant` that are not tenants: `none` if the key lacks the label, `other` if
there are more of them than `metrics.max_tenants`.
"""
SOURCES: Final = ("keyring", "cache", "stale", "authority", "certificate", "none")
"""Values of the label `source`."""
CACHE_KINDS: Final = ("positive", "negative")
"""Values of the label `kind` of the verdict cache."""
AUTHORITY_RESULTS: Final = (
    "allowed",
    "denied",
    "throttled",
    "error",
    "timeout",
    "unreachable",
    "unexpected",
)
"""Values of the label `result` of requests to a remote authority."""
JWT_RESULTS: Final = ("allowed", "denied", "undecided")
"""Values of the label `result` of checked tokens."""
JWT_FETCH_RESULTS: Final = ("ok", "error", "timeout", "unreachable", "unexpected")
"""Values of the label `result` of fetches of an issuer's keys."""
CONNECTION_REFUSAL_REASONS: Final = (
    "limit",
    "address_limit",
    "tls_handshake",
    "half_open",
    "proxy_header",
    "descriptors",
    "preface",
    "slow_head",
    "no_worker",
)
"""Values of the label `reason` of `gateway_connections_refused_total`."""
DISPLACED_REASONS: Final = ("slow_upload", "queue")
"""Values of the label `reason` of `gateway_backend_displaced_total`."""
ADMIN_CLOSE_REASONS: Final = ("displaced", "timeout")
"""Values of the label `reason` of `gateway_admin_connections_closed_total`."""
ABUSE_KINDS: Final = (
    "closed_stream",
    "continuation",
    "empty_data",
    "goaway",
    "header_block",
    "header_list",
    "ping",
    "ping_ack",
    "priority",
    "rst_stream",
    "settings",
    "stream_error",
    "tiny_data",
    "tls_records",
    "unknown",
    "window_update",
)
"""Values of the label `kind` of `gateway_abuse_total`."""
RESTART_REASONS: Final = ("died", "hung", "reload")
"""Values of the label `reason` of `gateway_worker_restarts_total`."""
INTERNAL_PLACES: Final = ("exchange", "connection", "upstream", "control")
"""Values of the label `place` of `gateway_internal_errors_total`."""
