"""HTTP/2 frames and header fields as the bench's own client and backend write them.

Written anew, not taken from the gateway: a bench that shares code with what it measures would share
its faults. No I/O here.
"""

from __future__ import annotations

from typing import Final

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# RFC 9113, section 6
DATA: Final = 0x0
HEADERS: Final = 0x1
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8

FLAG_ACK: Final = 0x1
FLAG_END_STREAM: Final = 0x1
FLAG_END_HEADERS: Final = 0x4

SETTING_HEADER_TABLE_SIZE: Final = 0x1
SETTING_MAX_CONCURRENT_STREAMS: Final = 0x3
SETTING_INITIAL_WINDOW_SIZE: Final = 0x4

FRAME_HEADER_BYTES: Final = 9
MAX_FRAME_BYTES: Final = 16384
DEFAULT_WINDOW: Final = 65535

TABLE_SIZE_UPDATE_TO_ZERO: Final = b"\x20"
"""What a block must begin with after the peer set its table to 0 (RFC 7541, section 4.2)."""

_huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
_static_entries: Final = {
    entry: index for index, entry in reversed(list(enumerate(HeaderTable.STATIC_TABLE, start=1)))
}
_static_names: Final = {
    entry[0]: index for index, entry in reversed(list(enumerate(HeaderTable.STATIC_TABLE, start=1)))
}


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def settings(values: dict[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    payload = b"".join(
        identifier.to_bytes(2, "big") + value.to_bytes(4, "big")
        for identifier, value in values.items()
    )
    return frame(SETTINGS, 0, 0, payload)


def parse_settings(payload: bytes) -> dict[int, int]:
    """Return what a SETTINGS frame's payload sets."""
    return {
        int.from_bytes(payload[at : at + 2], "big"): int.from_bytes(payload[at + 2 : at + 6], "big")
        for at in range(0, len(payload), 6)
    }


def window_update(stream: int, credit: int) -> bytes:
    """Return a WINDOW_UPDATE frame of `credit` bytes."""
    return frame(WINDOW_UPDATE, 0, stream, credit.to_bytes(4, "big"))


def _integer(value: int, prefix_bits: int, first_byte: int) -> bytes:
    """Encode an integer behind the high bits of `first_byte` (RFC 7541, section 5.1)."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes((first_byte | value,))
    encoded = bytearray((first_byte | limit,))
    value -= limit
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _string(value: bytes) -> bytes:
    """Encode a string, with Huffman where that is shorter, as Go's encoder does."""
    compressed = _huffman.encode(value)
    if len(compressed) < len(value):
        return _integer(len(compressed), 7, 0x80) + compressed
    return _integer(len(value), 7, 0x00) + value


def field(name: str, value: str) -> bytes:
    """Return one field as Go's encoder writes it for a peer whose table is 0.

    Indexed where the static table holds name and value, else a literal without indexing.
    """
    raw_name, raw_value = name.encode("ascii"), value.encode("ascii")
    entry = _static_entries.get((raw_name, raw_value))
    if entry is not None:
        return _integer(entry, 7, 0x80)
    name_index = _static_names.get(raw_name)
    if name_index is not None:
        return _integer(name_index, 4, 0x00) + _string(raw_value)
    return b"\x00" + _string(raw_name) + _string(raw_value)


def plain_field(name: str, value: str) -> bytes:
    """Return one field as .NET's encoder writes it: as `field` does, but without Huffman code."""
    raw_name, raw_value = name.encode("ascii"), value.encode("ascii")
    entry = _static_entries.get((raw_name, raw_value))
    if entry is not None:
        return _integer(entry, 7, 0x80)
    name_index = _static_names.get(raw_name)
    text = _integer(len(raw_value), 7, 0x00) + raw_value
    if name_index is not None:
        return _integer(name_index, 4, 0x00) + text
    return b"\x00" + _integer(len(raw_name), 7, 0x00) + raw_name + text


def fields(pairs: list[tuple[str, str]]) -> bytes:
    """Return a header block without references to the dynamic table."""
    return b"".join(field(name, value) for name, value in pairs)
