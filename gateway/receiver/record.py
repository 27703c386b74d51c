"""What is told of one request: the record, its JSON line and its line for people.

Credentials are masked here, so that no other place has to think of it.
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
KEY_NAME_HEADER: Final = "x-gateway-key-name"

_SCHEME_HEADERS: Final = frozenset({"authorization", "proxy-authorization"})
_SECRET_HEADERS: Final = frozenset(
    {"sts-api-key", "dd-api-key", "api-key", "x-api-key", "x-api-token", "cookie"}
)
_SECRET_QUERY: Final = re.compile(r"(?i)([?&](?:api_key|token)=)[^&]*")


@dataclass(frozen=True, slots=True)
class Record:
    """One request and how it was answered. `bytes` and `sha256` are of the message as it came.

    That is the HTTP body, or the gRPC message without its five-byte prefix; still compressed.
    """

    time: datetime
    protocol: Protocol
    path: str
    signal: Signal | None
    """None when the path names no signal."""
    services: tuple[str, ...]
    items: int
    bytes: int
    encoding: str
    content_type: str
    headers: dict[str, str]
    """By lower-case name, repeated ones joined by a comma, credentials masked."""
    sha256: str
    peer: str
    answer: str
    """gRPC's name of the code, or the HTTP status."""
    error: str = ""
    """Why it was not accepted; empty when it was."""
    summary: str = ""
    """What an agent's request holds, in words; empty for OTLP."""

    @property
    def key_id(self) -> str:
        """Id of the key as the gateway passed it on (`forward.identity_headers`), or empty."""
        return self.headers.get(KEY_ID_HEADER, "")

    @property
    def key_name(self) -> str:
        """Name of the key as the gateway passed it on, or empty. It travels percent-encoded."""
        return unquote(self.headers.get(KEY_NAME_HEADER, ""))

    @property
    def contents(self) -> str:
        """What it holds, in words: `3 spans`."""
        if self.signal is None or self.signal is Signal.INTAKE:
            return printable(self.summary)
        return SERVICES[self.signal].count(self.items)

    @property
    def unnamed(self) -> str:
        """What stands where services have no name: an agent has a path."""
        if self.signal is Signal.INTAKE:
            return printable(self.path.partition("?")[0])
        return "(no service.name)"

    def to_json(self) -> str:
        """Write the record as one line of JSON, plain ASCII."""
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
        """Write the record as one line for people, in local time, without control characters."""
        clock = f"{self.time.astimezone():%H:%M:%S}"
        if self.error or self.signal is None:
            request = f"{self.protocol} {printable(self.path)} from {self.peer}"
            return f"{clock} not accepted: {request}: {self.answer}, {self.error}"
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
    """Mask a credential, leaving its scheme and eight hex digits of its digest.

    The gateway's logs show the same digits: so one can see which key came through.
    """
    if name in _SECRET_HEADERS:
        return _digest_mark(value)
    if name not in _SCHEME_HEADERS:
        return value
    scheme, space, credential = value.partition(" ")
    return f"{scheme} {_digest_mark(credential.strip())}" if space else _digest_mark(value)


def _digest_mark(secret: str) -> str:
    return f"*** (sha256 {hashlib.sha256(secret.encode('latin-1', 'replace')).hexdigest()[:8]})"
