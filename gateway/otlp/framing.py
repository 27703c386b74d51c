"""gRPC's length-prefixed messages: one flag byte, four bytes of length, the message.

Source: gRPC over HTTP/2, "Length-Prefixed-Message".
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

_PREFIX: Final = struct.Struct(">BI")
PREFIX_BYTES: Final = _PREFIX.size


class FramingError(ValueError):
    """The body is not exactly one length-prefixed message. The text says why."""


class GrpcMessage(NamedTuple):
    """One message as received."""

    is_compressed: bool
    payload: bytes


def frame(payload: bytes, *, is_compressed: bool = False) -> bytes:
    """Put the prefix before a message."""
    return _PREFIX.pack(is_compressed, len(payload)) + payload


def unframe(body: bytes) -> GrpcMessage:
    """Read the one message of a unary call.

    Raises:
        FramingError: the body is empty or truncated, has more than one message, or an unknown
            flag.
    """
    if len(body) < PREFIX_BYTES:
        msg = "the call has no message: a unary call needs exactly one"
        raise FramingError(msg)
    flag, length = _PREFIX.unpack_from(body)
    if flag not in {0, 1}:
        msg = f"the message's compressed flag is {flag}, not 0 or 1: this is not gRPC"
        raise FramingError(msg)
    payload = body[PREFIX_BYTES:]
    if len(payload) != length:
        msg = f"the prefix announces {length} bytes, but the call has {len(payload)}"
        raise FramingError(msg)
    return GrpcMessage(bool(flag), payload)
