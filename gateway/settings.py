"""A worker's settings, which control sends at its start: bytes, seconds, file descriptors.

They are frozen structs for the channel. They have no defaults that a user can see (those are in
`config`) and no validation: control has done it. Workers import this instead of `config`, which
needs pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec


class IdentityRule(msgspec.Struct, frozen=True):
    """Who a client's certificate names, if one of its names fits.

    In texts `$1` stands for what the first wildcard matched, and `$$` for a dollar sign.
    """

    kind: Literal["DNS", "URI"]
    pattern: str
    """A regular expression for the whole name, with a group for each wildcard."""
    name: str
    owner: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    signals: int = 0
    """As `model.Principal.signals`."""
    limits: tuple[int | None, int | None, int | None] | None = None
    """As `model.KeyLimits`."""


class ClientIdentitySettings(msgspec.Struct, frozen=True):
    """How clients' certificates name senders."""

    is_needed: bool
    """Whether each request needs a certificate and a key; else one of them suffices."""
    rules: tuple[IdentityRule, ...]
    route_labels: tuple[tuple[str, str], ...] = ()
    """The labels by which backends are chosen."""


class TlsServerSettings(msgspec.Struct, frozen=True):
    """TLS on a listener."""

    cert_file: str
    key_file: str
    client_ca_file: str | None = None
    min_version: Literal["1.2", "1.3"] = "1.2"
    identity: ClientIdentitySettings | None = None
    has_revocation_lists: bool = False
    """Whether certificates of this listener's clients can be revoked."""
    contents: dict[str, bytes] = {}
    """File → what it held when control checked it; a file that is not in it is read."""


class TlsClientSettings(msgspec.Struct, frozen=True):
    """TLS towards a backend."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None
    insecure_skip_verify: bool = False
    contents: dict[str, bytes] = {}
    """As in `TlsServerSettings`."""


class ListenerSettings(msgspec.Struct, frozen=True):
    """One listening socket: bound by control, inherited by every worker."""

    fd: int
    address: str
    tls: TlsServerSettings | None = None
    proxy_protocol: bool = False


class Target(msgspec.Struct, frozen=True):
    """One URL of a backend.

    `prefix` is the URL's path without a trailing slash, prepended to each forwarded path.
    """

    host: str
    port: int
    tls: bool = False
    prefix: str = ""

    @property
    def address(self) -> str:
        """host:port, with brackets around IPv6, for the `address` label and logs."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class BackendSettings(msgspec.Struct, frozen=True):
    """One backend kind. Connections and waiting requests are per worker; times are seconds."""

    name: str
    targets: tuple[Target, ...]
    tls: TlsClientSettings | None
    connect_timeout_s: float
    min_connections: int
    max_connections: int
    max_waiting: int
    host: str | None = None
    """Sent as `:authority` / `Host` instead of the URL's host."""
    resolve_interval_s: float = 30.0
    max_connection_age_s: float = 600.0


class LabelRoute(msgspec.Struct, frozen=True):
    """The backends of keys that have all of these labels, by kind in `BackendSettings.name`."""

    labels: tuple[tuple[str, str], ...]
    backends: tuple[BackendSettings, ...]


class IntakeSettings(msgspec.Struct, frozen=True):
    """The settings of the agents' intake (`backends.intake`)."""

    path: Literal["receiver", "router"] = "receiver"
    no_answer: Literal["close", "503"] = "503"
    hold_timeout_s: float = 0.0
    """How long a request of the process agent waits for a receiver that is away; 0 = not at all."""
    service_bearer: Literal["refuse", "forward"] = "refuse"
    max_body: dict[str, int] = {}
    """Path → bytes, for routes whose limit differs from `LimitsSettings.max_body_bytes`."""


class ForwardSettings(msgspec.Struct, frozen=True):
    """What the backend gets of a request's head: which API key, and what is said of the sender."""

    key: Literal["client", "gateway", "none"]
    gateway_key: str | None
    scheme: str
    identity_headers: bool
    sender_address: bool = False
    drop_headers: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Omit the key, because errors print settings."""
        return (
            f"Forward(key={self.key!r}, scheme={self.scheme!r}, "
            f"identity_headers={self.identity_headers!r}, sender_address={self.sender_address!r}, "
            f"drop_headers={self.drop_headers!r})"
        )


class PerKeyLimits(msgspec.Struct, frozen=True):
    """Limits of one key on this host; 0 = none. Rates are per second."""

    requests: float = 0
    bytes: float = 0
    concurrent: int = 0
    workers: int = 1
    """How many have to divide the limits where they cannot count together."""


class QuotaPlace(msgspec.Struct, frozen=True):
    """A worker's column in the table in which all workers of a host count the use of limited keys,
    see `quota_layout`.
    """

    fd: int
    """Descriptor of the table."""
    columns: int
    column: int


class LimitsSettings(msgspec.Struct, frozen=True):
    """Limits. Those of connections are this worker's share; sizes are bytes, times are seconds."""

    max_body_bytes: int
    max_connections: int
    max_connections_per_address: int
    """0 = none."""
    max_streams_per_connection: int
    buffer_memory_bytes: int
    header_timeout_s: float
    idle_timeout_s: float
    linger_bytes: int
    linger_timeout_s: float
    stall_timeout_s: float
    min_upload_rate: float
    """Bytes per second; 0 = none is too slow."""
    request_timeout_s: float
    max_connection_age_s: float
    drain_timeout_s: float
    per_key: PerKeyLimits = PerKeyLimits()
    quota_status: Literal[429, 503] = 429


class CorsSettings(msgspec.Struct, frozen=True):
    """Senders in browsers; empty `allowed_origins` = off."""

    allowed_origins: tuple[str, ...] = ()
    allowed_headers: tuple[str, ...] = ()
    max_age_s: int = 3600


class AuthoritySettings(msgspec.Struct, frozen=True):
    """Unknown keys and tokens are looked up through control; sizes of the worker's caches of the
    verdicts.
    """

    cache_size: int
    negative_cache_size: int
    wait_s: float
    """How long control may take for a verdict."""
    keys: bool = True
    """Whether a remote authority decides on unknown keys."""
    tokens: bool = False
    """Whether tokens of identity providers are accepted (`Authorization: Bearer`)."""


class WorkerSettings(msgspec.Struct, frozen=True):
    """Everything that one worker needs, except the keys."""

    index: int
    """0 … workers - 1: this worker's slot in the shared connection counts."""
    workers: int
    counts_fd: int
    """Descriptor of the shared memory map with one signed 64-bit count of connections per worker
    (-1 = not alive).
    """
    listeners: tuple[ListenerSettings, ...]
    backends: tuple[BackendSettings, ...]
    forward: ForwardSettings
    schemes: tuple[str, ...]
    limits: LimitsSettings
    cors: CorsSettings = CorsSettings()
    intake: IntakeSettings = IntakeSettings()
    trusted_networks: tuple[str, ...] = ()
    routes: tuple[LabelRoute, ...] = ()
    """The first whose labels a key has counts instead of `backends`."""
    authority: AuthoritySettings | None = None
    quotas: QuotaPlace | None = None
    """None = this worker has no column, and uses its share of each key's limits."""
    log_level: str = "info"
    log_format: Literal["console", "json"] = "json"


def with_descriptors(settings: WorkerSettings, numbers: Mapping[int, int]) -> WorkerSettings:
    """Return the settings with other numbers of descriptors. `numbers`: old → new, of each one."""
    replace = msgspec.structs.replace
    quotas = settings.quotas
    return replace(
        settings,
        counts_fd=numbers[settings.counts_fd],
        listeners=tuple(replace(each, fd=numbers[each.fd]) for each in settings.listeners),
        quotas=None if quotas is None else replace(quotas, fd=numbers[quotas.fd]),
    )


def descriptors_of(settings: WorkerSettings) -> list[int]:
    """Return the descriptors that a worker with these settings needs."""
    quotas = [] if settings.quotas is None else [settings.quotas.fd]
    return [settings.counts_fd, *(listener.fd for listener in settings.listeners), *quotas]
