"""Heads and trailers as the exchange sees them, whatever HTTP version they came in.

Also the one table that says what becomes of a field by its name. Reading them from bytes is the
server sides' work.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Collection, Iterable
from typing import Final

from gateway.dataplane.core.credential import Credential
from gateway.wire import hpack

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
    """Hop-by-hop (RFC 9110 §7.6.1), or an identity that no caller may state."""
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
    COOKIE = 10
    """Forwarded; over HTTP/2 it may come in several fields, of which HTTP/1.1 must see one."""


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
    b"forwarded": FieldKind.DROP,
    b"expect": FieldKind.EXPECT,
    b"authorization": FieldKind.CREDENTIAL,
    b"sts-api-key": FieldKind.CREDENTIAL,
    b"dd-api-key": FieldKind.CREDENTIAL,
    b"content-type": FieldKind.CONTENT_TYPE,
    b"content-length": FieldKind.CONTENT_LENGTH,
    b"grpc-timeout": FieldKind.GRPC_TIMEOUT,
    b"cookie": FieldKind.COOKIE,
}

_FORWARDED: Final = b"x-forwarded"
"""How the names of fields begin that say where a request came from."""

HTML: Final = (b"text/html", b"application/xhtml+xml")
"""What no server of telemetry answers with: it comes from a proxy or a login page."""

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


_USUAL_TYPES: Final = frozenset(
    {
        b"application/grpc",
        b"application/grpc+proto",
        b"application/json",
        b"application/msgpack",
        b"application/x-protobuf",
    }
)
"""Types as clients write them, which need no reading."""


def media_type(content_type: bytes) -> bytes:
    """Return the type without parameters, in lower case (RFC 9110 §8.3.1)."""
    if content_type in _USUAL_TYPES:
        return content_type
    return content_type.partition(b";")[0].strip().lower()


def common_name(name: bytes) -> bytes:
    """Return what all spellings of a field's name have in common."""
    return name.lower().replace(b"_", b"-")


class FieldKinds:
    """What becomes of each request field, with those that the operator has named (`dropped`), and
    those that the gateway sends with the requests of some key: no caller may state them.

    Many servers read `_` in a name as `-`. So a name that means one of these fields only then is
    dropped: the backend would take it for a field that the gateway has checked, or states itself.
    """

    __slots__ = ("_kinds", "_on_change")

    def __init__(self, dropped: Iterable[str] = ()) -> None:
        names = [common_name(name.encode()) for name in dropped]
        self._kinds = dict.fromkeys(names, FieldKind.DROP) | _KINDS
        self._on_change: list[Callable[[], None]] = []

    def watch(self, on_change: Callable[[], None]) -> None:
        """Have `on_change` called when what was looked up may no longer hold."""
        self._on_change.append(on_change)

    def drop_too(self, name: bytes) -> None:
        """Drop a field from now on, in every spelling of its name."""
        common = common_name(name)
        if common not in self._kinds:
            self._kinds[common] = FieldKind.DROP
            for on_change in self._on_change:
                on_change()

    def kind_of(self, name: bytes) -> FieldKind:
        """Look up a lower-case field name."""
        if name[:1] == b":":
            return FieldKind.PSEUDO
        kind = self._kinds.get(name)
        if kind is not None:
            return kind
        read = name.replace(b"_", b"-")
        is_dropped = read in self._kinds or read.startswith(_FORWARDED)
        return FieldKind.DROP if is_dropped else FieldKind.FORWARD


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

    is_grpc_over_http1 = False
    """Whether the caller, or who asks on its behalf, says that this is gRPC, in HTTP/1.1."""

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
    def is_grpc(self) -> bool:
        """Whether the caller speaks gRPC, whatever its path is (gRPC over HTTP/2, "Requests")."""
        return self.is_http2 and self.content_type.startswith(b"application/grpc")

    @property
    def credential_pairs(self) -> list[Pair]:
        """The credential fields as they came, for `forward.key: client` and for look-ups."""
        return [hpack.decode_field(raw) for raw in hpack.split(self.credentials_h2) or ()]

    def drop_fields(self, common_names: Collection[bytes]) -> None:
        """Forward no field with one of these names, in whatever spelling it came."""
        self.fields = [pair for pair in self.fields if common_name(pair[0]) not in common_names]
        self.h1 = self.h2 = None

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

    __slots__ = (
        "_media_type",
        "content_length",
        "fields",
        "grpc_message",
        "grpc_status",
        "h2",
        "status",
    )

    def __init__(self, status: int, fields: list[Pair]) -> None:
        self.status = status
        self.fields = fields
        self.grpc_status = -1
        """Value of grpc-status; -1 = not there or no number."""
        self.grpc_message = b""
        self.content_length = -1
        self.h2: bytes | None = None
        self._media_type: bytes | None = None

    def field(self, name: bytes) -> bytes:
        """Return the value of the first field with this lower-case name; empty if there is none."""
        return next((value for each, value in self.fields if each.lower() == name), b"")

    @property
    def media_type(self) -> bytes:
        """What Content-Type says, without parameters and in lower case; empty if it is missing."""
        if self._media_type is None:
            self._media_type = media_type(self.field(b"content-type"))
        return self._media_type

    def encoded_h2(self) -> bytes:
        """The section as an HPACK block, with :status when it is a head."""
        if self.h2 is None:
            head = hpack.encode_field(b":status", b"%d" % self.status) if self.status else b""
            self.h2 = head + hpack.encode([(name.lower(), value) for name, value in self.fields])
        return self.h2
