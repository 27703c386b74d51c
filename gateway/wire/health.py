"""`grpc.health.v1` as bytes: the two messages of the health service, of one field each.

Encoded by hand, because a protobuf library would be the largest part of a worker. Source:
grpc/health/v1/health.proto. Who serves what is not decided here.
"""

from __future__ import annotations

import enum
from typing import Final

SERVICE: Final = "grpc.health.v1.Health"
MAX_REQUEST_BYTES: Final = 1_024
"""A request holds a service's name; nobody's is longer."""
_PREFIX: Final = 5
_SERVICE_TAG: Final = 0x0A
_LARGEST_TAG: Final = 2**32 - 1
_LONGEST_TAG: Final = 5
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class ServingStatus(enum.IntEnum):
    """`HealthCheckResponse.ServingStatus`."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


class HealthRequestError(Exception):
    """A body that is not one uncompressed `HealthCheckRequest`."""


def decode_request(body: bytes) -> str:
    """Return the service asked for in a whole gRPC body. Raises `HealthRequestError`."""
    if len(body) < _PREFIX or int.from_bytes(body[1:_PREFIX], "big") != len(body) - _PREFIX:
        msg = "not exactly one message"
        raise HealthRequestError(msg)
    if body[0]:
        msg = "a compressed message"
        raise HealthRequestError(msg)
    message = body[_PREFIX:]
    service = ""
    at = 0
    while at < len(message):
        start = at
        tag, at = _varint(message, at)
        if not 8 <= tag <= _LARGEST_TAG or at - start > _LONGEST_TAG:
            msg = "a field number that is none"
            raise HealthRequestError(msg)
        value, at = _field(message, at, tag & 7)
        if tag == _SERVICE_TAG:
            service = _text(value)  # the last one counts, as in every protobuf parser
    return service


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        msg = "a name that is not UTF-8"
        raise HealthRequestError(msg) from None


def _field(message: bytes, at: int, wire_type: int) -> tuple[bytes, int]:
    """Return a field's bytes and the position behind it: unknown fields are skipped."""
    if wire_type == _VARINT:
        _, end = _varint(message, at)
    elif wire_type == _BYTES:
        length, at = _varint(message, at)
        end = at + length
    elif wire_type in {_FIXED64, _FIXED32}:
        end = at + (8 if wire_type == _FIXED64 else 4)
    else:
        msg = "an unknown wire type"
        raise HealthRequestError(msg)
    if end > len(message):
        msg = "a field that is cut off"
        raise HealthRequestError(msg)
    return message[at:end], end


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    msg = "a number that is cut off"
    raise HealthRequestError(msg)


def encode_response(status: ServingStatus) -> bytes:
    """Return a whole gRPC message that says `status`."""
    message = bytes((0x08, status)) if status else b""
    return b"\0" + len(message).to_bytes(4, "big") + message
