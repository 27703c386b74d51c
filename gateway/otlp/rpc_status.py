"""`google.rpc.Status`: the error body of OTLP/HTTP and the details of a gRPC status.

Only this module uses the generated `google.rpc` modules, which have no types; its own functions are
typed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message
from google.rpc import (  # type: ignore[import-untyped] # no py.typed in googleapis-common-protos
    error_details_pb2,
    status_pb2,
)

_NANOS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RpcStatus:
    """The parts of a `google.rpc.Status` that senders of telemetry can use."""

    code: int = 0
    message: str = ""
    reason: str = ""
    """`ErrorInfo.reason`: UPPER_SNAKE_CASE, for programs; empty if there is no ErrorInfo."""
    domain: str = ""
    """`ErrorInfo.domain`: the system that defines the reason."""
    retry_after_s: float | None = None
    """`RetryInfo.retry_delay`."""
    violations: tuple[str, ...] = ()
    """`BadRequest.field_violations`, as `field: description`."""


def status_bytes(code: int, message: str, violations: Iterable[tuple[str, str]] = ()) -> bytes:
    """Encode a status, with `BadRequest` details if there are violations.

    `violations` are pairs of field and description.
    """
    return _status(code, message, violations).SerializeToString()


def status_json(code: int, message: str, violations: Iterable[tuple[str, str]] = ()) -> bytes:
    """Encode the same status as JSON."""
    status = MessageToDict(_status(code, message, violations))
    return json.dumps(status, ensure_ascii=False).encode()


def parse_status(data: bytes) -> RpcStatus | None:
    """Decode a protobuf status; None if the bytes are not a status.

    Proxies and load balancers may respond with anything, so that is not an error.
    """
    status = status_pb2.Status()
    try:
        status.ParseFromString(data)
    except DecodeError:
        return None
    return _read(status)


def parse_status_json(data: bytes) -> RpcStatus | None:
    """Decode a JSON status; None if the text is not a status.

    Unknown kinds of details are skipped, as protobuf's own JSON parser would not.
    """
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    code, message, details = fields.get("code", 0), fields.get("message", ""), fields.get("details")
    if not isinstance(code, int) or not isinstance(message, str):
        return None
    by_type = _details_by_type(details)
    info = by_type.get("google.rpc.ErrorInfo", {})
    retry = by_type.get("google.rpc.RetryInfo", {})
    return RpcStatus(
        code=code,
        message=message,
        reason=str(info.get("reason", "")),
        domain=str(info.get("domain", "")),
        retry_after_s=_json_duration(retry.get("retryDelay")),
        violations=_json_violations(by_type.get("google.rpc.BadRequest", {})),
    )


def parse_retry_info(data: bytes) -> float | None:
    """Decode the metadata `google.rpc.retryinfo-bin`: seconds, or None if it is not a RetryInfo."""
    retry = error_details_pb2.RetryInfo()
    try:
        retry.ParseFromString(data)
    except DecodeError:
        return None
    return _seconds(retry)


def _status(code: int, message: str, violations: Iterable[tuple[str, str]]) -> Message:
    bad_request = error_details_pb2.BadRequest()
    for field, description in violations:
        bad_request.field_violations.add(field=field, description=description)
    status = status_pb2.Status(code=code, message=message)
    if bad_request.field_violations:
        status.details.add().Pack(bad_request)
    assert isinstance(status, Message)  # noqa: S101 - gives the untyped value its type
    return status


def _read(status: status_pb2.Status) -> RpcStatus:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    bad_request = error_details_pb2.BadRequest()
    has_retry = False
    for detail in status.details:
        try:
            detail.Unpack(info)
            has_retry |= detail.Unpack(retry)
            detail.Unpack(bad_request)
        except DecodeError:
            continue
    return RpcStatus(
        code=status.code,
        message=status.message,
        reason=info.reason,
        domain=info.domain,
        retry_after_s=_seconds(retry) if has_retry else None,
        violations=tuple(f"{v.field}: {v.description}" for v in bad_request.field_violations),
    )


def _seconds(retry: error_details_pb2.RetryInfo) -> float:
    return float(retry.retry_delay.seconds) + float(retry.retry_delay.nanos) / _NANOS


def _details_by_type(details: object) -> dict[str, dict[str, object]]:
    """Index a JSON status's details by message name (the part of `@type` after the last slash)."""
    if not isinstance(details, list):
        return {}
    return {
        str(detail.get("@type", "")).rpartition("/")[2]: detail
        for detail in details
        if isinstance(detail, dict)
    }


def _json_duration(text: object) -> float | None:
    """Read protobuf's JSON duration, e.g. `1.5s`."""
    if not isinstance(text, str) or not text.endswith("s"):
        return None
    try:
        return float(text[:-1])
    except ValueError:
        return None


def _json_violations(bad_request: dict[str, object]) -> tuple[str, ...]:
    violations = bad_request.get("fieldViolations")
    if not isinstance(violations, list):
        return ()
    return tuple(
        f"{violation.get('field', '')}: {violation.get('description', '')}"
        for violation in violations
        if isinstance(violation, dict)
    )
