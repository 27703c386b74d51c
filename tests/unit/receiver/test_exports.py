from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Protocol, Signal
from gateway.otlp import json_codec
from gateway.otlp.encodings import ENCODINGS, Transport, compress
from gateway.otlp.framing import frame, unframe
from gateway.otlp.rpc_status import RpcStatus, parse_status, parse_status_json
from gateway.otlp.services import SERVICES, Service
from gateway.receiver.exports import Head, HttpResponse, interpret
from gateway.receiver.received import ReceivedRequest

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TRACES = SERVICES[Signal.TRACES]
FIRST_FIELD = {
    Signal.TRACES: "resourceSpans",
    Signal.METRICS: "resourceMetrics",
    Signal.LOGS: "resourceLogs",
    Signal.PROFILES: "resourceProfiles",
}


def _head(path: str, content_type: str = "", http_version: str = "1.1", **extra: str) -> Head:
    headers = {"content-type": content_type} | {k.replace("_", "-"): v for k, v in extra.items()}
    method = headers.pop("method", "POST")
    return Head(http_version, method, path, tuple(headers.items()), "10.0.0.1:1234")


def _grpc(
    service: Service, payload: bytes, encoding: str = "none"
) -> tuple[ReceivedRequest, HttpResponse]:
    extra = {} if encoding == "none" else {"grpc_encoding": encoding}
    body = frame(compress(encoding, payload, "grpc"), is_compressed=encoding != "none")
    return interpret(_head(service.grpc_path, "application/grpc", "2", **extra), body, NOW)


def _http(
    service: Service, body: bytes, content_type: str, **extra: str
) -> tuple[ReceivedRequest, HttpResponse]:
    return interpret(_head(service.http_path, content_type, **extra), body, NOW)


def _header(answer: HttpResponse, name: bytes) -> str:
    return dict(answer.headers)[name].decode()


def _trailers(answer: HttpResponse) -> dict[str, str]:
    assert answer.trailers is not None
    return {name.decode(): value.decode() for name, value in answer.trailers}


def _details(answer: HttpResponse) -> RpcStatus:
    text = _trailers(answer)["grpc-status-details-bin"]
    status = parse_status(base64.b64decode(text + "=" * (-len(text) % 4)))
    assert status is not None
    return status


def _request(service: Service) -> bytes:
    """Make a request with one resource that has a service name, through the JSON codec."""
    name = {"key": "service.name", "value": {"stringValue": "shop"}}
    body = {FIRST_FIELD[service.signal]: [{"resource": {"attributes": [name]}}]}
    return json_codec.decode(service.request, json.dumps(body).encode()).SerializeToString()


EACH_SIGNAL_AND_ENCODING = [
    *((signal, "gzip") for signal in SERVICES),
    *((Signal.TRACES, encoding) for encoding in ENCODINGS if encoding != "gzip"),
]
"""What is unpacked does not depend on the signal."""


@pytest.mark.parametrize("signal, encoding", EACH_SIGNAL_AND_ENCODING)
def test_grpc_is_decoded_in_every_compression_and_acknowledged(
    signal: Signal, encoding: str
) -> None:
    service = SERVICES[signal]
    payload = _request(service)
    record, answer = _grpc(service, payload, encoding)
    raw = compress(encoding, payload, "grpc")
    assert (record.protocol, record.signal, record.services) == (Protocol.GRPC, signal, ("shop",))
    assert (record.answer, record.error) == ("OK", "")
    assert record.encoding == ("identity" if encoding == "none" else encoding)
    assert (record.bytes, record.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert answer.status == 200
    assert _header(answer, b"content-type") == "application/grpc"
    assert unframe(answer.body).payload == b""
    assert answer.trailers == [(b"grpc-status", b"0")]


@pytest.mark.parametrize("signal, encoding", EACH_SIGNAL_AND_ENCODING)
@pytest.mark.parametrize("content_type", ["application/x-protobuf", "application/json"])
def test_http_is_decoded_in_every_compression_and_acknowledged_in_its_own_encoding(
    signal: Signal, content_type: str, encoding: str
) -> None:
    service = SERVICES[signal]
    payload = _request(service)
    if content_type == "application/json":
        request = service.request()
        request.ParseFromString(payload)
        payload = json_codec.encode(request)
    body = compress(encoding, payload, "http")
    extra = {} if encoding == "none" else {"content_encoding": encoding}
    record, answer = _http(service, body, content_type, **extra)
    assert (record.protocol, record.signal, record.services) == (Protocol.HTTP, signal, ("shop",))
    assert (record.bytes, record.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert (record.answer, answer.status, answer.trailers) == ("200", 200, None)
    assert _header(answer, b"content-type") == content_type
    assert answer.body == (b"{}" if content_type == "application/json" else b"")


def test_an_empty_request_is_a_success() -> None:
    assert _grpc(TRACES, b"")[0].answer == "OK"
    assert _http(TRACES, b"", "application/x-protobuf")[1].status == 200


def test_an_uncompressed_message_of_a_compressing_sender_is_read_as_it_is() -> None:
    head = _head(TRACES.grpc_path, "application/grpc", "2", grpc_encoding="gzip")
    record, _ = interpret(head, frame(_request(TRACES)), NOW)
    assert (record.answer, record.encoding) == ("OK", "identity")


@pytest.mark.parametrize("content_type", ["Application/JSON; charset=utf-8", "APPLICATION/JSON"])
def test_content_types_are_read_without_case_and_parameters(content_type: str) -> None:
    assert _http(TRACES, b"{}", content_type)[1].status == 200


def test_a_path_before_the_signals_path_is_accepted() -> None:
    head = _head("/stsAgent/otel/v1/traces?api_key=secret", "application/json")
    record, answer = interpret(head, b"{}", NOW)
    assert answer.status == 200
    assert record.path == "/stsAgent/otel/v1/traces?api_key=***"


@pytest.mark.parametrize(
    "transport, encoding, code, status",
    [("grpc", "br", "UNIMPLEMENTED", 0), ("http", "br", "415", 415)],
)
def test_an_unknown_compression_is_told_with_those_that_are_known(
    transport: Transport, encoding: str, code: str, status: int
) -> None:
    if transport == "grpc":
        head = _head(TRACES.grpc_path, "application/grpc", "2", grpc_encoding=encoding)
        record, answer = interpret(head, frame(b"x", is_compressed=True), NOW)
        assert "zstd" in _header(answer, b"grpc-accept-encoding")
    else:
        record, answer = _http(TRACES, b"x", "application/json", content_encoding=encoding)
        assert answer.status == status
        assert "zstd" in _header(answer, b"accept-encoding")
    assert record.answer == code
    assert "gzip" in record.error


@pytest.mark.parametrize(
    "body, text",
    [
        (frame(b"\xff\xff"), "not an ExportTraceServiceRequest"),
        (b"", "exactly one"),
        (frame(b"") + frame(b""), "announces 0 bytes"),
    ],
)
def test_an_undecodable_grpc_message_is_an_invalid_argument(body: bytes, text: str) -> None:
    record, answer = interpret(_head(TRACES.grpc_path, "application/grpc", "2"), body, NOW)
    trailers = _trailers(answer)
    assert (answer.status, answer.body) == (200, b"")
    assert trailers["grpc-status"] == "3"
    assert text in unquote(trailers["grpc-message"])
    assert text in _details(answer).message
    assert record.answer == "INVALID_ARGUMENT"
    assert text in record.error


def test_an_undecodable_http_body_is_answered_400_in_its_own_encoding() -> None:
    _, answer = _http(TRACES, b"\xff", "application/x-protobuf")
    status = parse_status(answer.body)
    assert answer.status == 400
    assert status is not None
    assert status.code == 3

    _, answer = _http(TRACES, b'{"resourceSpans":7}', "application/json")
    status = parse_status_json(answer.body)
    assert answer.status == 400
    assert status is not None
    assert status.violations == ("resourceSpans: expected an array, found a number",)


def test_a_damaged_compression_is_undecodable() -> None:
    record, answer = _http(TRACES, b"no", "application/json", content_encoding="gzip")
    assert answer.status == 400
    assert "gzip" in record.error


def test_a_compressed_flag_without_an_encoding_is_an_internal_error_as_grpc_says() -> None:
    head = _head(TRACES.grpc_path, "application/grpc", "2")
    record, answer = interpret(head, frame(b"x", is_compressed=True), NOW)
    assert (record.answer, _trailers(answer)["grpc-status"]) == ("INTERNAL", "13")


def test_a_body_over_the_limit_is_refused_without_a_hint_to_try_again() -> None:
    head = _head(TRACES.grpc_path, "application/grpc+proto", "2")
    record, answer = interpret(head, None, NOW)
    assert _trailers(answer)["grpc-status"] == "8"
    assert _details(answer).retry_after_s is None
    assert "smaller" in record.error

    record, answer = interpret(_head("/v1/logs", "application/json"), None, NOW)
    assert (answer.status, record.signal) == (413, Signal.LOGS)


def test_a_body_that_unpacks_beyond_the_limit_is_refused() -> None:
    bomb = compress("zstd", bytes(65 * 1024 * 1024), "http")
    record, answer = _http(TRACES, bomb, "application/json", content_encoding="zstd")
    assert (answer.status, record.bytes) == (413, len(bomb))


@pytest.mark.parametrize(
    "head, status, text",
    [
        (_head("/v1/nothing", "application/json"), 404, "/v1development/profiles"),
        (_head("/v1/traces", "text/plain"), 415, "application/x-protobuf"),
        (_head("/v1/traces", ""), 415, "application/json"),
        (_head("/v1/traces", "application/json", method="GET"), 405, "POST"),
        (_head("/v1/traces", "application/grpc"), 415, "HTTP/2"),
        (_head("/v1/traces", "application/grpc-web", "2"), 415, "HTTP/2"),
    ],
)
def test_a_wrong_envelope_is_answered_with_what_would_be_right(
    head: Head, status: int, text: str
) -> None:
    record, answer = interpret(head, b"", NOW)
    shown = parse_status_json(answer.body)
    assert answer.status == status
    assert shown is not None
    assert text in shown.message
    assert record.error == shown.message


def test_a_wrong_method_is_answered_with_the_right_one() -> None:
    _, answer = interpret(_head("/v1/traces", "application/json", method="PUT"), b"", NOW)
    assert _header(answer, b"allow") == "POST"


def test_an_unknown_grpc_method_is_unimplemented() -> None:
    record, answer = interpret(_head("/a.B/Export", "application/grpc", "2"), frame(b""), NOW)
    assert _trailers(answer)["grpc-status"] == "12"
    assert record.signal is None


def test_a_key_never_reaches_a_record() -> None:
    head = _head(TRACES.http_path, "application/json", authorization="StackState canary-key")
    record, answer = interpret(head, b"{}", NOW)
    assert "canary-key" not in repr(record) + record.to_json() + record.to_line() + repr(answer)


@given(
    body=st.none() | st.binary(max_size=300),
    path=st.sampled_from([TRACES.grpc_path, TRACES.http_path, "/v1/logs", "/x", ""]),
    content_type=st.sampled_from(
        ["application/grpc", "application/json", "application/x-protobuf", ""]
    ),
    encoding=st.sampled_from(["", "gzip", "deflate", "snappy", "zstd", "lz4", "\x00"]),
    http_version=st.sampled_from(["1.1", "2"]),
)
def test_no_request_is_left_without_a_record_and_an_answer(
    body: bytes | None, path: str, content_type: str, encoding: str, http_version: str
) -> None:
    extra = {"grpc_encoding": encoding, "content_encoding": encoding}
    record, answer = interpret(_head(path, content_type, http_version, **extra), body, NOW)
    assert answer.status in {200, 400, 404, 413, 415}
    assert (answer.trailers is not None) == (record.protocol == Protocol.GRPC)
    assert json.loads(record.to_json())["answer"] == record.answer
