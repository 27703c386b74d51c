from __future__ import annotations

import json

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import (  # type: ignore[import-untyped] # no py.typed in googleapis-common-protos
    error_details_pb2,
    status_pb2,
)

from gateway.otlp.rpc_status import (
    RpcStatus,
    parse_retry_info,
    parse_status,
    parse_status_json,
    status_bytes,
    status_json,
)


def _full_status() -> bytes:
    status = status_pb2.Status(code=14, message="try again")
    status.details.add().Pack(error_details_pb2.DebugInfo(detail="skipped"))
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="otlp-gateway")
    )
    retry_delay = Duration(seconds=2, nanos=500_000_000)
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=retry_delay))
    return bytes(status.SerializeToString())


def test_details_of_a_protobuf_status_are_read() -> None:
    assert parse_status(_full_status()) == RpcStatus(
        code=14,
        message="try again",
        reason="OVERLOADED",
        domain="otlp-gateway",
        retry_after_s=2.5,
    )


def test_details_of_a_json_status_are_read() -> None:
    text = json.dumps(
        {
            "code": 14,
            "message": "try again",
            "details": [
                {"@type": "type.googleapis.com/unheard.Of", "x": 1},
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "OVERLOADED",
                    "domain": "otlp-gateway",
                },
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2.5s"},
            ],
        }
    ).encode()
    assert parse_status_json(text) == parse_status(_full_status())


def test_a_status_with_violations_survives_both_encodings() -> None:
    violations = [("resourceSpans[0]", "expected an object")]
    expected = RpcStatus(
        code=3, message="undecodable", violations=("resourceSpans[0]: expected an object",)
    )
    assert parse_status(status_bytes(3, "undecodable", violations)) == expected
    assert parse_status_json(status_json(3, "undecodable", violations)) == expected


def test_a_status_without_retry_info_has_no_delay() -> None:
    status = parse_status(status_bytes(8, "too large"))
    assert status is not None
    assert status.retry_after_s is None


@pytest.mark.parametrize("body", [b"<html>502 Bad Gateway</html>", b"\xff\xff", b"404 page"])
def test_bytes_that_are_no_protobuf_status_are_none(body: bytes) -> None:
    assert parse_status(body) is None


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b"7", b'{"code":"x"}', b'{"message":[]}', b"\xff", b"[" * 100_000]
)
def test_text_that_is_no_json_status_is_none(body: bytes) -> None:
    assert parse_status_json(body) is None


def test_a_json_status_with_odd_details_is_still_a_status() -> None:
    details = b'[1,{"@type":"x/google.rpc.RetryInfo","retryDelay":"soons"}]'
    text = b'{"code":7,"message":"no","details":' + details + b"}"
    assert parse_status_json(text) == RpcStatus(code=7, message="no")


def test_the_python_sdks_retry_metadata_is_read() -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=3))
    assert parse_retry_info(retry.SerializeToString()) == 3
    assert parse_retry_info(b"\xff") is None
