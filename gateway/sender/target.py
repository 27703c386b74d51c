"""The target and the plan of a run: the validated form of `gateway send`'s options."""

from __future__ import annotations

import enum
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.model import MAX_KEY_BYTES, MAX_TOKEN_BYTES, Signal
from gateway.otlp.services import BY_HTTP_PATH, SERVICES, Service
from gateway.sender.agents import AGENT_PATHS, AgentPath


class SendProtocol(enum.StrEnum):
    """OTLP/gRPC, OTLP/HTTP with protobuf or JSON, or the StackState agents' intake."""

    GRPC = "grpc"
    HTTP = "http"
    JSON = "json"
    INTAKE = "intake"


class PlanError(Exception):
    """An option is invalid. The text says which one and how to fix it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The parts of a base URL. `prefix` has no trailing slash."""

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
        """The base URL."""
        return f"{'https' if self.is_tls else 'http'}://{self.authority}{self.prefix}"


@dataclass(frozen=True, slots=True)
class Tls:
    """How to verify the server's certificate, and which one of our own it gets."""

    ca_file: Path | None = None
    insecure_skip_verify: bool = False
    cert_file: Path | None = None
    key_file: Path | None = None
    """None: the key is in `cert_file`, too."""

    def context(self, alpn: str) -> ssl.SSLContext:
        """Create a client context that offers one protocol by ALPN.

        Raises:
            PlanError: the CA file or our own certificate cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            msg = f"--ca-file {self.ca_file}: {_why_unreadable(error)}"
            raise PlanError(msg) from error
        if self.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert_file is not None:
            _load_own(context, self.cert_file, self.key_file)
        context.set_alpn_protocols([alpn])
        return context


def _load_own(context: ssl.SSLContext, cert_file: Path, key_file: Path | None) -> None:
    try:
        context.load_cert_chain(cert_file, key_file, password=_no_passphrase)
    except (OSError, ValueError) as error:
        names = f"--client-cert-file {cert_file}"
        if key_file is not None:
            names += f", --client-key-file {key_file}"
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            msg = f"{names}: {(error.strerror or str(error)).lower()}"
        else:
            msg = f"{names}: give a PEM certificate, and its own PEM key without a passphrase"
        raise PlanError(msg) from error


def _no_passphrase() -> str:
    msg = "the key has a passphrase"
    raise ValueError(msg)


def _why_unreadable(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "contains no certificate in PEM format"
    return (error.strerror or str(error)).lower()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, where and how."""

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
        """The services of a round: each gets one request."""
        if self.protocol is SendProtocol.INTAKE:
            return AGENT_PATHS
        return tuple(SERVICES[signal] for signal in self.signals)

    @property
    def authorization(self) -> str | None:
        """The Authorization header, or None if there is no key."""
        return None if self.key is None else f"{self.scheme} {self.key}"


_DOTS_OF_A_TOKEN: Final = 2
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def parse_endpoint(text: str, protocol: SendProtocol) -> Endpoint:
    """Parse a base URL.

    Raises:
        PlanError: it is not an http:// or https:// URL, or has parts that a base URL must not have.
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
        msg = "--endpoint must not have a user, query or fragment: pass the key with --key-file"
        raise PlanError(msg)
    prefix = parts.path.rstrip("/")
    _check_prefix(prefix, protocol)
    return Endpoint(parts.scheme == "https", host, port or _DEFAULT_PORTS[parts.scheme], prefix)


def _check_prefix(prefix: str, protocol: SendProtocol) -> None:
    if protocol is SendProtocol.GRPC and prefix:
        msg = f"--endpoint: gRPC has no path: remove {prefix!r}, or use --protocol http"
        raise PlanError(msg)
    own = tuple(path.http_path for path in AGENT_PATHS)
    for path in own if protocol is SendProtocol.INTAKE else BY_HTTP_PATH:
        if prefix.endswith(path):
            msg = f"--endpoint must be the base URL: remove {path!r}, which is appended"
            raise PlanError(msg)


def check_key(key: str, source: str) -> str:
    """Check that a key is valid in a header; surrounding white space is removed.

    Raises:
        PlanError: the key is empty, too long, or has invalid characters.
    """
    key = key.strip()
    if not key:
        msg = f"{source} contains no API key"
        raise PlanError(msg)
    if not (key.isascii() and key.isprintable()) or " " in key:
        msg = f"{source} must contain one API key, which has only visible ASCII characters"
        raise PlanError(msg)
    is_token = key.count(".") == _DOTS_OF_A_TOKEN
    longest = MAX_TOKEN_BYTES if is_token else MAX_KEY_BYTES
    if len(key) > longest:
        msg = (
            f"{source}: {'a token' if is_token else 'an API key'} has at most {longest} characters"
        )
        raise PlanError(msg)
    return key
