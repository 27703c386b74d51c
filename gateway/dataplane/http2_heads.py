"""Request heads from HTTP/2 header blocks (RFC 9113 §8.2, §8.3).

Blocks of one connection begin alike: pseudo-fields, content type, user agent. What the last block
began with is kept with what it means, so that a block that begins so too is read from there on; and
a field that was met before is known by its raw bytes. Both hold only for blocks that no table can
change (`BlockDecoder.is_stateless`), and never for a credential.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.dataplane.credentials import CredentialReader
from gateway.dataplane.heads import FIELD_VALUE, FieldKind, Pair, RequestHead, kind_of
from gateway.wire import hpack

_FIELDS_KEPT: Final = 5_000
_TIMEOUTS_KEPT: Final = 8_000
"""grpc-timeout: a sender's values differ by microseconds, and come again."""
_LONGEST_KEPT: Final = 512
_LENGTH_DIGITS: Final = 18
"""Most digits of a Content-Length: it fits 64 bits."""
_KEPT_NAMES: Final = frozenset(
    {
        b":authority",
        b":method",
        b":path",
        b":scheme",
        b"accept",
        b"accept-encoding",
        b"content-encoding",
        b"content-type",
        b"grpc-accept-encoding",
        b"grpc-encoding",
        b"te",
        b"user-agent",
    }
)
"""Fields whose values are few and no secrets."""
_AUTHORIZATION: Final = (b"\x0f\x08", b"\x1f\x08")
"""How a literal field named by the static table's `authorization` begins, without and never
indexed.
"""
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+\Z")
_PSEUDO_VALUE: Final = re.compile(rb"[\x21-\x7e\x80-\xff]*\Z")
"""No blank either: over HTTP/1.1 it would end the request's target."""
_PSEUDO_BITS: Final = {b":method": 1, b":scheme": 2, b":path": 4, b":authority": 8}
_REQUIRED_PSEUDO: Final = 7
_REGULAR_SEEN: Final = 16
_FORWARDED: Final = (FieldKind.FORWARD, FieldKind.CONTENT_TYPE, FieldKind.GRPC_TIMEOUT)


class MalformedHeadError(Exception):
    """The block is readable, but no valid request: a stream error of type PROTOCOL_ERROR (RFC
    9113 §8.1.1).
    """


class _Field:
    """One field: decoded, checked, classified, and encoded for the next hop."""

    __slots__ = ("bit", "h2", "is_kept", "kind", "pair")

    def __init__(self, pair: Pair, raw: bytes | None) -> None:
        name, value = pair
        self.pair = pair
        self.is_kept = name in _KEPT_NAMES and (name != b":path" or b"?" not in value)
        """Whether it repeats and is no secret: an agent's query may hold a key."""
        self.kind = kind_of(name)
        self.bit = 0
        if self.kind is FieldKind.PSEUDO:
            self.bit = _PSEUDO_BITS.get(name, 0)
            is_valid = self.bit != 0 and _PSEUDO_VALUE.match(value) is not None
        elif self.kind is FieldKind.CREDENTIAL:
            # What is wrong with it has a better answer than a reset: `CredentialReader` finds it.
            is_valid = True
        elif self.kind is FieldKind.TE:
            is_valid = value == b"trailers"
        else:
            is_valid = (
                self.kind is not FieldKind.CONNECTION_SPECIFIC
                and _NAME.match(name) is not None
                and FIELD_VALUE.match(value) is not None
            )
        if not is_valid:
            raise MalformedHeadError
        if self.kind is FieldKind.CREDENTIAL and not FIELD_VALUE.match(value):
            self.h2 = _tidied(pair)
        else:
            self.h2 = (
                raw
                if raw is not None and hpack.is_self_contained(raw)
                else hpack.encode_field(name, value)
            )


def _tidied(pair: Pair) -> bytes:
    """Encode a credential for the next hop without outer whitespace; nothing if it holds what no
    field may. A request with such a field may still have a good key in another one.
    """
    name, value = pair
    value = value.strip(b" \t")
    return hpack.encode_field(name, value) if FIELD_VALUE.match(value) else b""


class _Prefix:
    """What a block begins with, and the head as far as it is known by that."""

    __slots__ = ("h2", "head", "raw", "seen")

    def __init__(self, raw: bytes, head: RequestHead, h2: bytes, seen: int) -> None:
        self.raw = raw
        self.head = head
        self.h2 = h2
        self.seen = seen


_fields: dict[bytes, _Field] = {}
_timeouts: dict[bytes, Pair] = {}


def _decoded(raw: bytes) -> _Field:
    """Decode a representation, and keep it when its name is one of those that repeat."""
    pair = hpack.decode_field(raw)
    field = _Field(pair, raw)
    if len(raw) <= _LONGEST_KEPT:
        if field.is_kept:
            if len(_fields) >= _FIELDS_KEPT:
                _fields.clear()
            _fields[raw] = field
        elif field.kind is FieldKind.GRPC_TIMEOUT and field.h2 is raw:
            if len(_timeouts) >= _TIMEOUTS_KEPT:
                _timeouts.clear()
            _timeouts[raw] = pair
    return field


def _check_size(block: bytes, raws: list[bytes]) -> None:
    if len(block) + 32 * len(raws) > hpack.MAX_HEADER_LIST_BYTES:
        raise hpack.HeaderListTooLargeError


class HeadReader:
    """Reads the heads of one connection."""

    __slots__ = ("_credentials", "_decoder", "_prefix")

    def __init__(self, decoder: hpack.BlockDecoder, credentials: CredentialReader) -> None:
        self._decoder = decoder
        self._credentials = credentials
        self._prefix: _Prefix | None = None

    def read(self, block: bytes) -> RequestHead:
        """Read one block.

        Raises `MalformedHeadError`, `hpack.HeaderListTooLargeError`, or `hpack.HeaderBlockError`
        when the connection cannot go on.
        """
        if self._decoder.is_stateless:
            prefix = self._prefix
            if prefix is not None and block.startswith(prefix.raw):
                raws = hpack.split(block[len(prefix.raw) :])
                if raws is not None:
                    _check_size(block, raws)
                    return self._finish(prefix, raws)
            raws = hpack.split(block)
            if raws is not None:
                _check_size(block, raws)
                prefix, rest = self._begin(raws)
                return self._finish(prefix, rest)
        return self._from_pairs(self._decoder.decode(block))

    def read_trailers(self, block: bytes) -> None:
        """Read a request's trailers only for the decoder's sake, and check that they hold no
        pseudo-field.
        """
        for name, _ in self._decoder.decode(block):
            if kind_of(name) is FieldKind.PSEUDO or not _NAME.match(name):
                raise MalformedHeadError

    def _begin(self, raws: list[bytes]) -> tuple[_Prefix, list[bytes]]:
        """Make the prefix of the leading fields that repeat, and keep it; return it with the
        fields behind it.
        """
        head = RequestHead(b"", b"", None, is_http2=True)
        parts: list[bytes] = []
        seen = 0
        count = 0
        for raw in raws:
            if raw.startswith(_AUTHORIZATION):
                break
            field = _fields.get(raw) or _decoded(raw)
            if not field.is_kept:
                break
            seen = self._add(head, field, parts, seen)
            count += 1
        prefix = _Prefix(b"".join(raws[:count]), head, b"".join(parts), seen)
        if len(prefix.raw) <= 4 * _LONGEST_KEPT:
            self._prefix = prefix
        return prefix, raws[count:]

    def _finish(self, prefix: _Prefix, raws: list[bytes]) -> RequestHead:
        """Read the fields behind a prefix."""
        known = prefix.head
        head = RequestHead(known.method, known.path, known.query, is_http2=True)
        head.authority = known.authority
        head.content_type = known.content_type
        head.fields = known.fields.copy()
        parts = [prefix.h2]
        seen = prefix.seen
        for raw in raws:
            if raw.startswith(_AUTHORIZATION):
                seen |= _REGULAR_SEEN
                credential = self._credentials.read_raw(raw)
                head.credentials.append(credential)
                head.credentials_h2 += (
                    raw if credential.is_verbatim else _tidied(hpack.decode_field(raw))
                )
                continue
            timeout = _timeouts.get(raw)
            if timeout is not None:
                seen |= _REGULAR_SEEN
                parts.append(raw)
                head.fields.append(timeout)
                head.grpc_timeout = timeout[1]
                continue
            field = _fields.get(raw) or _decoded(raw)
            seen = self._add(head, field, parts, seen)
        if seen & _REQUIRED_PSEUDO != _REQUIRED_PSEUDO or not head.path.startswith(b"/"):
            self._check_target(head, seen)
        head.h2 = b"".join(parts)
        return head

    def _from_pairs(self, pairs: list[Pair]) -> RequestHead:
        """Read the fields of a block that took the full decoder."""
        head = RequestHead(b"", b"", None, is_http2=True)
        parts: list[bytes] = []
        seen = 0
        for pair in pairs:
            seen = self._add(head, _Field(pair, None), parts, seen)
        if seen & _REQUIRED_PSEUDO != _REQUIRED_PSEUDO or not head.path.startswith(b"/"):
            self._check_target(head, seen)
        head.h2 = b"".join(parts)
        return head

    @staticmethod
    def _check_target(head: RequestHead, seen: int) -> None:
        """Refuse what lacks a pseudo-field or has an empty path; `*` is a valid target that no
        route has (RFC 9113 §8.3.1).
        """
        if seen & _REQUIRED_PSEUDO != _REQUIRED_PSEUDO or head.path != b"*":
            raise MalformedHeadError

    def _add(self, head: RequestHead, field: _Field, parts: list[bytes], seen: int) -> int:
        """Add one field to the head; return which pseudo-fields were seen, and whether a regular
        one was.
        """
        kind = field.kind
        if kind is FieldKind.PSEUDO:
            if seen & (field.bit | _REGULAR_SEEN):
                raise MalformedHeadError
            self._add_pseudo(head, *field.pair)
            return seen | field.bit
        if kind in _FORWARDED:
            parts.append(field.h2)
            head.fields.append(field.pair)
            if kind is FieldKind.CONTENT_TYPE:
                head.content_type = field.pair[1]
            elif kind is FieldKind.GRPC_TIMEOUT:
                head.grpc_timeout = field.pair[1]
        elif kind is FieldKind.CREDENTIAL:
            head.credentials.append(self._credentials.read(*field.pair))
            head.credentials_h2 += field.h2
        elif kind is FieldKind.CONTENT_LENGTH:
            value = field.pair[1]
            if (
                not value.isdigit()
                or len(value) > _LENGTH_DIGITS
                or head.content_length not in {-1, int(value)}
            ):
                raise MalformedHeadError
            head.content_length = int(value)
        elif kind is FieldKind.EXPECT:
            head.expects_continue = field.pair[1].lower() == b"100-continue"
        return seen | _REGULAR_SEEN

    @staticmethod
    def _add_pseudo(head: RequestHead, name: bytes, value: bytes) -> None:
        if name == b":method":
            head.method = value
        elif name == b":path":
            path, mark, query = value.partition(b"?")
            head.path = path
            head.query = query if mark else None
        elif name == b":authority":
            head.authority = value
