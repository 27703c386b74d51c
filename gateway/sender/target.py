"""Where telemetry is sent, and with what: the checked form of `gateway send`'s options."""

from __future__ import annotations

import enum
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.model import MAX_KEY_BYTES, Signal
from gateway.otlp.services import BY_HTTP_PATH, SERVICES, Service
from gateway.sender.agents import AGENT_PATHS, AgentPath


class SendProtocol(enum.StrEnum):
    """How to speak: OTLP/gRPC, OTLP/HTTP with protobuf or JSON, or as the StackState agents do."""

    GRPC = "grpc"
    HTTP = "http"
    JSON = "json"
    INTAKE = "intake"


class PlanError(Exception):
    """An option does not make sense. The text says which and what to write instead."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL, taken apart. `prefix` has no trailing slash."""

    is_tls: bool
    host: str
    port: int
    prefix: str = ""

    @property
    def authority(self) -> str:
        """host:port, with brackets around IPv6."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The base URL again."""
        return f"{'https' if self.is_tls else 'http'}://{self.authority}{self.prefix}"


@dataclass(frozen=True, slots=True)
class Tls:
    """How the server's certificate is checked."""

    ca_file: Path | None = None
    insecure_skip_verify: bool = False

    def context(self, alpn: str) -> ssl.SSLContext:
        """Make a client context that offers one protocol by ALPN.

        Raises:
            PlanError: the CA file cannot be read or holds no certificate.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            msg = f"--ca-file {self.ca_file}: {_why_unreadable(error)}"
            raise PlanError(msg) from error
        if self.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([alpn])
        return context


def _why_unreadable(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "holds no certificate in PEM form"
    return (error.strerror or str(error)).lower()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, where to and how."""

    endpoint: Endpoint
    protocol: SendProtocol
    signals: tuple[Signal, ...]
    key: str | None = field(default=None, repr=False)
    scheme: str = "StackState"
    compression: str = "none"
    count: int = 1
    """Requests per signal."""
    timeout_s: float = 10.0
    tls: Tls = Tls()

    @property
    def services(self) -> tuple[Service | AgentPath, ...]:
        """What each round consists of: one request to each of these."""
        if self.protocol is SendProtocol.INTAKE:
            return AGENT_PATHS
        return tuple(SERVICES[signal] for signal in self.signals)

    @property
    def authorization(self) -> str | None:
        """The Authorization header, or None without a key."""
        return None if self.key is None else f"{self.scheme} {self.key}"


_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def parse_endpoint(text: str, protocol: SendProtocol) -> Endpoint:
    """Take a base URL apart.

    Raises:
        PlanError: it is no http:// or https:// URL, or holds what a base URL must not.
    """
    if "://" not in text:
        msg = f"--endpoint needs a scheme: write http://{text}, or https://{text} for TLS"
        raise PlanError(msg)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        msg = f"--endpoint {text!r} is not a URL: {error}"
        raise PlanError(msg) from error
    if parts.scheme not in _DEFAULT_PORTS or not host:
        msg = f"--endpoint {text!r} is not a URL like http://127.0.0.1:4317 or https://host:443"
        raise PlanError(msg)
    if parts.query or parts.fragment or parts.username is not None:
        msg = "--endpoint takes no user, query or fragment: pass the key with --key-file"
        raise PlanError(msg)
    prefix = parts.path.rstrip("/")
    _check_prefix(prefix, protocol)
    return Endpoint(parts.scheme == "https", host, port or _DEFAULT_PORTS[parts.scheme], prefix)


def _check_prefix(prefix: str, protocol: SendProtocol) -> None:
    if protocol is SendProtocol.GRPC and prefix:
        msg = f"--endpoint: gRPC has no path, leave {prefix!r} out, or use --protocol http"
        raise PlanError(msg)
    own = tuple(path.http_path for path in AGENT_PATHS)
    for path in own if protocol is SendProtocol.INTAKE else BY_HTTP_PATH:
        if prefix.endswith(path):
            msg = f"--endpoint takes the base URL: leave {path!r} out, it is added"
            raise PlanError(msg)


def check_key(key: str, source: str) -> str:
    """Check that a key can stand in a header; surrounding white space is dropped.

    Raises:
        PlanError: it is empty, too long, or has characters that no key has.
    """
    key = key.strip()
    if not key:
        msg = f"{source} holds no key"
        raise PlanError(msg)
    if not (key.isascii() and key.isprintable()) or " " in key:
        msg = f"{source}: a key has only visible ASCII characters, and stands alone"
        raise PlanError(msg)
    if len(key) > MAX_KEY_BYTES:
        msg = f"{source}: a key has at most {MAX_KEY_BYTES} characters"
        raise PlanError(msg)
    return key
