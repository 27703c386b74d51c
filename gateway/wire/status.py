"""`google.rpc.Status` as clients read it: protobuf or JSON bodies over HTTP, trailers over gRPC.

Encoded by hand: four messages with a handful of scalar fields (google/rpc/status.proto,
error_details.proto), in the worker's smallest possible memory.
"""

from __future__ import annotations

import base64
import json

_ANY_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_ANY_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 128:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _bytes_field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _int_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value) if value else b""


def _any(type_url: str, value: bytes) -> bytes:
    return _bytes_field(1, type_url.encode()) + _bytes_field(2, value)


def retry_info(seconds: int) -> bytes:
    """Encode `google.rpc.RetryInfo`."""
    return _bytes_field(1, _int_field(1, seconds))


def status_protobuf(code: int, message: str, reason: str, domain: str, retry_after_s: int) -> bytes:
    """Encode `google.rpc.Status` with ErrorInfo and, for a positive `retry_after_s`, RetryInfo."""
    error_info = _bytes_field(1, reason.encode()) + _bytes_field(2, domain.encode())
    status = (
        _int_field(1, code)
        + _bytes_field(2, message.encode())
        + _bytes_field(3, _any(_ANY_ERROR_INFO, error_info))
    )
    if retry_after_s:
        status += _bytes_field(3, _any(_ANY_RETRY_INFO, retry_info(retry_after_s)))
    return status


def status_json(code: int, message: str, reason: str, domain: str, retry_after_s: int) -> bytes:
    """The same in the JSON mapping of protobuf."""
    details: list[dict[str, str]] = [{"@type": _ANY_ERROR_INFO, "reason": reason, "domain": domain}]
    if retry_after_s:
        details.append({"@type": _ANY_RETRY_INFO, "retryDelay": f"{retry_after_s}s"})
    return json.dumps(
        {"code": code, "message": message, "details": details}, separators=(",", ":")
    ).encode()


def grpc_message(text: str) -> bytes:
    """Percent-encode a grpc-message (gRPC over HTTP/2, "Status-Message")."""
    return b"".join(
        bytes((byte,))
        if 0x20 <= byte <= 0x7E and byte != 0x25
        else b"%%%02X" % byte  # 0x25: the percent sign
        for byte in text.encode()
    )


def binary_header(value: bytes) -> bytes:
    """Encode the value of a `-bin` metadata key: base64 without padding."""
    return base64.b64encode(value).rstrip(b"=")
