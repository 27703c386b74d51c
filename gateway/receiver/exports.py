"""What a request means and how it is answered: the pure part of the receiver.

In goes a complete request, out come the record and the answer. No I/O: `app` reads and writes.
OTLP/HTTP and OTLP/gRPC meet in one function that decodes, because only the envelope differs.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import quote

from google.protobuf.message import DecodeError, Message

from gateway.model import Protocol
from gateway.otlp import json_codec
from gateway.otlp.encodings import (
    DECODABLE,
    IDENTITY,
    MAX_BODY_BYTES,
    EncodingError,
    TooLargeError,
    UnknownEncodingError,
    decompress,
)
from gateway.otlp.framing import FramingError, frame, unframe
from gateway.otlp.rpc_status import status_bytes, status_json
from gateway.otlp.services import (
    BY_GRPC_PATH,
    SERVICES,
    ExportRequest,
    Service,
    item_count,
    service_names,
)
from gateway.outcome import GrpcCode
from gateway.receiver.record import Record, masked_headers, masked_path

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
_ACCEPTED_ENCODINGS: Final = ", ".join(DECODABLE)
_MESSAGE_SAFE: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
"""What stays as it is in `grpc-message` besides letters and digits (gRPC over HTTP/2)."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head as the server read it. Header names are lower-case."""

    http_version: str
    method: str
    path: str
    """With the query, as it came."""
    headers: tuple[tuple[str, str], ...]
    peer: str

    def header(self, name: str) -> str:
        """Return the first value of a header, or an empty text."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def media_type(self) -> str:
        """The content type without its parameters, in lower case."""
        return self.header("content-type").partition(";")[0].strip().lower()

    @property
    def is_grpc(self) -> bool:
        """Whether this is a gRPC call: HTTP/2 and gRPC's content type."""
        is_grpc_type = self.media_type == "application/grpc" or self.media_type.startswith(
            "application/grpc+"
        )
        return self.http_version == "2" and is_grpc_type


class Answer(NamedTuple):
    """What goes back. `trailers` is None over HTTP."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]] | None = None


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why a request is not accepted, in both protocols' codes."""

    grpc: GrpcCode
    http: int
    text: str
    violation: tuple[str, str] | None = None
    """Where in the message and what is wrong there, for `BadRequest.field_violations`."""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Message:
    """A request's message as it came, before it is decoded; `fault` when the envelope was wrong."""

    service: Service | None
    raw: bytes
    encoding: str
    is_json: bool = False
    fault: _Fault | None = None


def interpret(head: Head, body: bytes | None, at: datetime) -> tuple[Record, Answer]:
    """Decode a request and say how it is answered.

    Args:
        head: the request's head.
        body: its whole body; None when it was larger than `MAX_BODY_BYTES`.
        at: when it was complete.
    """
    message = _grpc_message(head, body) if head.is_grpc else _http_message(head, body)
    decoded = message.fault or _decode(message)
    if head.is_grpc:
        answer, shown = _grpc_answer(message, decoded)
    else:
        answer, shown = _http_answer(message, decoded)
    return _record(head, message, decoded, shown, at), answer


def _grpc_message(head: Head, body: bytes | None) -> _Message:
    service = BY_GRPC_PATH.get(head.path)
    if service is None:
        text = "no such method here: OTLP/gRPC is the Export method of the four collector services"
        return _Message(
            None, body or b"", IDENTITY, fault=_Fault(GrpcCode.UNIMPLEMENTED, 404, text)
        )
    if body is None:
        return _Message(service, b"", IDENTITY, fault=_too_large())
    try:
        flagged, raw = unframe(body)
    except FramingError as error:
        fault = _Fault(GrpcCode.INVALID_ARGUMENT, 400, str(error))
        return _Message(service, body, IDENTITY, fault=fault)
    encoding = head.header("grpc-encoding") or IDENTITY
    if flagged and encoding == IDENTITY:
        # gRPC "Compression": a set flag without an encoding is the peer's bug.
        text = "the message is flagged as compressed, but no grpc-encoding says how"
        return _Message(service, raw, encoding, fault=_Fault(GrpcCode.INTERNAL, 400, text))
    return _Message(service, raw, encoding if flagged else IDENTITY)


def _http_message(head: Head, body: bytes | None) -> _Message:
    path = head.path.partition("?")[0]
    # A backend's url may have a path before the signal's (`/stsAgent/otel`, a proxy's prefix).
    service = next((s for s in SERVICES.values() if path.endswith(s.http_path)), None)
    encoding = head.header("content-encoding") or IDENTITY
    fault = _too_large() if body is None else None
    return _Message(
        service, body or b"", encoding, head.media_type == JSON, _http_fault(head, service) or fault
    )


def _http_fault(head: Head, service: Service | None) -> _Fault | None:
    if service is None:
        paths = ", ".join(known.http_path for known in SERVICES.values())
        return _Fault(GrpcCode.UNIMPLEMENTED, 404, f"no such path here: OTLP/HTTP is POST {paths}")
    if head.method != "POST":
        text = "OTLP/HTTP is sent with POST"
        return _Fault(GrpcCode.UNIMPLEMENTED, 405, text, headers=(("allow", "POST"),))
    if head.media_type in {PROTOBUF, JSON}:
        return None
    if head.media_type.startswith("application/grpc"):
        text = "gRPC needs HTTP/2 (with prior knowledge, or by ALPN over TLS)"
    else:
        text = f"send Content-Type {PROTOBUF} or {JSON}"
    return _Fault(GrpcCode.INVALID_ARGUMENT, 415, text)


def _too_large() -> _Fault:
    text = f"the body is larger than {MAX_BODY_BYTES} bytes: send smaller batches"
    return _Fault(GrpcCode.RESOURCE_EXHAUSTED, 413, text)


def _decode(message: _Message) -> ExportRequest | _Fault:
    """Decompress and parse."""
    data = _decompressed(message)
    return data if isinstance(data, _Fault) else _parsed(message, data)


def _decompressed(message: _Message) -> bytes | _Fault:
    try:
        return decompress(message.encoding, message.raw)
    except TooLargeError as error:
        return _Fault(GrpcCode.RESOURCE_EXHAUSTED, 413, str(error))
    except UnknownEncodingError as error:
        accepted = (("accept-encoding", _ACCEPTED_ENCODINGS),)
        return _Fault(GrpcCode.UNIMPLEMENTED, 415, str(error), headers=accepted)
    except EncodingError as error:
        return _Fault(GrpcCode.INVALID_ARGUMENT, 400, str(error))


def _parsed(message: _Message, data: bytes) -> ExportRequest | _Fault:
    assert message.service is not None  # noqa: S101 - a message without a service has a fault
    request_type = message.service.request
    try:
        if message.is_json:
            return json_codec.decode(request_type, data)
        request = request_type()
        request.ParseFromString(data)
    except json_codec.OtlpJsonError as error:
        violation = (error.path, error.problem)
        return _Fault(GrpcCode.INVALID_ARGUMENT, 400, str(error), violation)
    except DecodeError:
        text = f"the body is not an {request_type.DESCRIPTOR.name} in protobuf"
        return _Fault(GrpcCode.INVALID_ARGUMENT, 400, text)
    return request


def _grpc_answer(message: _Message, decoded: ExportRequest | _Fault) -> tuple[Answer, str]:
    headers = [
        (b"content-type", b"application/grpc"),
        (b"grpc-accept-encoding", _ACCEPTED_ENCODINGS.replace(" ", "").encode()),
    ]
    if not isinstance(decoded, _Fault):
        body = frame(_response(message).SerializeToString())
        return Answer(200, headers, body, [(b"grpc-status", b"0")]), GrpcCode.OK.name
    details = status_bytes(decoded.grpc, decoded.text, _violations(decoded))
    trailers = [
        (b"grpc-status", str(int(decoded.grpc)).encode()),
        (b"grpc-message", quote(decoded.text, safe=_MESSAGE_SAFE).encode()),
        (b"grpc-status-details-bin", base64.b64encode(details).rstrip(b"=")),
    ]
    return Answer(200, headers, b"", trailers), decoded.grpc.name


def _http_answer(message: _Message, decoded: ExportRequest | _Fault) -> tuple[Answer, str]:
    """Answer in the request's own encoding; errors to a request of neither are JSON."""
    if isinstance(decoded, _Fault):
        is_json = message.is_json or decoded.http in {404, 405, 415}
        write = status_json if is_json else status_bytes
        body = write(decoded.grpc, decoded.text, _violations(decoded))
        status, extra = decoded.http, decoded.headers
    else:
        is_json = message.is_json
        response = _response(message)
        body = json_codec.encode(response) if is_json else response.SerializeToString()
        status, extra = 200, ()
    headers = [
        ("content-type", JSON if is_json else PROTOBUF),
        ("content-length", str(len(body))),
        *extra,
    ]
    return Answer(status, [(n.encode(), v.encode()) for n, v in headers], body), str(status)


def _response(message: _Message) -> Message:
    """Make the answer for full success: `partial_success` stays unset (specification)."""
    assert message.service is not None  # noqa: S101 - a message without a service has a fault
    return message.service.response()


def _violations(fault: _Fault) -> list[tuple[str, str]]:
    return [fault.violation] if fault.violation else []


def _record(
    head: Head, message: _Message, decoded: ExportRequest | _Fault, shown: str, at: datetime
) -> Record:
    return Record(
        time=at,
        protocol=Protocol.GRPC if head.is_grpc else Protocol.HTTP,
        path=masked_path(head.path),
        signal=message.service.signal if message.service else None,
        services=() if isinstance(decoded, _Fault) else service_names(decoded),
        items=0 if isinstance(decoded, _Fault) else item_count(decoded),
        bytes=len(message.raw),
        encoding=message.encoding,
        content_type=head.header("content-type"),
        headers=masked_headers(head.headers),
        sha256=hashlib.sha256(message.raw).hexdigest(),
        peer=head.peer,
        answer=shown,
        error=decoded.text if isinstance(decoded, _Fault) else "",
    )
