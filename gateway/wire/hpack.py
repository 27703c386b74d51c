"""Header blocks (RFC 7541) as a proxy needs them: cut into fields, decoded field by field, encoded
without state.

We announce SETTINGS_HEADER_TABLE_SIZE = 0. Once the peer's encoder follows it, a block is a row of
self-contained representations, and each can be looked up by its raw bytes. Until then, and for
peers that use the dynamic table all the same, `BlockDecoder` decodes the block with its state. Both
ways give the same fields.
"""

from __future__ import annotations

import functools
from collections import deque
from typing import Final

from hpack.table import HeaderTable

from gateway.wire import huffman

Pair = tuple[bytes, bytes]

MAX_HEADER_LIST_BYTES: Final = 64 * 1024
"""Announced as SETTINGS_MAX_HEADER_LIST_SIZE: names + values + 32 per field."""
MAX_FIELDS: Final = 204
"""As many as a head may have over HTTP/1.1, and the pseudo-fields."""
DEFAULT_TABLE_BYTES: Final = 4_096
"""SETTINGS_HEADER_TABLE_SIZE before anything is announced, and the most that is accepted."""
_FIELD_OVERHEAD: Final = 32
_MAX_SIZE_UPDATES: Final = 2

_STATIC: Final[tuple[Pair, ...]] = tuple(HeaderTable.STATIC_TABLE)
_STATIC_NAMES: Final[dict[bytes, int]] = {
    name: index for index, (name, _) in reversed(list(enumerate(_STATIC, start=1)))
}
_STATIC_PAIRS: Final[dict[Pair, int]] = {pair: index for index, pair in enumerate(_STATIC, start=1)}


class HeaderBlockError(Exception):
    """The block cannot be decoded: COMPRESSION_ERROR, the connection cannot go on (RFC 9113
    §4.3).
    """


class HeaderListTooLargeError(Exception):
    """The fields together are larger than announced; the block was read and its state kept.

    `fields` are the first of them, for an answer; `count` is how many there were, as far as they
    were counted.
    """

    def __init__(self, fields: list[Pair], count: int) -> None:
        super().__init__(f"{count} fields")
        self.count = count
        self.fields = fields


def _integer(data: bytes, at: int, mask: int) -> tuple[int, int]:
    """Read a prefixed integer (RFC 7541 §5.1): value and the position behind it."""
    value = data[at] & mask
    at += 1
    if value < mask:
        return value, at
    shift = 0
    while True:
        byte = data[at]
        at += 1
        value += (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 28:
            msg = "an integer of more than 32 bits"
            raise HeaderBlockError(msg)


def split(block: bytes) -> list[bytes] | None:  # noqa: C901 - one pass over the bytes, inlined
    """Cut a block into its fields' representations, or None when it takes the full decoder.

    That is: it changes the table's size, refers to the dynamic table, or is cut off. Incremental
    indexing stays in: the caller knows whether the table can hold anything.
    """
    fields = []
    at = 0
    end = len(block)
    try:
        while at < end:
            start = at
            byte = block[at]
            if byte & 0x80:
                index, at = _integer(block, at, 127) if byte == 0xFF else (byte & 127, at + 1)
                if not 0 < index <= 61:
                    return None
            elif byte & 0xE0 == 0x20:
                return None
            else:
                mask = 63 if byte & 0x40 else 15
                index = byte & mask
                at += 1
                if index == mask:
                    index, at = _integer(block, at - 1, mask)
                    if index > 61:
                        return None
                elif not index:
                    length = block[at] & 127
                    at += 1
                    if length == 127:
                        length, at = _integer(block, at - 1, 127)
                    at += length
                elif index == 62:
                    return None
                length = block[at] & 127
                at += 1
                if length == 127:
                    length, at = _integer(block, at - 1, 127)
                at += length
            fields.append(block[start:at])
    except (IndexError, HeaderBlockError):
        return None
    return fields if at == end else None


_LONGEST_NAME_KEPT: Final = 64


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    is_huffman = data[at] & 0x80
    length, at = _integer(data, at, 127)
    if at + length > len(data):
        msg = "a string that is cut off"
        raise HeaderBlockError(msg)
    raw = data[at : at + length]
    return (huffman.decode(raw) if is_huffman else raw), at + length


@functools.lru_cache(maxsize=512)
def _name(raw: bytes) -> bytes:
    """Decode a literal name; decoded ones are kept (names are few and no secrets)."""
    return _string(raw, 0)[0]


def decode_field(raw: bytes) -> Pair:
    """Decode one representation that `split` cut out. Raises `HeaderBlockError`."""
    byte = raw[0]
    if byte & 0x80:
        return _STATIC[_integer(raw, 0, 127)[0] - 1]
    index, at = _integer(raw, 0, 63 if byte & 0x40 else 15)
    try:
        if index:
            name = _STATIC[index - 1][0]
        else:
            start = at
            length, at = _integer(raw, at, 127)
            at += length
            name = _name(raw[start:at]) if length <= _LONGEST_NAME_KEPT else _string(raw, start)[0]
        value, _ = _string(raw, at)
    except huffman.HuffmanError as error:
        raise HeaderBlockError(str(error)) from error
    return name, value


def is_self_contained(raw: bytes) -> bool:
    """Whether a representation can be passed on as it is: no table of the next hop is changed by
    it.
    """
    return raw[0] & 0xC0 != 0x40


def _encode_integer(value: int, mask: int, first: int) -> bytes:
    if value < mask:
        return bytes((first | value,))
    parts = bytearray((first | mask,))
    value -= mask
    while value >= 128:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def encode_field(name: bytes, value: bytes, *, sensitive: bool = False) -> bytes:
    """Encode one field without touching any table; `sensitive`: never indexed by later hops
    either (RFC 7541 §7.1.3).
    """
    index = _STATIC_PAIRS.get((name, value))
    if index is not None and not sensitive:
        return bytes((0x80 | index,))
    first = 0x10 if sensitive else 0
    index = _STATIC_NAMES.get(name)
    if index is not None:
        head = _encode_integer(index, 15, first)
    else:
        head = bytes((first,)) + _encode_integer(len(name), 127, 0) + name
    return head + _encode_integer(len(value), 127, 0) + value


def encode(fields: list[Pair] | tuple[Pair, ...]) -> bytes:
    """Encode a whole block without touching any table."""
    return b"".join([encode_field(name, value) for name, value in fields])


class BlockDecoder:
    """One connection's decoding side. `is_stateless` tells that `split` may be used instead of
    `decode`.

    It is so once the peer has acknowledged the announced table size of 0 and its encoder follows.
    A peer that goes on with a table of up to 4,096 bytes, the protocol's default, is understood
    all the same, which costs only speed.
    """

    __slots__ = ("_acknowledged", "_limit", "_size", "_table", "is_stateless")

    def __init__(self) -> None:
        self._table: deque[Pair] = deque()
        """The dynamic table, the newest entry first."""
        self._size = 0
        self._limit = DEFAULT_TABLE_BYTES
        self._acknowledged = False
        self.is_stateless = False

    def acknowledge(self) -> None:
        """Note that the peer has acknowledged a table size of 0."""
        self._acknowledged = True

    def decode(self, block: bytes) -> list[Pair]:
        """Decode a block with all its state.

        Raises `HeaderBlockError`, or `HeaderListTooLargeError` when all of the block has been read:
        what it says of the table counts in any case.
        """
        at = self._resize(block)
        fields: list[Pair] = []
        left = MAX_HEADER_LIST_BYTES
        end = len(block)
        try:
            while at < end:
                byte = block[at]
                if byte & 0x80:
                    index, at = _integer(block, at, 127)
                    pair = self._entry(index)
                elif byte & 0xE0 == 0x20:
                    msg = "a table size update behind a field"
                    raise HeaderBlockError(msg)
                else:
                    pair, at = self._literal(block, at)
                left -= len(pair[0]) + len(pair[1]) + _FIELD_OVERHEAD
                if left >= 0:
                    fields.append(pair)
        except IndexError as error:
            msg = "a block that is cut off"
            raise HeaderBlockError(msg) from error
        except huffman.HuffmanError as wrong:
            raise HeaderBlockError(str(wrong)) from wrong
        if self._acknowledged:
            self.is_stateless = self._limit == 0
        if left < 0 or len(fields) > MAX_FIELDS:
            raise HeaderListTooLargeError(fields[:MAX_FIELDS], len(fields))
        return fields

    def _resize(self, block: bytes) -> int:
        """Carry out the table size updates at the start of a block; return the position behind.

        All of them are checked before the first counts: at most two (RFC 7541 §4.2), none above
        the limit.
        """
        at = 0
        sizes = []
        try:
            while block[at : at + 1] and block[at] & 0xE0 == 0x20:
                size, at = _integer(block, at, 31)
                sizes.append(size)
                if len(sizes) > _MAX_SIZE_UPDATES or size > DEFAULT_TABLE_BYTES:
                    msg = "too many table size updates, or one that is too large"
                    raise HeaderBlockError(msg)
        except IndexError as error:
            msg = "a block that is cut off"
            raise HeaderBlockError(msg) from error
        for size in sizes:
            self._limit = size
            self._evict()
        return at

    def _entry(self, index: int) -> Pair:
        if 0 < index <= len(_STATIC):
            return _STATIC[index - 1]
        if not 0 < index <= len(_STATIC) + len(self._table):
            msg = "a reference to no entry of the tables"
            raise HeaderBlockError(msg)
        return self._table[index - len(_STATIC) - 1]

    def _literal(self, block: bytes, at: int) -> tuple[Pair, int]:
        is_indexed = block[at] & 0x40
        index, at = _integer(block, at, 63 if is_indexed else 15)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        pair = name, value
        if is_indexed:
            self._table.appendleft(pair)
            self._size += len(name) + len(value) + _FIELD_OVERHEAD
            self._evict()
        return pair, at

    def _evict(self) -> None:
        """Drop the oldest entries until the table keeps its limit (RFC 7541 §4.4)."""
        while self._size > self._limit:
            name, value = self._table.pop()
            self._size -= len(name) + len(value) + _FIELD_OVERHEAD
