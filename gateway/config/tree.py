"""The configuration's tree: every setting, its type and its default. Unknown settings are errors.

This module validates each setting on its own; `checks` validates how they fit together. Times are
seconds and sizes bytes (`units`), in whatever unit the file has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator

from gateway.config.cores import usable_cores
from gateway.config.identity_tree import ClientIdentityConfig
from gateway.config.jwt_values import Algorithm, Claim
from gateway.config.node import Node
from gateway.config.telemetry import TelemetryConfig
from gateway.config.tenancy_values import (
    HeaderName,
    LabelName,
    LabelValue,
    ScopeHeaders,
    ScopeLabels,
    checked_header_names,
)
from gateway.config.units import ByteRate, Duration, PositiveSize, Rate, Size, Timeout
from gateway.config.values import (
    Address,
    Authority,
    CertificateName,
    DroppedField,
    FilePath,
    HostPattern,
    Network,
    Origin,
    Secret,
    StoreUrl,
    Token,
    Url,
)
from gateway.keys.tenancy_rules import MAX_PAIRS
from gateway.model import BackendName

_MAX_WORKERS = 1024
_MAX_STREAMS = 2**31 - 1
_PROCESS_AGENT_WAITS_S = 30.0
"""Then it gives up, and drops its data."""
_MAX_TENANTS = 10_000
_MAX_USAGE_DAYS = 3_660
_MAX_SAMPLES = 100
"""A second. Each costs about as much as two requests."""
_MAX_SKEW_S = 600.0
_LEAST_REFRESH_S = 5.0
_MIN_BUFFER_MEMORY = 1024 * 1024


def _as_text(value: object) -> object:
    """Turn a number into text: YAML reads an unquoted 1.2 or 503 as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_list(value: object) -> object:
    """Turn one text into a list."""
    return [value] if isinstance(value, str) else value


def _as_number(value: object) -> object:
    """Turn digits into a number: values from the environment are text."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


class TlsServerConfig(Node):
    """TLS on a listener or on the admin addresses."""

    cert_file: FilePath
    key_file: FilePath
    client_ca_file: FilePath | None = None
    min_version: Annotated[Literal["1.2", "1.3"], BeforeValidator(_as_text)] = "1.2"


class ListenerTlsConfig(TlsServerConfig):
    """TLS on a listener, where clients' certificates may say who sends."""

    client_crl_files: Annotated[list[FilePath], BeforeValidator(_as_list)] = []
    client_identity: ClientIdentityConfig | None = None


class TlsClientConfig(Node):
    """TLS towards a backend or a remote authority."""

    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    server_name: str | None = None
    insecure_skip_verify: bool = False


class ListenerConfig(Node):
    """One listening address."""

    address: Address
    tls: ListenerTlsConfig | None = None
    proxy_protocol: bool = False


class BackendConfig(Node):
    """One kind of backend."""

    urls: Annotated[list[Url], Field(min_length=1)]
    tls: TlsClientConfig | None = None
    connect_timeout: Timeout = 2.0
    min_connections: Annotated[int, Field(ge=0)] = 1
    max_connections: Annotated[int, Field(ge=1)] | None = None
    max_waiting: Annotated[int, Field(ge=0)] = 1000
    max_connection_age: Timeout = 600.0
    resolve_interval: Timeout = 30.0
    host: Authority | None = None

    default_connections: ClassVar[int] = 8
    """Over HTTP/2 one connection carries as many requests as the backend allows streams."""

    @property
    def connection_limit(self) -> int:
        """`max_connections`, or the default of this kind of backend."""
        return self.max_connections or self.default_connections


class HttpBackendConfig(BackendConfig):
    """A backend over HTTP/1.1, where each request in flight needs its own connection."""

    default_connections: ClassVar[int] = 256


class IntakeBackendConfig(HttpBackendConfig):
    """The agents' receiver."""

    path: Literal["receiver", "router"] = "receiver"
    no_answer: Annotated[Literal["close", "503"], BeforeValidator(_as_text)] = "503"
    hold_timeout: Annotated[Duration, Field(le=_PROCESS_AGENT_WAITS_S)] = 25.0
    service_bearer: Literal["refuse", "forward"] = "refuse"
    max_body: dict[str, PositiveSize] = {"/support/flare": 512 * 1024 * 1024}


class LabelRouteConfig(Node):
    """Where requests of keys with these labels go instead."""

    label: Annotated[dict[LabelName, LabelValue], Field(min_length=1)]
    otlp_grpc: BackendConfig | None = None
    otlp_http: HttpBackendConfig | None = None
    intake: HttpBackendConfig | None = None


class BackendsConfig(Node):
    """Where requests go, by kind."""

    otlp_grpc: BackendConfig | None = None
    otlp_http: HttpBackendConfig | None = None
    intake: IntakeBackendConfig | None = None
    routes: list[LabelRouteConfig] = []

    @property
    def route_labels(self) -> frozenset[tuple[str, str]]:
        """Names and values of all labels by which a route is chosen."""
        return frozenset(pair for route in self.routes for pair in route.label.items())

    def each(self) -> Iterator[tuple[tuple[str | int, ...], str, BackendConfig]]:
        """Yield every backend: its path below `backends`, its kind, itself; first those for all."""
        yield from _kinds_of(self, ())
        for place, route in enumerate(self.routes):
            yield from _kinds_of(route, ("routes", place))


def _kinds_of(
    backends: BackendsConfig | LabelRouteConfig, path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], str, BackendConfig]]:
    for name in BackendName:
        backend: BackendConfig | None = getattr(backends, name.value)
        if backend is not None:
            yield (*path, name.value), name.value, backend


class ForwardConfig(Node):
    """What the backend gets of a request's head."""

    key: Literal["client", "gateway", "none"] = "client"
    gateway_key: Secret | None = None
    scheme: Token = "StackState"
    identity_headers: bool = False
    sender_address: bool = False
    drop_headers: list[DroppedField] = ["X-Scope-OrgID"]


Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""The name of a secret."""


class ReceiverKeyConfig(Node):
    """One of the operators' static keys; its id is `static:NAME`."""

    name: Name
    key: Secret


class AuthConfig(Node):
    """How senders present API keys, and the operators' static keys."""

    schemes: Annotated[list[Token], Field(min_length=1)] = [
        "StackState",
        "SUSEObservability",
        "SUSE-Observability",
    ]
    receiver_keys: list[ReceiverKeyConfig] = []

    @field_validator("receiver_keys", mode="before")
    def _name_receiver_keys(cls, value: object) -> object:
        """Accept plain text for `{key: …}`, and add default names."""
        if not isinstance(value, list):
            return value
        return [_named(item, f"receiver-{place}", "key") for place, item in enumerate(value, 1)]


def _named(item: object, name: str, secret: str) -> object:
    """Turn a plain secret into one with a name."""
    if not isinstance(item, dict | Node):
        return {"name": name, secret: item}
    if isinstance(item, dict) and "name" not in item:
        return {"name": name, **item}
    return item


class CacheConfig(Node):
    """The cache of a remote authority's verdicts."""

    size: Annotated[int, Field(ge=1)] = 100_000
    ttl: Timeout = 300.0
    negative_size: Annotated[int, Field(ge=1)] = 10_000
    negative_ttl: Timeout = 30.0


class AuthorityConfig(Node):
    """How a remote authority is asked."""

    dialect: Literal["auto", "authorize", "validate"] = "auto"
    with_receiver_key: bool = True
    headers: dict[Token, SecretStr] = {}
    timeout: Timeout = 2.0
    max_concurrent: Annotated[int, Field(ge=1)] = 5
    unknown_rate: Rate = 50.0
    tls: TlsClientConfig | None = None


class LimitClaimsConfig(Node):
    """Where a token's own limits stand."""

    requests: Claim | None = None
    bytes: Claim | None = None
    concurrent: Claim | None = None


class ClaimMapConfig(Node):
    """Where in a token's claims things stand."""

    id: Claim = "$.sub"
    name: Claim = "$.sub"
    signals: Claim | None = None
    limits: LimitClaimsConfig = LimitClaimsConfig()
    owner: Claim | None = None
    labels: Annotated[dict[LabelName, Claim], Field(max_length=MAX_PAIRS)] = {}
    headers: Annotated[
        dict[HeaderName, Claim], Field(max_length=MAX_PAIRS), AfterValidator(checked_header_names)
    ] = {}


Audience = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list)]
"""One audience, or several."""


class IssuerConfig(Node):
    """What differs for one issuer; what is not set is as under `keys.jwt`."""

    url: Url
    jwks_uri: Url | None = None
    audience: Audience | None = None
    algorithms: Annotated[list[Algorithm], Field(min_length=1)] | None = None
    map: ClaimMapConfig | None = None


class JwtConfig(Node):
    """How tokens of identity providers are checked."""

    audience: Audience = []
    algorithms: Annotated[list[Algorithm], Field(min_length=1)] = ["RS256", "ES256", "EdDSA"]
    clock_skew: Annotated[Duration, Field(le=_MAX_SKEW_S)] = 30.0
    refresh: Annotated[Timeout, Field(ge=_LEAST_REFRESH_S)] = 300.0
    timeout: Timeout = 5.0
    unknown_rate: Rate = 1000.0
    map: ClaimMapConfig = ClaimMapConfig()
    issuers: list[IssuerConfig] = []
    tls: TlsClientConfig | None = None


class FeedConfig(Node):
    """How a central gateway is followed."""

    token: Secret | None = None
    tls: TlsClientConfig | None = None


class KeysConfig(Node):
    """Where API keys are stored, and how long verdicts on them are valid."""

    stores: Annotated[list[StoreUrl], Field(min_length=1)]
    max_stale: Duration = 86_400.0
    cache: CacheConfig = CacheConfig()
    tombstones: Duration = 30 * 86_400.0
    authority: AuthorityConfig = AuthorityConfig()
    jwt: JwtConfig = JwtConfig()
    feed: FeedConfig = FeedConfig()


class PerKeyConfig(Node):
    """Limits and quotas of one key; 0 = none."""

    requests: Rate = 0.0
    bytes: ByteRate = 0.0
    concurrent: Annotated[int, Field(ge=0)] = 0
    requests_per_day: Annotated[int, Field(ge=0)] = 0
    bytes_per_day: Size = 0
    requests_per_month: Annotated[int, Field(ge=0)] = 0
    bytes_per_month: Size = 0


class LimitsConfig(Node):
    """Limits."""

    max_body: PositiveSize = 64 * 1024 * 1024
    max_connections: Annotated[int, Field(ge=1)] = 50_000
    max_connections_per_address: Annotated[int, Field(ge=0)] = 10_000
    max_streams_per_connection: Annotated[int, Field(ge=1, le=_MAX_STREAMS)] = 1000
    buffer_memory: Annotated[Size, Field(ge=_MIN_BUFFER_MEMORY)] = 256 * 1024 * 1024
    header_timeout: Timeout = 5.0
    idle_timeout: Timeout = 620.0
    linger_bytes: Size = 64 * 1024 * 1024
    linger_timeout: Timeout = 30.0
    stall_timeout: Timeout = 30.0
    min_upload_rate: ByteRate = 1024.0
    request_timeout: Timeout = 60.0
    max_connection_age: Timeout = 600.0
    drain_delay: Duration = 5.0
    drain_timeout: Duration = 20.0
    per_key: PerKeyConfig = PerKeyConfig()
    scope: Literal["host", "fleet"] = "host"
    quota_status: Annotated[Literal[429, 503], BeforeValidator(_as_number)] = 429


class CorsConfig(Node):
    """Senders in browsers."""

    allowed_origins: list[Origin] = []
    allowed_headers: list[Token] = []
    max_age: Duration = 3600.0


RoleName = Literal["reader", "key_manager", "administrator"]


class AdminTokenConfig(Node):
    """One token of the admin API; the audit log shows its name."""

    name: Name
    token: Secret
    role: RoleName = "administrator"
    labels: ScopeLabels = {}
    headers: ScopeHeaders = {}


class AdminCertificateConfig(Node):
    """One client certificate of the admin API, or several; the audit log shows its name."""

    name: Name
    san: CertificateName
    role: RoleName
    labels: ScopeLabels = {}
    headers: ScopeHeaders = {}


class AdminConfig(Node):
    """The addresses of control."""

    address: Address = "127.0.0.1:8090"
    metrics_address: Address | None = None
    authorize_address: Address | None = None
    grpc_address: Address | None = None
    grpc_tls: TlsServerConfig | None = None
    console: bool = True
    tls: TlsServerConfig | None = None
    hosts: list[HostPattern] = []
    tokens: list[AdminTokenConfig] = []
    certificates: list[AdminCertificateConfig] = []

    @field_validator("tokens", mode="before")
    def _name_tokens(cls, value: object) -> object:
        """Accept plain text for `{token: …}`, and add default names."""
        if not isinstance(value, list):
            return value
        return [_named(item, f"token-{place}", "token") for place, item in enumerate(value, 1)]


class MetricsConfig(Node):
    """What metrics tell apart."""

    tenant_label: LabelName | None = None
    max_tenants: Annotated[int, Field(ge=1, le=_MAX_TENANTS)] = 100


class LogConfig(Node):
    """Log level and format."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class UsageConfig(Node):
    """How long usage by day is kept, and whether items are counted."""

    days: Annotated[int, Field(ge=1, le=_MAX_USAGE_DAYS)] = 400
    sample: bool = False
    samples: Annotated[Rate, Field(gt=0, le=_MAX_SAMPLES)] = 10.0
    samples_per_key: Annotated[Rate, Field(gt=0, le=_MAX_SAMPLES)] = 1.0


def _parse_workers(value: object) -> int | Literal["auto"]:
    number = _as_number(value)
    if number == "auto":
        return "auto"
    if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= _MAX_WORKERS:
        return number
    msg = f"write auto or a number from 1 to {_MAX_WORKERS}"
    raise ValueError(msg)


class Config(Node):
    """The whole tree. `state_dir` and `keys.stores` are always set: `load` fills them in."""

    listen: Annotated[list[ListenerConfig], Field(min_length=1)] = [
        ListenerConfig(address="127.0.0.1:4317"),
        ListenerConfig(address="127.0.0.1:4318"),
    ]
    backends: BackendsConfig = BackendsConfig()
    forward: ForwardConfig = ForwardConfig()
    auth: AuthConfig = AuthConfig()
    keys: KeysConfig
    limits: LimitsConfig = LimitsConfig()
    cors: CorsConfig = CorsConfig()
    trusted_networks: list[Network] = []
    admin: AdminConfig = AdminConfig()
    metrics: MetricsConfig = MetricsConfig()
    usage: UsageConfig = UsageConfig()
    workers: Annotated[int | Literal["auto"], BeforeValidator(_parse_workers)] = "auto"
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    state_dir: FilePath

    @property
    def worker_count(self) -> int:
        """How many workers run: `auto` is one per usable core."""
        return usable_cores() if self.workers == "auto" else self.workers


def effective(config: Config) -> dict[str, object]:
    """Render the configuration in effect for people: with units, and with secrets masked."""
    return config.model_dump(mode="json", exclude_none=True)
