"""Compression of bodies: `Content-Encoding` over HTTP, `grpc-encoding` over gRPC.

The names and formats are those of the OpenTelemetry Collector (`config/configcompression`,
`config/confighttp`). Every decompression is bounded: a body that decompresses to more than the
limit is refused, never stored.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final, Literal

import cramjam

Transport = Literal["grpc", "http"]

IDENTITY: Final = "identity"
ENCODINGS: Final = ("none", "gzip", "deflate", "zstd", "snappy", "lz4")
"""The encodings of `compress`; `none` sends no encoding header."""

DECODABLE: Final = (
    IDENTITY, "gzip", "deflate", "zlib", "zstd", "snappy", "x-snappy-framed", "lz4",
)  # fmt: skip
"""The encodings of `decompress`, besides an absent or empty one."""

MAX_BODY_BYTES: Final = 64 * 1024 * 1024
"""Limit before and after decompression (OTLP specification 1.11 recommends 64 MiB)."""

_FIRST_OUTPUT_BYTES: Final = 1024 * 1024
_SNAPPY_STREAM_MAGIC: Final = b"\xff\x06\x00\x00sNaPpY"
"""Start of the snappy framing format, which senders use under the name `snappy` as well."""

_DecompressInto = Callable[[bytes, bytearray], int]


class EncodingError(ValueError):
    """The body does not match its encoding. The text says what is wrong; it can be sent back."""


class UnknownEncodingError(EncodingError):
    """The encoding is not supported."""


class TooLargeError(EncodingError):
    """The body decompresses to more than the limit."""


def compress(encoding: str, data: bytes, transport: Transport) -> bytes:
    """Compress `data` with one of `ENCODINGS`.

    Snappy is as the Collector 0.165 writes and reads it: the framing format over gRPC
    (`configgrpc/internal/grpccompression/snappy`), the block format over HTTP (`confighttp`, where
    the framing format is called `x-snappy-framed`).
    """
    match encoding:
        case "none":
            return data
        case "gzip":
            return bytes(cramjam.gzip.compress(data))
        case "deflate":
            return zlib.compress(data)
        case "zstd":
            return bytes(cramjam.zstd.compress(data))
        case "snappy":
            snappy = cramjam.snappy
            return bytes(
                snappy.compress(data) if transport == "grpc" else snappy.compress_raw(data)
            )
        case "lz4":
            return bytes(cramjam.lz4.compress(data))
        case _:
            msg = f"unsupported compression {encoding!r}: use one of {', '.join(ENCODINGS)}"
            raise UnknownEncodingError(msg)


def decompress(encoding: str, data: bytes, limit: int = MAX_BODY_BYTES) -> bytes:
    """Undo `encoding` (any of `DECODABLE`, without regard to case; empty is identity).

    Raises:
        UnknownEncodingError: the name is not one of them.
        TooLargeError: the result would be larger than `limit` bytes.
        EncodingError: the data is damaged, cut off, or in another encoding.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return _within(data, limit)
        case "gzip":
            return _unpack("gzip", cramjam.gzip.decompress_into, data, limit)
        case "deflate" | "zlib":
            return _inflate(data, limit)
        case "zstd":
            return _unpack("zstd", cramjam.zstd.decompress_into, data, limit)
        case "snappy" | "x-snappy-framed":
            return _unsnap(data, limit)
        case "lz4":
            return _unpack("lz4", cramjam.lz4.decompress_into, data, limit)
        case _:
            msg = f"the encoding is not supported: use one of {', '.join(DECODABLE)}"
            raise UnknownEncodingError(msg)


def _within(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise _too_large(limit)
    return data


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body is larger than {limit} bytes: send smaller batches")


def _inflate(data: bytes, limit: int) -> bytes:
    """Undo `deflate`, which is the zlib format (RFC 9110 §8.4.1.2, gRPC "Compression")."""
    inflater = zlib.decompressobj()
    try:
        unpacked = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        msg = f"the body is not deflate (zlib format): {error}"
        raise EncodingError(msg) from error
    _within(unpacked, limit)
    if not inflater.eof or inflater.unused_data:
        msg = (
            "the deflate body is truncated" if not inflater.eof else "bytes follow the deflate body"
        )
        raise EncodingError(msg)
    return unpacked


def _unsnap(data: bytes, limit: int) -> bytes:
    """Undo snappy in either form: the framed one starts with a magic, the block form never does.

    No bytes at all are the framed form of an empty message, as Go's writer makes it.
    """
    if not data or data.startswith(_SNAPPY_STREAM_MAGIC):
        return _unpack("snappy", cramjam.snappy.decompress_into, data, limit)
    try:
        size = cramjam.snappy.decompress_raw_len(data)
    except cramjam.DecompressionError as error:
        msg = f"the body is not snappy: {error}"
        raise EncodingError(msg) from error
    if size > limit:
        raise _too_large(limit)
    return _unpack("snappy", cramjam.snappy.decompress_raw_into, data, size)


def _unpack(name: str, decompress_into: _DecompressInto, data: bytes, limit: int) -> bytes:
    """Decompress into memory of a fixed size, so that no input makes more than `limit` bytes.

    Small bodies are the rule: the first try takes a megabyte, and only what does not fit gets
    memory of the full limit.
    """
    first = min(limit, max(_FIRST_OUTPUT_BYTES, 8 * len(data)))
    for size in dict.fromkeys((first, limit)):
        output = bytearray(size)
        try:
            written = decompress_into(data, output)
        except (cramjam.DecompressionError, OSError) as error:
            failure = str(error)
        else:
            return bytes(memoryview(output)[:written])
    if "whole buffer" in failure and "write" in failure:
        raise _too_large(limit)
    msg = f"the body is not {name}, or it is damaged: {failure}"
    raise EncodingError(msg)
