"""Request and answer heads from HTTP/1.1 bytes: what llhttp splits is sorted by what becomes of it.

A request head is always read whole, by a parser of its own: llhttp never sees a body, so that only
the fields decide where one ends, and what follows a request in the same read stays bytes until its
turn has come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import httptools

from gateway.dataplane.heads import (
    ANSWER_HOP_BY_HOP,
    FieldKind,
    FieldSection,
    Pair,
    RequestHead,
    kind_of,
)
from gateway.wire import hpack, http1

if TYPE_CHECKING:
    from gateway.dataplane.credentials import CredentialReader

_REQUEST_LINE: Final = b"POST / HTTP/1.1\r\n"
"""What llhttp is given instead of the request's own line: it knows only the methods of its list."""
_NAMES_KEPT: Final = 1_000
_LONGEST_KEPT: Final = 64
_FORWARD: Final = FieldKind.FORWARD
_CREDENTIAL: Final = FieldKind.CREDENTIAL
_CONTENT_TYPE: Final = FieldKind.CONTENT_TYPE
_CONTENT_LENGTH: Final = FieldKind.CONTENT_LENGTH
_GRPC_TIMEOUT: Final = FieldKind.GRPC_TIMEOUT
_EXPECT: Final = FieldKind.EXPECT
"""Bound once: in CPython 3.11 a look-up of an enum's member costs 0.3 µs."""
_HOST: Final = b"host"
_CONNECTION: Final = b"connection"
_TRANSFER_ENCODING: Final = b"transfer-encoding"
_SIMPLE_OPTIONS: Final = frozenset(
    {b"close", b"keep-alive", b"te", b"upgrade", b"http2-settings", b"trailer", b"trailers"}
)
"""Options of Connection that name no field, or one that is dropped anyway."""

_names: dict[bytes, tuple[bytes, FieldKind]] = {}
"""Field name as sent → in lower case, and what becomes of the field."""


def _learn(name: bytes) -> tuple[bytes, FieldKind]:
    lower = name.lower()
    known = lower, kind_of(lower)
    if len(name) <= _LONGEST_KEPT:
        if len(_names) >= _NAMES_KEPT:
            _names.clear()
        _names[name] = known
    return known


class Http1RequestHead(RequestHead):
    """A request head that was read from HTTP/1.1, with what the connection must know of it.

    Names in `fields` are as the caller wrote them. Made by `read_request_head`; the methods named
    `on_…` are llhttp's callbacks.
    """

    __slots__ = (
        "_hosts",
        "_nominated",
        "_reader",
        "body_follows",
        "is_chunked",
        "is_http10",
        "keeps_alive",
    )

    def __init__(self, method: bytes, target: bytes, reader: CredentialReader) -> None:
        path, mark, query = target.partition(b"?")
        super().__init__(method, path, query if mark else None, is_http2=False)
        self.is_chunked = False
        self.is_http10 = False
        self.keeps_alive = True
        self.body_follows = False
        """Whether body bytes came with the head: the backend's side waits for them to send both at
        once.
        """
        self._reader = reader
        self._hosts = 0
        self._nominated: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field; its value may end in whitespace."""
        lower, kind = _names.get(name) or _learn(name)
        value = value.rstrip(b" \t")
        if kind is _FORWARD or kind is _GRPC_TIMEOUT:
            self.fields.append((name, value))
        elif kind is _CREDENTIAL:
            self.credentials.append(self._reader.read(lower, value))
            self.credential_pairs.append((name, value))
        elif kind is _CONTENT_TYPE:
            if self.content_type:
                raise http1.Http1Error
            self.content_type = value
            self.fields.append((name, value))
        elif kind is _CONTENT_LENGTH:
            self.content_length = http1.parse_content_length(value)
        elif lower is _HOST or lower == _HOST:
            self._hosts += 1
            self.authority = value
        else:
            self._take_rare(lower, kind, value)

    def _take_rare(self, lower: bytes, kind: FieldKind, value: bytes) -> None:
        if lower == _CONNECTION:
            options = http1.connection_options(value)
            if b"close" in options:
                self.keeps_alive = False
            self._nominated += [name for name in options if name not in _SIMPLE_OPTIONS]
        elif lower == _TRANSFER_ENCODING:
            if not http1.has_chunked(value):
                raise http1.Http1Error
            self.is_chunked = True
        elif kind is _EXPECT:
            # Other expectations may be ignored (RFC 9110 §10.1.1).
            self.expects_continue = value.lower() == b"100-continue"

    def check(self) -> None:
        """Check what only the whole head shows. Raises `Http1Error`."""
        if self._hosts != 1 and (self._hosts or not self.is_http10):
            raise http1.Http1Error
        if not http1.is_valid_host(self.authority):
            raise http1.Http1Error
        if self.is_chunked:
            # llhttp has refused a Content-Length beside it; RFC 9112 §6.1 has more on HTTP/1.0.
            if self.is_http10 or self.content_length >= 0:
                raise http1.Http1Error
        elif self.content_length < 0:
            self.content_length = 0
        if self.is_http10:
            self.keeps_alive = False
            self.expects_continue = False
        if self._nominated:
            self.fields = [pair for pair in self.fields if pair[0].lower() not in self._nominated]

    def encoded_h2(self) -> bytes:
        """Fields to forward as HPACK representations: HTTP/2 has names in lower case only."""
        if self.h2 is None:
            self.h2 = hpack.encode([(name.lower(), value) for name, value in self.fields])
        return self.h2


def read_request_head(raw: bytes, reader: CredentialReader) -> Http1RequestHead:
    """Read a whole head, from its request line to the empty line. Raises `Http1Error`."""
    line_end = raw.index(b"\r\n")
    method, target, is_http10 = http1.parse_request_line(raw[:line_end])
    if raw.count(b"\n") > http1.MAX_FIELDS + 2 or len(raw) > http1.MAX_HEAD_BYTES:
        raise http1.Http1Error(http1.HEAD_TOO_LARGE)
    head = Http1RequestHead(method, target, reader)
    head.is_http10 = is_http10
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(_REQUEST_LINE)
        parser.feed_data(memoryview(raw)[line_end + 2 :])
    except httptools.HttpParserUpgrade:
        pass  # An Upgrade is ignored: the answer is HTTP/1.1 (RFC 9110 §7.8).
    except httptools.HttpParserCallbackError as error:
        raise error.__context__ or error from None
    except httptools.HttpParserError:
        raise http1.Http1Error from None
    head.check()
    return head


class Http1AnswerHead(FieldSection):
    """An answer's head that was read from HTTP/1.1; `h1` are its fields but Content-Length."""

    __slots__ = ("body_follows", "h1")

    def __init__(self, status: int, fields: list[Pair], h1: bytes) -> None:
        super().__init__(status, fields)
        self.h1 = h1
        self.body_follows = False
        """Whether body bytes came with the head, so that both can be sent at once."""


_answer_names: dict[bytes, tuple[bytes, bool]] = {}
"""Field name as sent → in lower case, and whether it stays on its connection."""


def _learn_answer_name(name: bytes) -> tuple[bytes, bool]:
    lower = name.lower()
    known = lower, lower in ANSWER_HOP_BY_HOP
    if len(name) <= _LONGEST_KEPT:
        if len(_answer_names) >= _NAMES_KEPT:
            _answer_names.clear()
        _answer_names[name] = known
    return known


class AnswerFields:
    """Gathers one answer's fields while llhttp reads them."""

    __slots__ = (
        "_hop_by_hop",
        "content_length",
        "fields",
        "h1",
        "is_chunked",
        "keeps_alive",
    )

    def __init__(self) -> None:
        self.fields: list[Pair] = []
        self.h1: list[bytes] = []
        self.content_length = -1
        self.is_chunked = False
        self.keeps_alive = True
        self._hop_by_hop: list[bytes] = []

    def add(self, name: bytes, value: bytes) -> None:
        """Take one field. Raises `Http1Error`."""
        lower, stays = _answer_names.get(name) or _learn_answer_name(name)
        value = value.rstrip(b" \t")
        if not stays:
            self.fields.append((name, value))
            if lower == b"content-length":
                self.content_length = http1.parse_content_length(value)
            else:
                self.h1 += (name, b": ", value, b"\r\n")
        elif lower == _CONNECTION:
            options = http1.connection_options(value)
            if b"close" in options:
                self.keeps_alive = False
            self._hop_by_hop += [option for option in options if option not in _SIMPLE_OPTIONS]
        elif lower == _TRANSFER_ENCODING:
            if not http1.has_chunked(value):
                raise http1.Http1Error
            self.is_chunked = True

    def head(self, status: int) -> Http1AnswerHead:
        """Return what was gathered as an answer's head."""
        fields = self.fields
        h1 = b"".join(self.h1)
        if self._hop_by_hop:
            fields = [pair for pair in fields if pair[0].lower() not in self._hop_by_hop]
            h1 = render_fields(fields)
        section = Http1AnswerHead(status, fields, h1)
        section.content_length = self.content_length
        return section


def render_fields(fields: list[Pair]) -> bytes:
    """Render fields as lines; Content-Length is left out, because framing is each hop's own."""
    return b"".join(
        [b"%b: %b\r\n" % pair for pair in fields if pair[0].lower() != b"content-length"]
    )
