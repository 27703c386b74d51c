"""Structured values: addresses, URLs, files, stores, keys, HTTP tokens.

Each parser takes the text in the file and returns the value that the program uses, or raises
`ValueError` with a text that says how to write it. `checks` checks how values fit together.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
)

from gateway.config.postgresql_url import check_postgresql_url
from gateway.keys.api_key import ApiKey

_MAX_PORT: Final = 65535
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_URL_PATH: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*/?")

_ADDRESS_HELP: Final = (
    "write HOST:PORT, such as 127.0.0.1:4317 or [::1]:4317, or :4317 for all addresses"
)


def split_address(address: str) -> tuple[str, int]:
    """Split `HOST:PORT` or `[IPv6]:PORT` into host (without brackets) and port.

    An empty host means all addresses, port 0 any free port. Raises `ValueError` that says how to
    write it.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        raise ValueError(_ADDRESS_HELP)
    if int(port) > _MAX_PORT:
        msg = f"a port is a number from 0 to {_MAX_PORT}"
        raise ValueError(msg)
    return _check_host(host) if host else "", int(port)


def _check_host(host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        return str(_ipv6(host[1:-1]))
    if ":" in host:
        msg = f"put brackets around an IPv6 address: [{host}]"
        raise ValueError(msg)
    if not _HOST.fullmatch(host):
        raise ValueError(_ADDRESS_HELP)
    return host.lower()


def _ipv6(text: str) -> ipaddress.IPv6Address:
    try:
        return ipaddress.IPv6Address(text)
    except ValueError:
        msg = "invalid IPv6 address"
        raise ValueError(msg) from None


def join_address(host: str, port: int) -> str:
    """Write host and port as `split_address` reads them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _canonical_address(address: str) -> str:
    return join_address(*split_address(address))


Address = Annotated[str, AfterValidator(_canonical_address)]
"""`HOST:PORT`, in one canonical form."""


def split_url(url: str) -> SplitResult:
    """Check a backend's URL and split it; raise `ValueError` that says how to write it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        msg = f"invalid URL: {_URL_HELP}; a port is a number from 1 to {_MAX_PORT}"
        raise ValueError(msg) from None
    if parts.scheme not in {"http", "https"} or not url.startswith(f"{parts.scheme}://"):
        raise ValueError(_URL_HELP)
    if not parts.hostname or (":" not in parts.hostname and not _HOST.fullmatch(parts.hostname)):
        msg = "the URL has no host: write http://HOST:PORT"
        raise ValueError(msg)
    if port == 0:
        msg = f"a port is a number from 1 to {_MAX_PORT}"
        raise ValueError(msg)
    _check_url_rest(parts)
    return parts


_URL_HELP: Final = "write http://HOST:PORT (cleartext) or https://HOST:PORT (TLS)"


def _check_url_rest(parts: SplitResult) -> None:
    if "@" in parts.netloc:
        msg = "the URL must not contain a user or password: set the credential with forward.key"
        raise ValueError(msg)
    if parts.query or parts.fragment:
        msg = "the URL must not contain '?' or '#': remove everything after the path"
        raise ValueError(msg)
    segments = parts.path.split("/")
    if not _URL_PATH.fullmatch(parts.path) or "." in segments or ".." in segments:
        msg = "the URL's path must be a plain prefix: write it as in https://host/some/prefix"
        raise ValueError(msg)


def _checked_url(url: str) -> str:
    split_url(url)
    return url


Url = Annotated[str, AfterValidator(_checked_url)]
"""`http://` or `https://`, host, optionally a port, optionally a path as prefix."""


def port_of(parts: SplitResult) -> int:
    """Return a URL's port; by default its scheme's (80, 443)."""
    return parts.port or (443 if parts.scheme == "https" else 80)


def _checked_authority(host: str) -> str:
    name, _, port = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "0")
    _check_host(name)
    if int(port) > _MAX_PORT:
        msg = f"a port is a number from 0 to {_MAX_PORT}"
        raise ValueError(msg)
    return host


Authority = Annotated[str, AfterValidator(_checked_authority)]

_CERTIFICATE_NAME: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://[A-Za-z0-9._~*%:@/-]+|[A-Za-z0-9*_]([A-Za-z0-9._*-]*[A-Za-z0-9*_])?"
)


def _checked_certificate_name(value: str) -> str:
    if not _CERTIFICATE_NAME.fullmatch(value) or not value.strip("*./"):
        msg = (
            "write a name in the certificate's subjectAltName: a host name such as "
            "ops.example.com, or a URI such as spiffe://example.com/ops; * stands for one part"
        )
        raise ValueError(msg)
    return value


CertificateName = Annotated[str, AfterValidator(_checked_certificate_name)]
"""A host name or URI in a certificate, where `*` stands for one part."""

_HOST_PATTERN: Final = re.compile(r"\*|(\*\.)?[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?")


def _checked_host_pattern(value: str) -> str:
    name = value.lower().removesuffix(".")
    if not _HOST_PATTERN.fullmatch(name):
        msg = (
            "write a host name without a port, such as gateway.example.com, *.example.com for all"
            " names below it, or * for every name"
        )
        raise ValueError(msg)
    return name


HostPattern = Annotated[str, AfterValidator(_checked_host_pattern)]
"""A host name, `*.PARENT` or `*`; lower case."""
"""`HOST` or `HOST:PORT`, as in the Host header."""


def expand(path: str | Path, folder: Path) -> Path:
    """Resolve `~`, and resolve a relative path against `folder`, the configuration's directory.

    Raises `ValueError` if there is no such home directory.
    """
    try:
        return folder / Path(path).expanduser()
    except RuntimeError:
        msg = "'~' cannot be resolved, because there is no home directory: write the whole path"
        raise ValueError(msg) from None


def _beside(path: Path, info: ValidationInfo) -> Path:
    return expand(path, info.context["folder"] if info.context else Path())


def _file_text(value: object) -> object:
    if value == "":
        msg = "the path is empty: set the path of a file"
        raise ValueError(msg)
    return value


FilePath = Annotated[
    Path,
    BeforeValidator(_file_text),
    AfterValidator(_beside),
    PlainSerializer(str, return_type=str, when_used="json"),
]
"""A path; relative paths are relative to the configuration file's directory."""


@dataclass(frozen=True, slots=True)
class Store:
    """Where API keys are stored."""

    kind: Literal["sqlite", "postgresql", "file", "authority", "jwt", "gateway"]
    path: Path = Path()
    """The SQLite file; a file store's file or directory."""
    url: str = field(default="", repr=False)
    """The URL of PostgreSQL, which may contain a password, of an authority, an issuer or a
    gateway."""

    @property
    def address(self) -> str:
        """HOST:PORT of a gateway."""
        return self.url.partition("://")[2]

    @property
    def is_tls(self) -> bool:
        """Whether a gateway is asked over TLS."""
        return self.url.startswith("grpcs://")

    def __str__(self) -> str:
        """Write it as in the configuration, without a password and parameters."""
        if self.kind in {"authority", "jwt", "gateway"}:
            return f"{self.kind}+{self.url}"
        if self.kind != "postgresql":
            return f"{self.kind}://{self.path}"
        parts = urlsplit(self.url)
        user, at, host = parts.netloc.rpartition("@")
        host = host or dict(parse_qsl(parts.query)).get("host", "")
        return f"postgresql://{user.partition(':')[0]}{at}{host}{parts.path}"


_STORE_HELP: Final = (
    "write sqlite:///absolute/path/keys.db, postgresql://user@host/database, "
    "file:///absolute/path/keys.yaml, gateway+grpcs://host:port, authority+https://host/path "
    "or jwt+https://issuer"
)


def parse_store(value: object) -> Store:  # noqa: PLR0911 - one return for each kind
    """Parse a store's URL, such as `sqlite:///var/lib/otlp-gateway/keys.db`.

    Raises `ValueError` that says how to write it.
    """
    if isinstance(value, Store):
        return value
    if not isinstance(value, str):
        raise ValueError(_STORE_HELP)  # noqa: TRY004 - pydantic collects ValueErrors only
    kind, colon, rest = value.partition("://")
    match kind if colon else "":
        case "sqlite":
            return Store("sqlite", _sqlite_path(rest))
        case "file":
            return Store("file", _store_path(rest, "file:///absolute/path/keys.yaml"))
        case "postgresql" | "postgres":
            return Store("postgresql", url=check_postgresql_url(f"postgresql://{rest}"))
        case "authority+http" | "authority+https":
            return Store("authority", url=_authority_url(value.removeprefix("authority+")))
        case "jwt+http" | "jwt+https":
            return Store("jwt", url=_issuer_url(value.removeprefix("jwt+")))
        case "gateway+grpc" | "gateway+grpcs":
            scheme = kind.removeprefix("gateway+")
            return Store("gateway", url=f"{scheme}://{_gateway_address(rest)}")
        case _:
            msg = _WRONG_KINDS.get(kind) or f"unknown type of store: {_STORE_HELP}"
            raise ValueError(msg)


_GATEWAY_HELP: Final = (
    "write gateway+grpcs://HOST:PORT, the admin.grpc_address of the central gateway, or "
    "gateway+grpc://HOST:PORT for cleartext"
)


_WRONG_KINDS: Final = {
    "authority": "the protocol is missing: write authority+https://host/path",
    "jwt": "the protocol is missing: write jwt+https://issuer",
    "postgresql+asyncpg": "remove '+asyncpg': write postgresql://user@host/database",
    "postgres+asyncpg": "remove '+asyncpg': write postgresql://user@host/database",
    "gateway": f"the protocol is missing: {_GATEWAY_HELP}",
    "gateway+https": f"the protocol is gRPC: {_GATEWAY_HELP}",
    "gateway+http": f"the protocol is gRPC: {_GATEWAY_HELP}",
}
"""What is written by mistake → how to write it."""


def _gateway_address(text: str) -> str:
    if "@" in text:
        msg = "the URL must not contain a user: set the admin token with keys.feed.token"
        raise ValueError(msg)
    try:
        host, port = split_address(text.removesuffix("/"))
    except ValueError:
        raise ValueError(_GATEWAY_HELP) from None
    if not host or not port:
        raise ValueError(_GATEWAY_HELP)
    return join_address(host, port)


def _sqlite_path(text: str) -> Path:
    path = _store_path(text, "sqlite:///absolute/path/keys.db")
    if path.parent == Path("/"):
        msg = "the file must not be directly in /: write sqlite:///absolute/path/keys.db"
        raise ValueError(msg)
    return path


def _store_path(text: str, form: str) -> Path:
    # Users of other software write an absolute path with four slashes, everyone else with three.
    path = Path("/" + text.lstrip("/"))
    if not text.startswith("/") or path == Path("/"):
        msg = f"the path is not absolute: write {form}"
        raise ValueError(msg)
    if set("?#%") & set(text):
        msg = "the path must not contain '?', '#' or '%': choose another name"
        raise ValueError(msg)
    return path


def _authority_url(url: str) -> str:
    if "@" in url.partition("://")[2].partition("/")[0]:
        msg = "the URL must not contain a user: set credentials with keys.authority.headers"
        raise ValueError(msg)
    parts = split_url(url)
    if parts.path in {"", "/"}:
        msg = (
            "the URL has no path: write .../internal/api/security/ingestion/authorize or "
            ".../stsAgent/api/v1/validate"
        )
        raise ValueError(msg)
    return url


def _issuer_url(url: str) -> str:
    if "@" in url.partition("://")[2].partition("/")[0]:
        msg = "the URL must not contain a user: write the issuer as it stands in tokens ('iss')"
        raise ValueError(msg)
    split_url(url)
    return url


StoreUrl = Annotated[
    Store,
    PlainValidator(parse_store),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(sqlite|file|postgres(ql)?|authority\+https?)://|\$\{",
            "examples": [
                "sqlite:///var/lib/otlp-gateway/keys.db",
                "postgresql://user@host/database",
            ],
        }
    ),
]
"""A key store."""


def _checked_secret(secret: SecretStr) -> SecretStr:
    ApiKey.adopt(secret.get_secret_value())
    return secret


Secret = Annotated[SecretStr, AfterValidator(_checked_secret)]
"""An API key or token: 1 to 512 visible ASCII characters; masked wherever it is printed."""


def _checked_token(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        msg = "must be one word of letters, digits and - (a token as in RFC 9110 §5.6.2)"
        raise ValueError(msg)
    return value


Token = Annotated[str, AfterValidator(_checked_token)]
"""A scheme's or header's name (RFC 9110 §5.6.2)."""


_NEEDED: Final = re.compile(
    r"(?:content|grpc)[-_].*|accept|connection|host|te|transfer[-_]encoding", re.IGNORECASE
)
_KEY_CARRIERS: Final = re.compile(r"authorization|(?:sts|dd)[-_]api[-_]key", re.IGNORECASE)


def _checked_dropped_field(value: str) -> str:
    if _NEEDED.fullmatch(_checked_token(value)):
        msg = "cannot be dropped: the backend needs this header to read the request"
        raise ValueError(msg)
    if _KEY_CARRIERS.fullmatch(value):
        msg = "carries the API key: set forward.key to decide which key the backend gets"
        raise ValueError(msg)
    return value


DroppedField = Annotated[str, AfterValidator(_checked_dropped_field)]
"""A header of senders that no backend gets."""


def _canonical_network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        msg = "write a network such as 10.0.0.0/8 or fd00::/8, without bits after the prefix length"
        raise ValueError(msg) from None


Network = Annotated[str, AfterValidator(_canonical_network)]
"""An IP network in CIDR notation, or one address."""


def _checked_origin(value: str) -> str:
    parts = urlsplit(value)
    plain = f"{parts.scheme}://{parts.netloc}"
    if value != "*" and (value != plain or parts.scheme not in {"http", "https"}):
        msg = "write an origin such as https://app.example.com, or '*' for all"
        raise ValueError(msg)
    return value


Origin = Annotated[str, AfterValidator(_checked_origin)]
"""A browser's origin (RFC 6454), or `*`."""
