from __future__ import annotations

import contextlib

import pytest
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.health import (
    SERVICE,
    HealthRequestError,
    ServingStatus,
    decode_request,
    encode_response,
)


def framed(message: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


@given(st.text(max_size=100))
def test_the_service_that_a_client_asks_for_is_read(service: str) -> None:
    message = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    assert decode_request(framed(message)) == service


@pytest.mark.parametrize("status", ServingStatus)
def test_a_client_reads_the_status(status: ServingStatus) -> None:
    body = encode_response(status)
    assert framed(body[5:]) == body
    assert health_pb2.HealthCheckResponse.FromString(body[5:]).status == status


def test_names_and_numbers_are_the_services_own() -> None:
    assert health_pb2.DESCRIPTOR.services_by_name["Health"].full_name == SERVICE
    known = health_pb2.HealthCheckResponse.ServingStatus.items()
    assert {status.name: status.value for status in ServingStatus} == dict(known)


@pytest.mark.parametrize(
    "unknown",
    [b"\x10\x96\x01", b"\x11" + bytes(8), b"\x12\x03abc", b"\x15" + bytes(4)],
)
def test_fields_of_a_later_version_are_skipped(unknown: bytes) -> None:
    assert decode_request(framed(unknown + b"\x0a\x01x" + unknown)) == "x"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0\0",
        framed(b"") + b"x",
        framed(b"") * 2,
        framed(b"\x0a\x01x")[:-1],
        framed(b"\x0a\x01x", flag=1),
        framed(b"\x0a\x05x"),
        framed(b"\x0a"),
        framed(b"\xff" * 20),
        framed(b"\x0b"),
        framed(b"\x11\x00"),
        framed(b"\x00\x00"),
        framed(b"\x02\x01x"),
        framed(b"\x80\xab\x80\xff\x80\x00\x0a"),
        framed(b"\x80\x80\x80\x80\x10\x00"),
        framed(b"\x0a\x01\xff"),
        framed(b"\x0a\x01\xff\x0a\x01x"),
    ],
)
def test_what_is_not_one_whole_uncompressed_request_is_refused(body: bytes) -> None:
    with pytest.raises(HealthRequestError):
        decode_request(body)


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else_and_what_is_read_is_what_protobuf_reads(
    message: bytes,
) -> None:
    with contextlib.suppress(HealthRequestError):
        service = decode_request(framed(message))
        assert health_pb2.HealthCheckRequest.FromString(message).service == service
