"""Request heads from HTTP/2 header blocks (RFC 9113 §8.2, §8.3).

Blocks of one connection begin alike: pseudo-fields, content type, user agent. What the last block
began with is kept with what it means, so that a block that begins so too is read from there on; and
a field that was met before is known by its raw bytes. Both hold only for blocks that no table can
change (`BlockDecoder.is_stateless`), and never for a credential.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from gateway.dataplane.auth.credentials import CredentialReader
from gateway.dataplane.core.heads import FIELD_VALUE, FieldKind, FieldKinds, Pair, RequestHead
from gateway.dataplane.core.memo import Memo
from gateway.wire import hpack

_FIELDS_KEPT: Final = 5_000
_TIMEOUTS_KEPT: Final = 8_000
"""grpc-timeout: a sender's values differ by microseconds, and come again."""
_LONGEST_KEPT: Final = 512
_OUTLINE_FIELDS: Final = 64
"""How many fields of a head that is too large are looked at, to answer it."""
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
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+\Z")
_PSEUDO_VALUE: Final = re.compile(rb"[\x21-\x7e\x80-\xff]*\Z")
"""No blank either: over HTTP/1.1 it would end the request's target."""
_PSEUDO_BITS: Final = {b":method": 1, b":scheme": 2, b":path": 4, b":authority": 8}
_REQUIRED_PSEUDO: Final = 7
_REGULAR_SEEN: Final = 16
_REPEATED: Final = "more than one content-type or content-length"
"""Refused over HTTP/1.1, too, whatever they hold: the next hop might take either."""
_FORWARDED: Final = (FieldKind.FORWARD, FieldKind.CONTENT_TYPE, FieldKind.GRPC_TIMEOUT)


class MalformedHeadError(Exception):
    """The block is readable, but no valid request: a stream error of type PROTOCOL_ERROR (RFC
    9113 §8.1.1). The text says why, without what the caller sent.

    `head` is what is known of the request, as far as its answer's form depends on it.
    """

    head: RequestHead


class LargeHeadError(Exception):
    """The head is larger than announced. `head` is what is known of it from its beginning, `fields`
    how many fields it has.
    """

    def __init__(self, head: RequestHead, fields: int) -> None:
        super().__init__()
        self.head = head
        self.fields = fields


class _Field:
    """One field: decoded, checked, classified, and encoded for the next hop."""

    __slots__ = ("bit", "h2", "is_kept", "kind", "pair")

    def __init__(self, pair: Pair, raw: bytes | None, kind: FieldKind) -> None:
        name, value = pair
        self.kind = kind
        self.bit = 0
        if kind is FieldKind.PSEUDO:
            self.bit = _PSEUDO_BITS.get(name, 0)
            if not self.bit or not _PSEUDO_VALUE.match(value):
                msg = "a pseudo-field that is unknown, or holds what none may"
                raise MalformedHeadError(msg)
        elif kind is not FieldKind.CREDENTIAL:
            # What is wrong with a credential has a better answer: `CredentialReader` finds it.
            if not FIELD_VALUE.match(value):
                raw = None
                value = value.strip(b" \t")
                pair = name, value
            _check_field(kind, name, value)
        self.pair = pair
        self.is_kept = name in _KEPT_NAMES and (name != b":path" or b"?" not in value)
        """Whether it repeats and is no secret: an agent's query may hold a key."""
        if kind is FieldKind.CREDENTIAL and not FIELD_VALUE.match(value):
            self.h2 = _tidied(pair)
        else:
            self.h2 = (
                raw
                if raw is not None and hpack.is_self_contained(raw)
                else hpack.encode_field(name, value)
            )


def _check_field(kind: FieldKind, name: bytes, value: bytes) -> None:
    """Check a field whose outer blanks are gone. RFC 9113 §8.2.1 calls a field with some malformed;
    over HTTP/1.1 they are no part of the value, and other servers take them for just that.
    """
    if kind is FieldKind.CONNECTION_SPECIFIC:
        msg = "a field that only HTTP/1.1 has, such as 'connection'"
    elif not _NAME.match(name):
        msg = "a field name that is no token in lower case"
    elif not FIELD_VALUE.match(value):
        msg = "a field value with control characters"
    elif kind is FieldKind.TE and value != b"trailers":
        msg = "'te' that is not 'trailers'"
    else:
        return
    raise MalformedHeadError(msg)


def _tidied(pair: Pair) -> bytes:
    """Encode a credential for the next hop without outer whitespace; nothing if it holds what no
    field may. A request with such a field may still have a good key in another one.
    """
    name, value = pair
    value = value.strip(b" \t")
    return hpack.encode_field(name, value) if FIELD_VALUE.match(value) else b""


def _add_rare(head: RequestHead, field: _Field, parts: list[bytes]) -> None:
    """Add a field that few requests have, or that goes to no backend as it is."""
    kind = field.kind
    value = field.pair[1]
    if kind is FieldKind.CONTENT_LENGTH:
        if head.content_length >= 0:
            raise MalformedHeadError(_REPEATED)
        if not value.isdigit() or len(value) > _LENGTH_DIGITS:
            msg = "a content-length that is no number"
            raise MalformedHeadError(msg)
        head.content_length = int(value)
    elif kind is FieldKind.COOKIE:
        parts.append(field.h2)
        _add_cookie(head, field.pair)
    elif kind is FieldKind.EXPECT:
        head.expects_continue = value.lower() == b"100-continue"


def _add_cookie(head: RequestHead, pair: Pair) -> None:
    """Join the crumbs of a cookie to one field for HTTP/1.1 (RFC 9113 §8.2.3)."""
    for at, (name, value) in enumerate(head.fields):
        if name == pair[0]:
            head.fields[at] = name, value + b"; " + pair[1]
            return
    head.fields.append(pair)


class _Prefix:
    """What a block begins with, and the head as far as it is known by that."""

    __slots__ = ("h2", "head", "raw", "seen")

    def __init__(self, raw: bytes, head: RequestHead, h2: bytes, seen: int) -> None:
        self.raw = raw
        self.head = head
        self.h2 = h2
        self.seen = seen


class KnownFields:
    """The fields that all connections of a worker have met, by their raw bytes."""

    __slots__ = ("_fields", "_timeouts", "credentials", "fields", "kinds", "timeouts")

    def __init__(self, credentials: CredentialReader, kinds: FieldKinds) -> None:
        self.credentials = credentials
        self.kinds = kinds
        self._fields: Memo[bytes, _Field] = Memo(_FIELDS_KEPT)
        self._timeouts: Memo[bytes, Pair] = Memo(_TIMEOUTS_KEPT)
        self.fields = self._fields.kept
        self.timeouts = self._timeouts.kept

    def decode(self, raw: bytes) -> _Field:
        """Decode a representation, and keep it when its name is one of those that repeat."""
        pair = hpack.decode_field(raw)
        field = _Field(pair, raw, self.kinds.kind_of(pair[0]))
        if len(raw) <= _LONGEST_KEPT:
            if field.is_kept:
                self._fields.add(raw, field)
            elif field.kind is FieldKind.GRPC_TIMEOUT and field.h2 is raw:
                self._timeouts.add(raw, pair)
        return field


def _is_authorization(raw: bytes) -> bool:
    """Whether a field is a literal named by the static table's `authorization` (23), without
    indexing or never indexed (RFC 7541 §6.2.2, §6.2.3).
    """
    return len(raw) > 1 and raw[1] == 8 and (raw[0] == 0x0F or raw[0] == 0x1F)


def _check_size(block: bytes, raws: list[bytes]) -> None:
    if len(raws) > hpack.MAX_FIELDS or len(block) + 32 * len(raws) > hpack.MAX_HEADER_LIST_BYTES:
        first = (hpack.split(block) or [])[:_OUTLINE_FIELDS]
        fields = [hpack.decode_field(raw) for raw in first if len(raw) <= _LONGEST_KEPT]
        raise hpack.HeaderListTooLargeError(fields, len(raws))


def _outline(pairs: Iterable[Pair]) -> RequestHead:
    """Return what is known of a head that is refused: its method and path, if those are
    well-formed, the first content type, and the origin.
    """
    head = RequestHead(b"", b"", None, is_http2=True)
    for name, value in pairs:
        if name in _PSEUDO_BITS:
            if _PSEUDO_VALUE.match(value):
                HeadReader.add_pseudo(head, name, value)
        elif name.lower() == b"content-type" and not head.content_type:
            head.content_type = value.strip(b" \t")
        elif name == b"origin" and FIELD_VALUE.match(value):
            head.fields.append((name, value))
    head.query = None  # nobody will look for a key in it
    return head


class HeadReader:
    """Reads the heads of one connection."""

    __slots__ = ("_credentials", "_decoder", "_known", "_prefix")

    def __init__(self, decoder: hpack.BlockDecoder, known: KnownFields) -> None:
        self._decoder = decoder
        self._known = known
        self._credentials = known.credentials
        self._prefix: _Prefix | None = None

    def read(self, block: bytes) -> RequestHead:
        """Read one block.

        Raises `MalformedHeadError`, `LargeHeadError`, or `hpack.HeaderBlockError` when the
        connection cannot go on.
        """
        pairs = None
        try:
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
            pairs = self._decoder.decode(block)
            return self._from_pairs(pairs)
        except MalformedHeadError as error:
            # A block that was split changes no table, so it may be decoded once more.
            error.head = _outline(self._decoder.decode(block) if pairs is None else pairs)
            raise
        except hpack.HeaderListTooLargeError as large:
            raise LargeHeadError(_outline(large.fields), large.count) from None

    def read_trailers(self, block: bytes) -> None:
        """Read a request's trailers only for the decoder's sake, and check that they hold no
        pseudo-field.
        """
        for name, _ in self._decoder.decode(block):
            if not _NAME.match(name):
                msg = "trailers with a pseudo-field, or with a name that is no token in lower case"
                raise MalformedHeadError(msg)

    def _begin(self, raws: list[bytes]) -> tuple[_Prefix, list[bytes]]:
        """Make the prefix of the leading fields that repeat, and keep it; return it with the
        fields behind it.
        """
        head = RequestHead(b"", b"", None, is_http2=True)
        parts: list[bytes] = []
        seen = 0
        count = 0
        for raw in raws:
            if _is_authorization(raw):
                break
            field = self._known.fields.get(raw) or self._known.decode(raw)
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
        begun = prefix.head
        head = RequestHead(begun.method, begun.path, begun.query, is_http2=True)
        head.authority = begun.authority
        head.content_type = begun.content_type
        head.fields = begun.fields.copy()
        known = self._known
        parts = [prefix.h2]
        seen = prefix.seen
        for raw in raws:
            if _is_authorization(raw):
                seen |= _REGULAR_SEEN
                credential = self._credentials.read_raw(raw)
                head.credentials.append(credential)
                head.credentials_h2 += (
                    raw if credential.is_verbatim else _tidied(hpack.decode_field(raw))
                )
                continue
            timeout = known.timeouts.get(raw)
            if timeout is not None:
                seen |= _REGULAR_SEEN
                parts.append(raw)
                head.fields.append(timeout)
                head.grpc_timeout = timeout[1]
                continue
            field = known.fields.get(raw) or known.decode(raw)
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
        kind_of = self._known.kinds.kind_of
        for pair in pairs:
            seen = self._add(head, _Field(pair, None, kind_of(pair[0])), parts, seen)
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
            msg = "no ':method', ':scheme' or ':path', or one that is empty"
            raise MalformedHeadError(msg)

    def _add(self, head: RequestHead, field: _Field, parts: list[bytes], seen: int) -> int:
        """Add one field to the head; return which pseudo-fields were seen, and whether a regular
        one was.
        """
        kind = field.kind
        if kind is FieldKind.PSEUDO:
            if seen & (field.bit | _REGULAR_SEEN):
                msg = "a pseudo-field that comes twice, or behind other fields"
                raise MalformedHeadError(msg)
            self.add_pseudo(head, *field.pair)
            return seen | field.bit
        if kind in _FORWARDED:
            parts.append(field.h2)
            head.fields.append(field.pair)
            if kind is FieldKind.CONTENT_TYPE:
                if head.content_type:
                    raise MalformedHeadError(_REPEATED)
                head.content_type = field.pair[1]
            elif kind is FieldKind.GRPC_TIMEOUT:
                head.grpc_timeout = field.pair[1]
        elif kind is FieldKind.CREDENTIAL:
            head.credentials.append(self._credentials.read(*field.pair))
            head.credentials_h2 += field.h2
        else:
            _add_rare(head, field, parts)
        return seen | _REGULAR_SEEN

    @staticmethod
    def add_pseudo(head: RequestHead, name: bytes, value: bytes) -> None:
        """Put a pseudo-field into a head."""
        if name == b":method":
            head.method = value
        elif name == b":path":
            path, mark, query = value.partition(b"?")
            head.path = path
            head.query = query if mark else None
        elif name == b":authority":
            head.authority = value
