"""The report on one request: its data, its JSON line and its line of text.

Credentials are masked here, so that no other module has to do it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote

from gateway.model import Protocol, Signal
from gateway.otlp.services import SERVICES
from gateway.otlp.text import printable

KEY_ID_HEADER: Final = "x-gateway-key-id"
_LONGEST_ERROR: Final = 300
KEY_NAME_HEADER: Final = "x-gateway-key-name"

_SCHEME_HEADERS: Final = frozenset({"authorization", "proxy-authorization"})
_SECRET_HEADERS: Final = frozenset(
    {"sts-api-key", "dd-api-key", "api-key", "x-api-key", "x-api-token", "cookie"}
)
_SECRET_QUERY: Final = re.compile(r"(?i)([?&](?:api_key|token)=)[^&]*")


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request and its response. `bytes` and `sha256` are of the message as received.

    That is the HTTP body, or the gRPC message without its five-byte prefix; still compressed.
    """

    time: datetime
    protocol: Protocol
    path: str
    signal: Signal | None
    """None if the path has no signal."""
    services: tuple[str, ...]
    items: int
    bytes: int
    encoding: str
    content_type: str
    headers: dict[str, str]
    """By lower-case name; repeated headers joined by a comma, credentials masked."""
    sha256: str
    peer: str
    answer: str
    """The response: gRPC's name of the code, or the HTTP status."""
    error: str = ""
    """Why the request was not accepted; empty if it was."""
    summary: str = ""
    """Description of an agent's request; empty for OTLP."""

    @property
    def key_id(self) -> str:
        """Id of the key, as the gateway forwarded it (`forward.identity_headers`), or empty."""
        return self.headers.get(KEY_ID_HEADER, "")

    @property
    def key_name(self) -> str:
        """Name of the key, as the gateway forwarded it (percent-encoded), or empty."""
        return unquote(self.headers.get(KEY_NAME_HEADER, ""))

    @property
    def contents(self) -> str:
        """Description of the contents: `3 spans`."""
        if self.signal is None or self.signal is Signal.INTAKE:
            return printable(self.summary)
        return SERVICES[self.signal].count(self.items)

    @property
    def unnamed(self) -> str:
        """Shown in place of missing service names: for agents, the path."""
        if self.signal is Signal.INTAKE:
            return printable(self.path.partition("?")[0])
        return "(no service.name)"

    @property
    def shown_error(self) -> str:
        """The error for a line of text: it may quote the sender."""
        return printable(self.error, _LONGEST_ERROR)

    def to_json(self) -> str:
        """Format as one line of JSON, plain ASCII."""
        return json.dumps(
            {
                "time": f"{self.time.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
                "protocol": self.protocol,
                "path": self.path,
                "signal": self.signal,
                "services": self.services,
                "items": self.items,
                "bytes": self.bytes,
                "encoding": self.encoding,
                "content_type": self.content_type,
                "headers": self.headers,
                "sha256": self.sha256,
                "peer": self.peer,
                "answer": self.answer,
                "error": self.error or None,
                **({"summary": self.summary} if self.protocol is Protocol.INTAKE else {}),
            }
        )

    def to_line(self) -> str:
        """Format as one line of text, in local time, without control characters."""
        clock = f"{self.time.astimezone():%H:%M:%S}"
        if self.error or self.signal is None:
            request = f"{self.protocol} {printable(self.path)} from {self.peer}"
            return f"{clock} not accepted: {request}: {self.answer}, {self.shown_error}"
        parts = [
            f"{clock} {self.signal}",
            ", ".join(printable(name) for name in self.services) or self.unnamed,
            self.contents,
            f"{self.bytes} bytes {printable(self.encoding)}",
            f"{self.protocol} {printable(self.content_type)}",
        ]
        if self.key_id or self.key_name:
            parts.append(f"key {printable(self.key_name or '-')} ({printable(self.key_id)})")
        return "  ".join(parts)


def masked_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join repeated headers and mask credentials."""
    masked: dict[str, str] = {}
    for name, value in headers:
        shown = _masked(name, value)
        masked[name] = f"{masked[name]}, {shown}" if name in masked else shown
    return masked


def masked_path(path: str) -> str:
    """Mask a key in a path's query."""
    return _SECRET_QUERY.sub(r"\1***", path)


def _masked(name: str, value: str) -> str:
    """Mask a credential, except for its scheme and eight hex digits of its digest.

    The gateway's logs show the same digits, so that the key can be identified.
    """
    if name in _SECRET_HEADERS:
        return _digest_mark(value)
    if name not in _SCHEME_HEADERS:
        return value
    scheme, space, credential = value.partition(" ")
    return f"{scheme} {_digest_mark(credential.strip())}" if space else _digest_mark(value)


def _digest_mark(secret: str) -> str:
    return f"*** (sha256 {hashlib.sha256(secret.encode('latin-1', 'replace')).hexdigest()[:8]})"
