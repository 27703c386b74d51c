"""What a test backend records of a request, and what it is told to answer.

Plain data for `sink` and its two protocol sides. Bytes are kept exactly as they came: nothing here
decompresses or decodes (that is `decode`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

GRPC = "application/grpc"
PROTOBUF = "application/x-protobuf"
JSON = "application/json"

Fields = tuple[tuple[str, str], ...]
"""Header or trailer fields in the order of the wire, names in lower case."""

_PREFIX_BYTES = 5


class FramingError(Exception):
    """A gRPC body is not a sequence of whole length-prefixed messages."""


@dataclass(frozen=True, slots=True)
class GrpcMessage:
    """One length-prefixed message (gRPC over HTTP/2, "Length-Prefixed-Message")."""

    compressed: bool
    data: bytes

    def to_bytes(self) -> bytes:
        """Return the message with its prefix."""
        return bytes([self.compressed]) + len(self.data).to_bytes(4, "big") + self.data


def split_messages(body: bytes) -> tuple[GrpcMessage, ...]:
    """Return the messages of a gRPC body.

    Raises:
        FramingError: a flag other than 0 and 1, or a message that is cut off.

    """
    messages = []
    position = 0
    while position < len(body):
        head = body[position : position + _PREFIX_BYTES]
        length = int.from_bytes(head[1:], "big")
        position += _PREFIX_BYTES + length
        if len(head) < _PREFIX_BYTES or head[0] > 1 or position > len(body):
            text = f"bad gRPC framing at byte {position - _PREFIX_BYTES - length} of {len(body)}"
            raise FramingError(text)
        messages.append(GrpcMessage(head[0] == 1, body[position - length : position]))
    return tuple(messages)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived, whole or (`complete` false) up to where the peer broke it off."""

    http_version: Literal["1.1", "2"]
    method: str
    path: str
    """The request target with its query, undecoded."""
    fields: Fields
    """Without pseudo-header fields; see `authority`."""
    body: bytes
    """All of it, free of transfer coding; for gRPC with the messages' prefixes."""
    authority: str = ""
    connection: int = 0
    """Number of the connection at the sink, from 0 in order of arrival."""
    complete: bool = True

    def field(self, name: str) -> str | None:
        """Return the value of a field that occurs at most once.

        Raises:
            ValueError: the field occurs more than once.

        """
        values = self.values(name)
        if len(values) > 1:
            message = f"{name} occurs {len(values)} times"
            raise ValueError(message)
        return values[0] if values else None

    def values(self, name: str) -> list[str]:
        """Return all values of a field, in order."""
        return [value for key, value in self.fields if key == name.lower()]

    @property
    def content_type(self) -> str:
        """The media type without parameters; empty where none was sent."""
        return (self.field("content-type") or "").partition(";")[0].strip().lower()

    @property
    def is_grpc(self) -> bool:
        """Whether the request is gRPC's, by its content type."""
        return self.content_type == GRPC or self.content_type.startswith(GRPC + "+")

    @property
    def messages(self) -> tuple[GrpcMessage, ...]:
        """The length-prefixed messages of a gRPC body (raises FramingError)."""
        return split_messages(self.body)

    @property
    def sha256(self) -> str:
        """Digest of the body, in hex."""
        return hashlib.sha256(self.body).hexdigest()


@dataclass(frozen=True, slots=True)
class Break:
    """Where and how an answer breaks off."""

    how: Literal["reset", "close", "goaway", "silence"]
    """RST_STREAM (HTTP/1.1: a TCP reset), FIN, GOAWAY (HTTP/2 only), or nothing more for ever."""
    after: Literal["nothing", "head", "half", "body"] = "nothing"
    """What is sent before: `half` is half of the body, `body` all of it but not its end."""
    code: int = 2
    """HTTP/2 error code of `reset` and `goaway` (RFC 9113 §7)."""
    processed: bool = False
    """Whether `goaway` counts this stream as processed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sink answers to one request. The default is OTLP's full success."""

    status: int = 200
    grpc_status: int = 0
    """Negative: a gRPC request, too, is answered in plain HTTP."""
    grpc_message: str = ""
    fields: Fields = ()
    """Added to the head."""
    body: bytes | None = None
    """HTTP: the body; gRPC: the message, without prefix. None: an empty Export response."""
    trailers: Fields = ()
    """gRPC: added to grpc-status and grpc-message."""
    wait_for: asyncio.Event | None = None
    """Nothing is answered before this is set."""
    breaks: Break | None = None


Script = Callable[[Request], Answer]
"""Decides the answer to a complete request."""

EarlyScript = Callable[[Request], Answer | None]
"""Decides on the head alone (the body is still empty); None lets the body come first."""


def accept(_: Request) -> Answer:
    """Answer OTLP's full success."""
    return Answer()


def http_body(request: Request, answer: Answer) -> tuple[Fields, bytes]:
    """Return the fields and the body of an OTLP/HTTP answer, in the request's own encoding."""
    is_json = request.content_type == JSON
    body = answer.body if answer.body is not None else (b"{}" if is_json else b"")
    if any(name == "content-type" for name, _ in answer.fields):
        return answer.fields, body
    return (("content-type", JSON if is_json else PROTOBUF), *answer.fields), body
