"""What control tells a worker at its start: the configuration in bytes, seconds, descriptors.

Frozen structs that travel over the channel. They carry no defaults that a user could see (those
stand in `config`) and no validation: control has done it. Workers import this instead of `config`,
which needs pydantic.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class TlsServer(msgspec.Struct, frozen=True):
    """TLS on a listener."""

    cert_file: str
    key_file: str
    client_ca_file: str | None = None
    min_version: Literal["1.2", "1.3"] = "1.2"


class TlsClient(msgspec.Struct, frozen=True):
    """TLS towards a backend."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None
    insecure_skip_verify: bool = False


class Listener(msgspec.Struct, frozen=True):
    """One listening socket: bound by control, inherited by every worker."""

    fd: int
    address: str
    tls: TlsServer | None = None
    proxy_protocol: bool = False


class Target(msgspec.Struct, frozen=True):
    """One url of a backend.

    `prefix` is the url's path without a trailing slash, put before each forwarded path.
    """

    host: str
    port: int
    tls: bool = False
    prefix: str = ""

    @property
    def address(self) -> str:
        """The `address` label and what logs say: host:port, with brackets around IPv6."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Backend(msgspec.Struct, frozen=True):
    """One backend kind. Connections and waiting requests are per worker; times are seconds."""

    name: str
    targets: tuple[Target, ...]
    tls: TlsClient | None
    connect_timeout_s: float
    min_connections: int
    max_connections: int
    max_waiting: int
    host: str | None = None
    """Sent as `:authority` / `Host` instead of the url's."""


class Intake(msgspec.Struct, frozen=True):
    """What is special about the agents' intake (`backends.intake`)."""

    path: Literal["receiver", "router"] = "receiver"
    no_answer: Literal["close", "503"] = "close"
    service_bearer: Literal["refuse", "forward"] = "refuse"
    max_body: dict[str, int] = {}
    """Path → bytes, where a route's limit differs from `Limits.max_body_bytes`."""


class Forward(msgspec.Struct, frozen=True):
    """Which credential the backend sees."""

    key: Literal["client", "gateway", "none"]
    gateway_key: str | None
    scheme: str
    identity_headers: bool

    def __repr__(self) -> str:
        """Leave the key out: settings are printed when something fails."""
        return (
            f"Forward(key={self.key!r}, scheme={self.scheme!r}, "
            f"identity_headers={self.identity_headers!r})"
        )


class PerKey(msgspec.Struct, frozen=True):
    """Quota of one key; 0 = none. Rates are per second, already divided by the workers.

    A key's own limits win: they come undivided.
    """

    requests: float = 0
    bytes: float = 0
    concurrent: int = 0
    workers: int = 1
    """How many share a host's limits."""


class Limits(msgspec.Struct, frozen=True):
    """Bounds. `max_connections` is this worker's share; sizes are bytes, times are seconds."""

    max_body_bytes: int
    max_connections: int
    max_streams_per_connection: int
    buffer_memory_bytes: int
    header_timeout_s: float
    idle_timeout_s: float
    linger_bytes: int
    linger_timeout_s: float
    stall_timeout_s: float
    request_timeout_s: float
    max_connection_age_s: float
    drain_timeout_s: float
    per_key: PerKey = PerKey()
    quota_status: Literal[429, 503] = 429


class Cors(msgspec.Struct, frozen=True):
    """Browsers' senders; empty `allowed_origins` = off."""

    allowed_origins: tuple[str, ...] = ()
    allowed_headers: tuple[str, ...] = ()
    max_age_s: int = 3600


class Authority(msgspec.Struct, frozen=True):
    """That keys in no snapshot are asked for; what a worker remembers of the answers."""

    cache_size: int
    negative_cache_size: int
    wait_s: float
    """How long control may take to answer."""


class WorkerSettings(msgspec.Struct, frozen=True):
    """Everything that one worker needs besides keys."""

    index: int
    """0 … workers - 1: this worker's slot in the shared connection counts."""
    workers: int
    counts_fd: int
    """Descriptor of the shared memory map with one signed 64-bit count of connections per worker
    (-1 = not alive).
    """
    listeners: tuple[Listener, ...]
    backends: tuple[Backend, ...]
    forward: Forward
    schemes: tuple[str, ...]
    limits: Limits
    cors: Cors = Cors()
    intake: Intake = Intake()
    trusted_networks: tuple[str, ...] = ()
    authority: Authority | None = None
    log_level: str = "info"
    log_format: Literal["console", "json"] = "json"
