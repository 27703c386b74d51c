"""Parses responses into one form for all protocols. `explain` explains them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import unquote

from google.protobuf.message import DecodeError, Message

from gateway.otlp import json_codec
from gateway.otlp.encodings import EncodingError, decompress
from gateway.otlp.framing import FramingError, unframe
from gateway.otlp.rpc_status import RpcStatus, parse_retry_info, parse_status, parse_status_json
from gateway.otlp.services import Service
from gateway.outcome import GrpcCode

OK_HTTP: Final = 200
RETRYABLE_GRPC: Final = frozenset(
    {
        GrpcCode.CANCELLED,
        GrpcCode.DEADLINE_EXCEEDED,
        GrpcCode.ABORTED,
        GrpcCode.OUT_OF_RANGE,
        GrpcCode.UNAVAILABLE,
        GrpcCode.DATA_LOSS,
    }
)
"""OTLP specification, "Failures" of OTLP/gRPC; RESOURCE_EXHAUSTED only with RetryInfo."""
RETRYABLE_HTTP: Final = frozenset({429, 502, 503, 504})
"""OTLP specification, "Retryable Response Codes"."""


@dataclass(frozen=True, slots=True)
class ExportResponse:
    """The response to one Export request."""

    grpc: GrpcCode | None
    """Set if it is a gRPC response."""
    http: int
    message: str = ""
    """The server's error message, not sanitized."""
    reason: str = ""
    domain: str = ""
    retry_after_s: float | None = None
    rejected: int = 0
    """Items that the server rejected in an otherwise accepted request (partial success)."""
    warning: str = ""
    """`partial_success.error_message`."""
    violations: tuple[str, ...] = ()
    location: str = ""
    """The target of a redirect."""
    is_agents: bool = False
    """Whether it responds to an agent's request: any 2xx is success, without a body."""
    is_otlp: bool = True
    """False if it is not an OTLP response, but a web page or another API's response."""

    @property
    def is_accepted(self) -> bool:
        """Whether the server accepted the request, at least in part."""
        if self.is_agents:
            return 200 <= self.http < 300  # noqa: PLR2004 - RFC 9110 §15.3
        if not self.is_otlp:
            return False
        return self.http == OK_HTTP if self.grpc is None else self.grpc is GrpcCode.OK

    @property
    def is_retryable(self) -> bool:
        """Whether OTLP senders keep their data and retry."""
        if self.grpc is None:
            return self.http in RETRYABLE_HTTP
        if self.grpc is GrpcCode.RESOURCE_EXHAUSTED:
            return self.retry_after_s is not None
        return self.grpc in RETRYABLE_GRPC

    @property
    def code(self) -> str:
        """The code as people write it: `UNAUTHENTICATED`, `HTTP 401`."""
        return f"HTTP {self.http}" if self.grpc is None else self.grpc.name


def parse_grpc_response(
    service: Service,
    http_status: int,
    headers: Mapping[str, str],
    trailers: Mapping[str, str],
    body: bytes,
) -> ExportResponse:
    """Parse a gRPC response. In a trailers-only response the trailers are in the headers."""
    if not headers.get("content-type", "").startswith("application/grpc"):
        return _foreign(http_status, headers)
    fields = {**headers, **trailers}
    status = _grpc_status(fields)
    code = _grpc_code(fields.get("grpc-status"))
    if code is GrpcCode.OK:
        return _grpc_success(service, http_status, headers, body)
    return ExportResponse(
        grpc=code,
        http=http_status,
        message=unquote(fields.get("grpc-message", "")) or status.message,
        reason=status.reason,
        domain=status.domain,
        retry_after_s=status.retry_after_s,
        violations=status.violations,
    )


def _foreign(http_status: int, headers: Mapping[str, str]) -> ExportResponse:
    """Parse a non-gRPC response to a gRPC call, such as a load balancer's or a web server's."""
    content_type = headers.get("content-type", "none")
    message = f"content type {content_type}" if http_status == OK_HTTP else ""
    location = headers.get("location", "")
    return ExportResponse(None, http_status, message=message, location=location, is_otlp=False)


def _grpc_code(text: str | None) -> GrpcCode:
    try:
        return GrpcCode(int(text)) if text is not None else GrpcCode.UNKNOWN
    except ValueError:
        return GrpcCode.UNKNOWN


def _grpc_status(fields: Mapping[str, str]) -> RpcStatus:
    """Parse the details, and the retry hint from both places that servers use."""
    status = parse_status(_binary(fields.get("grpc-status-details-bin"))) or RpcStatus()
    hint = _binary(fields.get("google.rpc.retryinfo-bin"))
    if status.retry_after_s is not None or not hint:
        return status
    return RpcStatus(
        status.code,
        status.message,
        status.reason,
        status.domain,
        parse_retry_info(hint),
        status.violations,
    )


def _binary(text: str | None) -> bytes:
    """Decode binary metadata: base64, with or without padding (gRPC over HTTP/2)."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4)) if text else b""
    except binascii.Error:
        return b""


def _grpc_success(
    service: Service, http_status: int, headers: Mapping[str, str], body: bytes
) -> ExportResponse:
    try:
        message = unframe(body)
        encoding = headers.get("grpc-encoding", "") if message.is_compressed else ""
        response = service.response()
        response.ParseFromString(decompress(encoding, message.payload))
    except (FramingError, EncodingError, DecodeError) as error:
        return ExportResponse(None, http_status, message=str(error), is_otlp=False)
    return _success(service, GrpcCode.OK, http_status, response)


def parse_http_response(
    service: Service, status: int, headers: Mapping[str, str], body: bytes
) -> ExportResponse:
    """Parse an OTLP/HTTP response. Header names must be in lower case."""
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if status == OK_HTTP:
        return _http_success(service, content_type, body)
    parsed = None
    if content_type == "application/json":
        parsed = parse_status_json(body)
    elif content_type == "application/x-protobuf":
        parsed = parse_status(body)
    found = parsed or RpcStatus()
    retry_after = _retry_after(headers.get("retry-after"), headers.get("date"))
    return ExportResponse(
        grpc=None,
        http=status,
        message=found.message,
        reason=found.reason,
        domain=found.domain,
        retry_after_s=found.retry_after_s if retry_after is None else retry_after,
        violations=found.violations,
        location=headers.get("location", ""),
        is_otlp=parsed is not None,
    )


def _http_success(service: Service, content_type: str, body: bytes) -> ExportResponse:
    try:
        if content_type == "application/json":
            return _success(service, None, OK_HTTP, json_codec.decode(service.response, body))
        if content_type == "application/x-protobuf":
            response = service.response()
            response.ParseFromString(body)
            return _success(service, None, OK_HTTP, response)
    except (DecodeError, json_codec.OtlpJsonError) as error:
        return ExportResponse(None, OK_HTTP, message=str(error), is_otlp=False)
    message = f"content type {content_type or 'none'}"
    return ExportResponse(None, OK_HTTP, message=message, is_otlp=False)


def _success(
    service: Service, code: GrpcCode | None, status: int, response: Message
) -> ExportResponse:
    partial = getattr(response, "partial_success")  # noqa: B009 - field of all four, of no base
    return ExportResponse(
        grpc=code,
        http=status,
        rejected=getattr(partial, service.rejected_field),
        warning=partial.error_message,
    )


def _retry_after(text: str | None, date: str | None) -> float | None:
    """Parse `Retry-After`: seconds, or a date, which is relative to the response's `Date`."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
        since = parsedate_to_datetime(date or "")
        return max(0.0, (until - since).total_seconds())
    except (TypeError, ValueError):
        return None
