"""The configuration's tree: every key, its type and its default. Unknown keys are faults.

What stands here is one key's own business; how keys must agree with each other stands in `checks`.
Times are seconds and sizes bytes (`units`), whatever the file wrote.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator

from gateway.config.cores import usable_cores
from gateway.config.units import ByteRate, Duration, PositiveSize, Rate, Size, Timeout
from gateway.config.values import (
    Address,
    Authority,
    FilePath,
    Network,
    Origin,
    Secret,
    StoreUrl,
    Token,
    Url,
)

_MAX_WORKERS = 1024
_MAX_STREAMS = 2**31 - 1
_MIN_BUFFER_MEMORY = 1024 * 1024


def _as_text(value: object) -> object:
    """Let a number stand for its digits: YAML reads an unquoted 1.2 or 503 as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_number(value: object) -> object:
    """Let digits stand for their number: what comes from the environment is text."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


class Node(BaseModel):
    """A mapping of the tree."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TlsServer(Node):
    """TLS on a listener or on the admin addresses."""

    cert_file: FilePath
    key_file: FilePath
    client_ca_file: FilePath | None = None
    min_version: Annotated[Literal["1.2", "1.3"], BeforeValidator(_as_text)] = "1.2"


class TlsClient(Node):
    """TLS towards a backend or a remote authority."""

    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    server_name: str | None = None
    insecure_skip_verify: bool = False


class Listener(Node):
    """One listening address."""

    address: Address
    tls: TlsServer | None = None
    proxy_protocol: bool = False


class Backend(Node):
    """One kind of backend."""

    urls: Annotated[list[Url], Field(min_length=1)]
    tls: TlsClient | None = None
    connect_timeout: Timeout = 2.0
    min_connections: Annotated[int, Field(ge=0)] = 1
    max_connections: Annotated[int, Field(ge=1)] | None = None
    max_waiting: Annotated[int, Field(ge=0)] = 1000
    host: Authority | None = None

    default_connections: ClassVar[int] = 8
    """Over HTTP/2 one connection carries as many requests as the backend allows streams."""

    @property
    def connection_limit(self) -> int:
        """`max_connections`, or the default of this kind of backend."""
        return self.max_connections or self.default_connections


class HttpBackend(Backend):
    """A backend over HTTP/1.1, where each request in flight has a connection of its own."""

    default_connections: ClassVar[int] = 256


class IntakeBackend(HttpBackend):
    """The agents' receiver."""

    path: Literal["receiver", "router"] = "receiver"
    no_answer: Annotated[Literal["close", "503"], BeforeValidator(_as_text)] = "close"
    service_bearer: Literal["refuse", "forward"] = "refuse"
    max_body: dict[str, PositiveSize] = {"/support/flare": 512 * 1024 * 1024}


class Backends(Node):
    """Where requests go, by kind."""

    otlp_grpc: Backend | None = None
    otlp_http: HttpBackend | None = None
    intake: IntakeBackend | None = None


class Forward(Node):
    """Which credential the backend sees."""

    key: Literal["client", "gateway", "none"] = "client"
    gateway_key: Secret | None = None
    scheme: Token = "StackState"
    identity_headers: bool = False


Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""What people call a secret by."""


class ReceiverKey(Node):
    """One of the operators' static keys; its id is `static:NAME`."""

    name: Name
    key: Secret


class Auth(Node):
    """How callers present keys, and the operators' static ones."""

    schemes: Annotated[list[Token], Field(min_length=1)] = [
        "StackState",
        "SUSEObservability",
        "SUSE-Observability",
    ]
    receiver_keys: list[ReceiverKey] = []

    @field_validator("receiver_keys", mode="before")
    def _name_receiver_keys(cls, value: object) -> object:
        """Let plain text stand for `{key: …}`, and give names where none are written."""
        if not isinstance(value, list):
            return value
        return [_named(item, f"receiver-{place}", "key") for place, item in enumerate(value, 1)]


def _named(item: object, name: str, secret: str) -> object:
    """Let a secret alone stand for one with a name."""
    if not isinstance(item, dict | Node):
        return {"name": name, secret: item}
    if isinstance(item, dict) and "name" not in item:
        return {"name": name, **item}
    return item


class Cache(Node):
    """Answers of a remote authority that are kept."""

    size: Annotated[int, Field(ge=1)] = 100_000
    ttl: Timeout = 300.0
    negative_size: Annotated[int, Field(ge=1)] = 10_000
    negative_ttl: Timeout = 30.0


class Authority_(Node):  # noqa: N801 - `values.Authority` is the part of a url
    """How a remote authority is asked."""

    dialect: Literal["auto", "authorize", "validate"] = "auto"
    with_receiver_key: bool = True
    headers: dict[Token, SecretStr] = {}
    timeout: Timeout = 2.0
    max_concurrent: Annotated[int, Field(ge=1)] = 5
    unknown_rate: Rate = 50.0
    tls: TlsClient | None = None


class Keys(Node):
    """Where keys live, and how long answers about them hold."""

    stores: Annotated[list[StoreUrl], Field(min_length=1)]
    max_stale: Duration = 86_400.0
    cache: Cache = Cache()
    tombstones: Duration = 30 * 86_400.0
    authority: Authority_ = Authority_()


class PerKey(Node):
    """Quota of one key on this host; 0 = none."""

    requests: Rate = 0.0
    bytes: ByteRate = 0.0
    concurrent: Annotated[int, Field(ge=0)] = 0


class Limits(Node):
    """Bounds."""

    max_body: PositiveSize = 64 * 1024 * 1024
    max_connections: Annotated[int, Field(ge=1)] = 50_000
    max_streams_per_connection: Annotated[int, Field(ge=1, le=_MAX_STREAMS)] = 1000
    buffer_memory: Annotated[Size, Field(ge=_MIN_BUFFER_MEMORY)] = 256 * 1024 * 1024
    header_timeout: Timeout = 5.0
    idle_timeout: Timeout = 300.0
    linger_bytes: Size = 64 * 1024 * 1024
    linger_timeout: Timeout = 30.0
    stall_timeout: Timeout = 30.0
    request_timeout: Timeout = 60.0
    max_connection_age: Timeout = 600.0
    drain_delay: Duration = 5.0
    drain_timeout: Duration = 20.0
    per_key: PerKey = PerKey()
    quota_status: Annotated[Literal[429, 503], BeforeValidator(_as_number)] = 429


class Cors(Node):
    """Browsers' senders."""

    allowed_origins: list[Origin] = []
    allowed_headers: list[Token] = []
    max_age: Duration = 3600.0


class AdminToken(Node):
    """One token of the admin API; the audit log calls whoever uses it by its name."""

    name: Name
    token: Secret


class Admin(Node):
    """The addresses of control."""

    address: Address = "127.0.0.1:8090"
    metrics_address: Address | None = None
    authorize_address: Address | None = None
    tls: TlsServer | None = None
    tokens: list[AdminToken] = []

    @field_validator("tokens", mode="before")
    def _name_tokens(cls, value: object) -> object:
        """Let plain text stand for `{token: …}`, and give names where none are written."""
        if not isinstance(value, list):
            return value
        return [_named(item, f"token-{place}", "token") for place, item in enumerate(value, 1)]


class Log(Node):
    """What is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


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

    listen: Annotated[list[Listener], Field(min_length=1)] = [
        Listener(address="127.0.0.1:4317"),
        Listener(address="127.0.0.1:4318"),
    ]
    backends: Backends = Backends()
    forward: Forward = Forward()
    auth: Auth = Auth()
    keys: Keys
    limits: Limits = Limits()
    cors: Cors = Cors()
    trusted_networks: list[Network] = []
    admin: Admin = Admin()
    workers: Annotated[int | Literal["auto"], BeforeValidator(_parse_workers)] = "auto"
    log: Log = Log()
    state_dir: FilePath

    @property
    def worker_count(self) -> int:
        """How many workers run: `auto` is one per usable core."""
        return usable_cores() if self.workers == "auto" else self.workers


def effective(config: Config) -> dict[str, object]:
    """Render the configuration as it is in force, for people: units written out, secrets masked."""
    return config.model_dump(mode="json", exclude_none=True)
