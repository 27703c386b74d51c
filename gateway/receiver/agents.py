"""The agents' intake in the debug receiver: the contents of a request, and the response.

Bodies are read as far as possible without the platform's schemas: the contents of JSON are counted,
the process agent's header is read, and the entries of snappy blocks are counted.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime
from typing import Final

from gateway.intake import IntakeRoute, Row
from gateway.model import Protocol, Signal
from gateway.otlp.encodings import IDENTITY, EncodingError, decompress
from gateway.receiver.exports import Head, HttpResponse
from gateway.receiver.received import ReceivedRequest, masked_headers, masked_path

_PROCESS_ENCODING: Final = "x-zip"
"""The process agent's encoding: not an HTTP content coding, but a 16-byte header and then zstd."""
_PROCESS_HEADER_BYTES: Final = 16
_PROCESS_VERSION: Final = 3
_ZSTD: Final = 2
_SNAPPY_ROUTES: Final = (IntakeRoute.LOGS, IntakeRoute.REMOTE_WRITE)
"""Routes whose protobuf bodies are one snappy block, whatever Content-Encoding says."""
_PROTOBUF: Final = "application/x-protobuf"
_FEATURES: Final = {
    "upgrade-to-multi-metrics": True,
    "incremental-topology": True,
    "health-states": True,
    "expose-kubernetes-status": True,
}
"""The features that agents request from `/features` (wire contract)."""
_LENGTH_DELIMITED: Final = 2
_CREATED, _ACCEPTED = 201, 202


class _UnreadableBodyError(Exception):
    """The body does not match its headers; the text says why."""


def interpret_agent(
    head: Head, row: Row, body: bytes | None, at: datetime
) -> tuple[ReceivedRequest, HttpResponse]:
    """Decode an agent's request and build the response.

    Args:
        head: the request's head.
        row: the intake's row for the path.
        body: the whole body; None if it was larger than the receiver accepts.
        at: when the request was complete.
    """
    items, summary, error = 0, "", ""
    if head.method != row.method:
        status, error = 405, f"this path accepts only {row.method}"
    elif body is None:
        status, error = 413, "the body is too large"
    else:
        try:
            items, summary = _contents(head, row, body)
            status = _success(row)
        except (_UnreadableBodyError, EncodingError) as problem:
            status, error = 400, str(problem)
    request = _received(head, row, body or b"", at)
    received = _with_outcome(request, items, summary or row.route.value, status, error)
    return received, _http_response(row, status, error)


def _success(row: Row) -> int:
    match row.route:
        case IntakeRoute.RBAC:
            return _CREATED
        case IntakeRoute.FEATURES | IntakeRoute.VALIDATE | IntakeRoute.REMOTE_WRITE:
            return 200
        case _:
            return _ACCEPTED


def _http_response(row: Row, status: int, error: str) -> HttpResponse:
    if error:
        content: object = {"error": error}
    elif row.route is IntakeRoute.FEATURES:
        content = _FEATURES
    else:
        content = {"valid": True} if row.route is IntakeRoute.VALIDATE else {"status": "ok"}
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 405:  # noqa: PLR2004 - RFC 9110 §15.5.6
        headers.append((b"allow", row.method.encode()))
    return HttpResponse(status, headers, body)


def _contents(head: Head, row: Row, body: bytes) -> tuple[int, str]:
    """Count and describe the contents. Raises `_UnreadableBodyError`, `EncodingError`."""
    encoding = head.header("content-encoding") or IDENTITY
    if encoding == _PROCESS_ENCODING:
        return _of_process_agent(body)
    if row.route in _SNAPPY_ROUTES and head.media_type == _PROTOBUF:
        entries = _entries(decompress("snappy", body))
        kind = "time series" if row.route is IntakeRoute.REMOTE_WRITE else "log streams"
        return entries, f"{entries} {kind}"
    data = decompress(encoding, body)
    if not data or not head.media_type.endswith("json"):
        return 0, f"{row.route.value}, {len(data)} bytes of {head.media_type or 'no type'}"
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as problem:
        msg = f"the body is not JSON: {problem}"
        raise _UnreadableBodyError(msg) from problem
    return _of_json(row, parsed)


def _of_process_agent(body: bytes) -> tuple[int, str]:
    """Read the message header of the agent payload: version, encoding, type."""
    if len(body) < _PROCESS_HEADER_BYTES or body[0] != _PROCESS_VERSION or body[1] != _ZSTD:
        msg = "the body does not start with the process agent's header (version 3, zstd)"
        raise _UnreadableBodyError(msg)
    size = len(decompress("zstd", body[_PROCESS_HEADER_BYTES:]))
    return 1, f"message of type {body[2]}, {size} bytes"


def _of_json(row: Row, parsed: object) -> tuple[int, str]:
    """Count the elements of every list by name; for topologies, the elements inside them."""
    counts: dict[str, int] = {}
    if isinstance(parsed, list):
        counts[row.route.value] = len(parsed)
    elif isinstance(parsed, dict):
        for name, value in parsed.items():
            _count(name, value, counts)
    text = ", ".join(f"{amount} {name}" for name, amount in counts.items())
    return sum(counts.values()), text or row.route.value


def _count(name: str, value: object, counts: dict[str, int]) -> None:
    if name == "topologies" and isinstance(value, list):
        for topology in value:
            for part in ("components", "relations"):
                elements = topology.get(part) if isinstance(topology, dict) else None
                counts[part] = counts.get(part, 0) + len(elements or ())
    elif isinstance(value, list):
        counts[name] = len(value)
    elif isinstance(value, dict) and name == "events":
        counts[name] = sum(len(of) for of in value.values() if isinstance(of, list))


def _entries(data: bytes) -> int:
    """Count the entries of field 1 of a protobuf message: time series, log streams."""
    count = at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 != _LENGTH_DELIMITED:
            msg = "the body is not the protobuf message that this path accepts"
            raise _UnreadableBodyError(msg)
        length, at = _varint(data, at)
        at += length
        count += tag >> 3 == 1
    if at != len(data):
        msg = "the protobuf message is truncated"
        raise _UnreadableBodyError(msg)
    return count


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:  # noqa: PLR2004 - bits of a varint
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte's mark
            return value, at
        shift += 7
    msg = "the protobuf message is truncated"
    raise _UnreadableBodyError(msg)


def _received(head: Head, row: Row, body: bytes, at: datetime) -> ReceivedRequest:
    return ReceivedRequest(
        time=at,
        protocol=Protocol.INTAKE,
        path=masked_path(head.path),
        signal=Signal.INTAKE,
        services=(),
        items=0,
        bytes=len(body),
        encoding=head.header("content-encoding") or IDENTITY,
        content_type=head.header("content-type"),
        headers=masked_headers(head.headers),
        sha256=hashlib.sha256(body).hexdigest(),
        peer=head.peer,
        answer=str(_success(row)),
    )


def _with_outcome(
    received: ReceivedRequest, items: int, summary: str, status: int, error: str
) -> ReceivedRequest:
    return replace(received, items=items, summary=summary, answer=str(status), error=error)
