"""Heads and trailers as the exchange sees them, whatever HTTP version they came in.

Also the one table that says what becomes of a field by its name. Reading them from bytes is the
server sides' work.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Final

from gateway.wire import hpack

if TYPE_CHECKING:
    from gateway.dataplane.credentials import Credential

Pair = tuple[bytes, bytes]

FIELD_VALUE: Final = re.compile(
    rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?\Z"
)
"""What a field may hold on the next hop (RFC 9110 §5.5): no control characters, no outer
whitespace.
"""


class FieldKind(enum.IntEnum):
    """What becomes of a request field."""

    FORWARD = 0
    DROP = 1
    """Hop-by-hop (RFC 9110 §7.6.1), or an identity that only the gateway may state."""
    CREDENTIAL = 2
    """A carrier of a key: forwarded, replaced or dropped as `forward.key` says."""
    CONTENT_TYPE = 3
    CONTENT_LENGTH = 4
    GRPC_TIMEOUT = 5
    EXPECT = 6
    CONNECTION_SPECIFIC = 7
    """Malformed over HTTP/2 (RFC 9113 §8.2.2), hop-by-hop over HTTP/1.1."""
    TE = 8
    PSEUDO = 9


_KINDS: Final[dict[bytes, FieldKind]] = {
    b"connection": FieldKind.CONNECTION_SPECIFIC,
    b"keep-alive": FieldKind.CONNECTION_SPECIFIC,
    b"proxy-connection": FieldKind.CONNECTION_SPECIFIC,
    b"transfer-encoding": FieldKind.CONNECTION_SPECIFIC,
    b"upgrade": FieldKind.CONNECTION_SPECIFIC,
    b"te": FieldKind.TE,
    b"trailer": FieldKind.DROP,
    b"host": FieldKind.DROP,
    b"http2-settings": FieldKind.DROP,
    b"proxy-authorization": FieldKind.DROP,
    b"proxy-authenticate": FieldKind.DROP,
    b"x-gateway-key-id": FieldKind.DROP,
    b"x-gateway-key-name": FieldKind.DROP,
    b"expect": FieldKind.EXPECT,
    b"authorization": FieldKind.CREDENTIAL,
    b"sts-api-key": FieldKind.CREDENTIAL,
    b"dd-api-key": FieldKind.CREDENTIAL,
    b"content-type": FieldKind.CONTENT_TYPE,
    b"content-length": FieldKind.CONTENT_LENGTH,
    b"grpc-timeout": FieldKind.GRPC_TIMEOUT,
}

ANSWER_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
        b"te",
        b"trailer",
        b"proxy-authenticate",
    }
)
"""Fields of a backend's answer that stay on its connection."""


def kind_of(name: bytes) -> FieldKind:
    """Look up a lower-case field name."""
    if name[:1] == b":":
        return FieldKind.PSEUDO
    return _KINDS.get(name, FieldKind.FORWARD)


class RequestHead:
    """A complete, well-formed request head.

    `h1` and `h2` are the fields to forward (neither hop-by-hop, nor identity, nor credentials),
    encoded for the next hop; the server side fills in its own version's, the other is made on
    demand from `fields`. Content-Length is in `content_length` only: framing is each hop's own.
    """

    __slots__ = (
        "authority",
        "content_length",
        "content_type",
        "credentials",
        "credentials_h2",
        "expects_continue",
        "fields",
        "grpc_timeout",
        "h1",
        "h2",
        "is_http2",
        "method",
        "path",
        "query",
        "sender_version",
    )

    def __init__(self, method: bytes, path: bytes, query: bytes | None, *, is_http2: bool) -> None:
        self.method = method
        self.path = path
        """Without query, exactly as it came: nothing is decoded or normalised."""
        self.query = query
        """Without the question mark; None if there was none."""
        self.is_http2 = is_http2
        self.authority = b""
        self.content_type = b""
        self.content_length = -1
        """Declared body size in bytes; -1 = not declared."""
        self.grpc_timeout = b""
        self.expects_continue = False
        self.credentials: list[Credential] = []
        self.credentials_h2 = b""
        """The credential fields as HPACK representations, where they came over HTTP/2. Lives as
        long as the request.
        """
        self.fields: list[Pair] = []
        self.h1: bytes | None = None
        self.h2: bytes | None = None
        self.sender_version = ""
        """The version that `intake_counts` found in the fields, once it has looked."""

    @property
    def credential_pairs(self) -> list[Pair]:
        """The credential fields as they came, for `forward.key: client` and for look-ups."""
        return [hpack.decode_field(raw) for raw in hpack.split(self.credentials_h2) or ()]

    def encoded_h1(self) -> bytes:
        """Fields to forward as HTTP/1.1 lines."""
        if self.h1 is None:
            self.h1 = b"".join([b"%b: %b\r\n" % pair for pair in self.fields])
        return self.h1

    def encoded_h2(self) -> bytes:
        """Fields to forward as HPACK representations."""
        if self.h2 is None:
            self.h2 = hpack.encode(self.fields)
        return self.h2

    def encoded_credentials_h1(self) -> bytes:
        """The caller's credential fields as HTTP/1.1 lines."""
        return b"".join([b"%b: %b\r\n" % pair for pair in self.credential_pairs])

    def __repr__(self) -> str:
        """Leave everything out that could hold a secret: fields and query."""
        return f"<RequestHead {self.method!r} {self.path!r}>"


class FieldSection:
    """The head (status > 0) or the trailers (status 0) of a backend's answer, without hop-by-hop
    fields.

    Names are as the backend wrote them over HTTP/1.1, lower-case over HTTP/2. A section that came
    over HTTP/2 is kept and used again, so nothing in it may be changed.
    """

    __slots__ = ("content_length", "fields", "grpc_message", "grpc_status", "h2", "status")

    def __init__(self, status: int, fields: list[Pair]) -> None:
        self.status = status
        self.fields = fields
        self.grpc_status = -1
        """Value of grpc-status; -1 = not there or no number."""
        self.grpc_message = b""
        self.content_length = -1
        self.h2: bytes | None = None

    def encoded_h2(self) -> bytes:
        """The section as an HPACK block, with :status when it is a head."""
        if self.h2 is None:
            head = hpack.encode_field(b":status", b"%d" % self.status) if self.status else b""
            self.h2 = head + hpack.encode([(name.lower(), value) for name, value in self.fields])
        return self.h2
