"""Decodes an OTLP request and builds the response: the part of the receiver without I/O.

The input is a complete request, the output is a `ReceivedRequest` and a response. `app` reads and
writes. One function decodes both OTLP/HTTP and OTLP/gRPC, because only the envelope differs.
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
from gateway.receiver.received import ReceivedRequest, masked_headers, masked_path

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
_ACCEPTED_ENCODINGS: Final = ", ".join(DECODABLE)
_MESSAGE_SAFE: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
"""Characters that are not escaped in `grpc-message`, besides letters and digits."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head. Header names are in lower case."""

    http_version: str
    method: str
    path: str
    """With the query, as received."""
    headers: tuple[tuple[str, str], ...]
    peer: str

    def header(self, name: str) -> str:
        """Return the first value of a header, or an empty string."""
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


class HttpResponse(NamedTuple):
    """The response. `trailers` is None for OTLP/HTTP."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]] | None = None


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a request is not accepted, with the codes of both protocols."""

    grpc: GrpcCode
    http: int
    text: str
    violation: tuple[str, str] | None = None
    """Path and problem, for `BadRequest.field_violations`."""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Message:
    """A request's message before it is decoded; `refusal` is set if the envelope is wrong."""

    service: Service | None
    raw: bytes
    encoding: str
    is_json: bool = False
    refusal: _Refusal | None = None


def interpret(head: Head, body: bytes | None, at: datetime) -> tuple[ReceivedRequest, HttpResponse]:
    """Decode a request and build the response.

    Args:
        head: the request's head.
        body: the whole body; None if it was larger than `MAX_BODY_BYTES`.
        at: when the request was complete.
    """
    message = _grpc_message(head, body) if head.is_grpc else _http_message(head, body)
    decoded = message.refusal or _decode(message)
    if head.is_grpc:
        response, shown = _grpc_response(message, decoded)
    else:
        response, shown = _http_response(message, decoded)
    return _received(head, message, decoded, shown, at), response


def _grpc_message(head: Head, body: bytes | None) -> _Message:
    service = BY_GRPC_PATH.get(head.path)
    if service is None:
        text = "unknown method: OTLP/gRPC uses the Export method of the four collector services"
        return _Message(
            None, body or b"", IDENTITY, refusal=_Refusal(GrpcCode.UNIMPLEMENTED, 404, text)
        )
    if body is None:
        return _Message(service, b"", IDENTITY, refusal=_too_large())
    try:
        flagged, raw = unframe(body)
    except FramingError as error:
        refusal = _Refusal(GrpcCode.INVALID_ARGUMENT, 400, str(error))
        return _Message(service, body, IDENTITY, refusal=refusal)
    encoding = head.header("grpc-encoding") or IDENTITY
    if flagged and encoding == IDENTITY:
        # gRPC "Compression": a set flag without an encoding is a bug in the client.
        text = "the message is flagged as compressed, but there is no grpc-encoding"
        return _Message(service, raw, encoding, refusal=_Refusal(GrpcCode.INTERNAL, 400, text))
    return _Message(service, raw, encoding if flagged else IDENTITY)


def _http_message(head: Head, body: bytes | None) -> _Message:
    path = head.path.partition("?")[0]
    # A backend's URL may have a path before the signal's (`/stsAgent/otel`, a proxy's prefix).
    service = next((s for s in SERVICES.values() if path.endswith(s.http_path)), None)
    encoding = head.header("content-encoding") or IDENTITY
    refusal = _too_large() if body is None else None
    return _Message(
        service,
        body or b"",
        encoding,
        head.media_type == JSON,
        _http_refusal(head, service) or refusal,
    )


def _http_refusal(head: Head, service: Service | None) -> _Refusal | None:
    if service is None:
        paths = ", ".join(known.http_path for known in SERVICES.values())
        return _Refusal(GrpcCode.UNIMPLEMENTED, 404, f"unknown path: OTLP/HTTP uses POST {paths}")
    if head.method != "POST":
        text = "OTLP/HTTP requires POST"
        return _Refusal(GrpcCode.UNIMPLEMENTED, 405, text, headers=(("allow", "POST"),))
    if head.media_type in {PROTOBUF, JSON}:
        return None
    if head.media_type.startswith("application/grpc"):
        text = "gRPC needs HTTP/2 (with prior knowledge, or by ALPN over TLS)"
    else:
        text = f"send Content-Type {PROTOBUF} or {JSON}"
    return _Refusal(GrpcCode.INVALID_ARGUMENT, 415, text)


def _too_large() -> _Refusal:
    text = f"the body is larger than {MAX_BODY_BYTES} bytes: send smaller batches"
    return _Refusal(GrpcCode.RESOURCE_EXHAUSTED, 413, text)


def _decode(message: _Message) -> ExportRequest | _Refusal:
    """Decompress and parse."""
    data = _decompressed(message)
    return data if isinstance(data, _Refusal) else _parsed(message, data)


def _decompressed(message: _Message) -> bytes | _Refusal:
    try:
        return decompress(message.encoding, message.raw)
    except TooLargeError as error:
        return _Refusal(GrpcCode.RESOURCE_EXHAUSTED, 413, str(error))
    except UnknownEncodingError as error:
        accepted = (("accept-encoding", _ACCEPTED_ENCODINGS),)
        return _Refusal(GrpcCode.UNIMPLEMENTED, 415, str(error), headers=accepted)
    except EncodingError as error:
        return _Refusal(GrpcCode.INVALID_ARGUMENT, 400, str(error))


def _parsed(message: _Message, data: bytes) -> ExportRequest | _Refusal:
    assert message.service is not None  # noqa: S101 - a message without a service has a refusal
    request_type = message.service.request
    try:
        if message.is_json:
            return json_codec.decode(request_type, data)
        request = request_type()
        request.ParseFromString(data)
    except json_codec.OtlpJsonError as error:
        violation = (error.path, error.problem)
        return _Refusal(GrpcCode.INVALID_ARGUMENT, 400, str(error), violation)
    except DecodeError:
        text = f"the body is not an {request_type.DESCRIPTOR.name} in protobuf"
        return _Refusal(GrpcCode.INVALID_ARGUMENT, 400, text)
    return request


def _grpc_response(
    message: _Message, decoded: ExportRequest | _Refusal
) -> tuple[HttpResponse, str]:
    headers = [
        (b"content-type", b"application/grpc"),
        (b"grpc-accept-encoding", _ACCEPTED_ENCODINGS.replace(" ", "").encode()),
    ]
    if not isinstance(decoded, _Refusal):
        body = frame(_export_response(message).SerializeToString())
        return HttpResponse(200, headers, body, [(b"grpc-status", b"0")]), GrpcCode.OK.name
    details = status_bytes(decoded.grpc, decoded.text, _violations(decoded))
    trailers = [
        (b"grpc-status", str(int(decoded.grpc)).encode()),
        (b"grpc-message", quote(decoded.text, safe=_MESSAGE_SAFE).encode()),
        (b"grpc-status-details-bin", base64.b64encode(details).rstrip(b"=")),
    ]
    return HttpResponse(200, headers, b"", trailers), decoded.grpc.name


def _http_response(
    message: _Message, decoded: ExportRequest | _Refusal
) -> tuple[HttpResponse, str]:
    """Respond in the request's own encoding; errors for any other encoding are JSON."""
    if isinstance(decoded, _Refusal):
        is_json = message.is_json or decoded.http in {404, 405, 415}
        write = status_json if is_json else status_bytes
        body = write(decoded.grpc, decoded.text, _violations(decoded))
        status, extra = decoded.http, decoded.headers
    else:
        is_json = message.is_json
        response = _export_response(message)
        body = json_codec.encode(response) if is_json else response.SerializeToString()
        status, extra = 200, ()
    headers = [
        ("content-type", JSON if is_json else PROTOBUF),
        ("content-length", str(len(body))),
        *extra,
    ]
    return HttpResponse(status, [(n.encode(), v.encode()) for n, v in headers], body), str(status)


def _export_response(message: _Message) -> Message:
    """Build the response for full success: `partial_success` stays unset (specification)."""
    assert message.service is not None  # noqa: S101 - a message without a service has a refusal
    return message.service.response()


def _violations(refusal: _Refusal) -> list[tuple[str, str]]:
    return [refusal.violation] if refusal.violation else []


def _received(
    head: Head, message: _Message, decoded: ExportRequest | _Refusal, shown: str, at: datetime
) -> ReceivedRequest:
    return ReceivedRequest(
        time=at,
        protocol=Protocol.GRPC if head.is_grpc else Protocol.HTTP,
        path=masked_path(head.path),
        signal=message.service.signal if message.service else None,
        services=() if isinstance(decoded, _Refusal) else service_names(decoded),
        items=0 if isinstance(decoded, _Refusal) else item_count(decoded),
        bytes=len(message.raw),
        encoding=message.encoding,
        content_type=head.header("content-type"),
        headers=masked_headers(head.headers),
        sha256=hashlib.sha256(message.raw).hexdigest(),
        peer=head.peer,
        answer=shown,
        error=decoded.text if isinstance(decoded, _Refusal) else "",
    )
