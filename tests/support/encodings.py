"""Every compression that OTLP senders use, both ways, by libraries other than the senders' own."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Final

import cramjam

_SNAPPY_FRAMED: Final = b"\xff\x06\x00\x00sNaPpY"


def _unsnappy(data: bytes) -> bytes:
    """Open both snappy formats: gRPC and `Content-Encoding: snappy` use blocks, some frames."""
    framed = data.startswith(_SNAPPY_FRAMED)
    return bytes(cramjam.snappy.decompress(data) if framed else cramjam.snappy.decompress_raw(data))


ENCODERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "identity": bytes,
    "gzip": lambda data: bytes(cramjam.gzip.compress(data)),
    "zstd": lambda data: bytes(cramjam.zstd.compress(data)),
    "snappy": lambda data: bytes(cramjam.snappy.compress_raw(data)),
    "x-snappy-framed": lambda data: bytes(cramjam.snappy.compress(data)),
    "deflate": zlib.compress,
    "zlib": zlib.compress,
    "lz4": lambda data: bytes(cramjam.lz4.compress(data)),
}
"""Content coding → compress."""

DECODERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "identity": bytes,
    "gzip": lambda data: bytes(cramjam.gzip.decompress(data)),
    "zstd": lambda data: bytes(cramjam.zstd.decompress(data)),
    "snappy": _unsnappy,
    "x-snappy-framed": _unsnappy,
    "deflate": zlib.decompress,  # RFC 9110 §8.4.1.2: a zlib stream, in spite of the name
    "zlib": zlib.decompress,
    "lz4": lambda data: bytes(cramjam.lz4.decompress(data)),
}
"""Content coding → decompress."""


def decompress(data: bytes, encoding: str | None) -> bytes:
    """Return the plain bytes of a message or body.

    Raises:
        KeyError: an encoding that no sender of these tests uses.

    """
    return DECODERS[encoding or "identity"](data)
