from __future__ import annotations

import base64

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import (  # type: ignore[import-untyped] # no py.typed in googleapis-common-protos
    error_details_pb2,
    status_pb2,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from gateway.model import Signal
from gateway.otlp.encodings import compress
from gateway.otlp.framing import frame
from gateway.otlp.services import SERVICES
from gateway.outcome import GrpcCode
from gateway.sender.response import ExportResponse, parse_grpc_response, parse_http_response

TRACES = SERVICES[Signal.TRACES]
GRPC = {"content-type": "application/grpc"}
PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json; charset=utf-8"}
PARTIAL = ExportTraceServiceResponse(
    partial_success=ExportTracePartialSuccess(rejected_spans=2, error_message="too old")
).SerializeToString()


def _base64(data: bytes, *, padded: bool = False) -> str:
    text = base64.b64encode(data).decode()
    return text if padded else text.rstrip("=")


def _status(code: int, *details: object) -> bytes:
    status = status_pb2.Status(code=code, message="words")
    for detail in details:
        status.details.add().Pack(detail)
    return bytes(status.SerializeToString())


INFO = error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="otlp-gateway")
RETRY = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2))


def test_an_empty_response_message_is_full_success() -> None:
    answer = parse_grpc_response(TRACES, 200, GRPC, {"grpc-status": "0"}, frame(b""))
    assert answer == ExportResponse(GrpcCode.OK, 200)
    assert answer.is_accepted


def test_partial_success_is_read_in_every_encoding() -> None:
    json_body = b'{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}'
    packed = frame(compress("gzip", PARTIAL, "grpc"), is_compressed=True)
    answers = [
        parse_grpc_response(TRACES, 200, GRPC, {"grpc-status": "0"}, frame(PARTIAL)),
        parse_grpc_response(
            TRACES, 200, GRPC | {"grpc-encoding": "gzip"}, {"grpc-status": "0"}, packed
        ),
        parse_http_response(TRACES, 200, PROTOBUF, PARTIAL),
        parse_http_response(TRACES, 200, JSON, json_body),
    ]
    for answer in answers:
        assert answer.is_accepted
        assert (answer.rejected, answer.warning) == (2, "too old")


def test_a_trailers_only_refusal_is_read_from_the_head() -> None:
    headers = GRPC | {
        "grpc-status": "14",
        "grpc-message": "100%25 full",
        "grpc-status-details-bin": _base64(_status(14, INFO, RETRY)),
    }
    answer = parse_grpc_response(TRACES, 200, headers, {}, b"")
    assert (answer.grpc, answer.message) == (GrpcCode.UNAVAILABLE, "100% full")
    assert (answer.reason, answer.domain) == ("OVERLOADED", "otlp-gateway")
    assert (answer.retry_after_s, answer.is_retryable, answer.is_accepted) == (2, True, False)


@pytest.mark.parametrize("padded", [True, False])
def test_binary_metadata_is_read_with_and_without_padding(*, padded: bool) -> None:
    details = _base64(_status(16, INFO), padded=padded)
    trailers = {"grpc-status": "16", "grpc-status-details-bin": details}
    assert parse_grpc_response(TRACES, 200, GRPC, trailers, b"").reason == "OVERLOADED"


def test_the_retry_hint_is_found_in_the_python_sdks_metadata_too() -> None:
    trailers = {
        "grpc-status": "8",
        "google.rpc.retryinfo-bin": _base64(RETRY.SerializeToString()),
    }
    answer = parse_grpc_response(TRACES, 200, GRPC, trailers, b"")
    assert (answer.retry_after_s, answer.is_retryable) == (2, True)


def test_resource_exhausted_without_a_hint_is_final() -> None:
    assert not parse_grpc_response(TRACES, 200, GRPC, {"grpc-status": "8"}, b"").is_retryable


@pytest.mark.parametrize("trailers", [{}, {"grpc-status": "x"}, {"grpc-status": "99"}])
def test_an_unreadable_status_is_unknown(trailers: dict[str, str]) -> None:
    assert parse_grpc_response(TRACES, 200, GRPC, trailers, b"").grpc is GrpcCode.UNKNOWN


def test_damaged_details_are_ignored() -> None:
    trailers = {"grpc-status": "7", "grpc-status-details-bin": "*", "grpc-message": "no"}
    assert parse_grpc_response(TRACES, 200, GRPC, trailers, b"") == ExportResponse(
        GrpcCode.PERMISSION_DENIED, 200, message="no"
    )


@pytest.mark.parametrize("body", [b"", frame(b"\xff"), frame(b"x", is_compressed=True)])
def test_ok_with_an_undecodable_message_is_no_acceptance(body: bytes) -> None:
    answer = parse_grpc_response(TRACES, 200, GRPC, {"grpc-status": "0"}, body)
    assert not answer.is_accepted
    assert not answer.is_otlp


def test_an_http_answer_to_a_grpc_call_is_told_as_such() -> None:
    answer = parse_grpc_response(TRACES, 404, {"content-type": "text/html"}, {}, b"<html>")
    assert (answer.grpc, answer.http, answer.is_otlp) == (None, 404, False)


@pytest.mark.parametrize("body, headers", [(b"<html>", {}), (b"hi", {"content-type": "text/html"})])
def test_a_web_page_with_status_200_is_no_acceptance(body: bytes, headers: dict[str, str]) -> None:
    answer = parse_http_response(TRACES, 200, headers, body)
    assert not answer.is_accepted


@pytest.mark.parametrize("headers", [PROTOBUF, JSON])
def test_an_undecodable_success_is_no_acceptance(headers: dict[str, str]) -> None:
    assert not parse_http_response(TRACES, 200, headers, b"\xff").is_accepted


def test_an_http_refusal_is_read_from_its_status_body() -> None:
    answer = parse_http_response(TRACES, 503, PROTOBUF | {"retry-after": "3"}, _status(14, INFO))
    assert (answer.message, answer.reason, answer.retry_after_s) == ("words", "OVERLOADED", 3)
    assert answer.is_retryable
    answer = parse_http_response(TRACES, 401, JSON, b'{"code":16,"message":"no"}')
    assert (answer.message, answer.is_retryable, answer.code) == ("no", False, "HTTP 401")


def test_a_proxys_error_page_is_no_otlp_but_keeps_its_meaning() -> None:
    answer = parse_http_response(TRACES, 502, {"content-type": "text/html"}, b"<html>")
    assert (answer.is_otlp, answer.is_retryable) == (False, True)


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({"retry-after": "7"}, 7),
        (
            {
                "retry-after": "Wed, 21 Oct 2026 07:28:30 GMT",
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
            },
            30,
        ),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({"retry-after": "soon", "date": "now"}, None),
        ({"retry-after": "-5"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert parse_http_response(TRACES, 503, headers, b"").retry_after_s == seconds
