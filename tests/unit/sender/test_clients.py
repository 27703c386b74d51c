from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from h2.settings import SettingCodes

from gateway.model import Signal
from gateway.otlp.services import SERVICES
from gateway.outcome import GrpcCode
from gateway.sender.grpc_client import GrpcConnection
from gateway.sender.http_client import HttpConnection
from gateway.sender.target import Plan, SendProtocol, parse_endpoint
from gateway.sender.unreachable import Cause, UnreachableError
from gateway.wire import http2
from gateway.wire.http2 import frame
from tests.support.exchange import Answer, Break, Request
from tests.support.raw_http2 import OK_HEAD, head_frame, raw_http2_backend, stream_id
from tests.support.sink import RawSink

TRACES = SERVICES[Signal.TRACES]
LOGS = SERVICES[Signal.LOGS]
LARGE = bytes(range(256)) * 2000
"""Half a megabyte: eight times the initial window."""


@pytest.fixture(name="sink")
async def _sink() -> AsyncIterator[RawSink]:
    async with RawSink() as sink:
        yield sink


def _plan(url: str, protocol: SendProtocol = SendProtocol.GRPC) -> Plan:
    endpoint = parse_endpoint(url, protocol)
    return Plan(endpoint, protocol, (Signal.TRACES,), key="canary-key")


async def _export(sink: RawSink, payload: bytes = b"", compression: str = "none") -> GrpcCode:
    """Make one gRPC call on a connection of its own."""
    plan = replace(_plan(sink.grpc_url), compression=compression)
    connection = await GrpcConnection.open(plan)
    try:
        answer = await connection.export(TRACES, payload)
    finally:
        await connection.close()
    assert answer.grpc is not None
    return answer.grpc


async def test_a_grpc_call_carries_what_grpc_prescribes(sink: RawSink) -> None:
    await _export(sink, b"payload", "zstd")
    (request,) = sink.requests
    assert (request.method, request.path) == ("POST", TRACES.grpc_path)
    assert request.authority == urlsplit(sink.grpc_url).netloc
    assert request.field("te") == "trailers"
    assert request.field("content-type") == "application/grpc"
    assert request.field("grpc-timeout") == "10000m"
    assert request.field("grpc-encoding") == "zstd"
    assert request.field("authorization") == "StackState canary-key"
    (message,) = request.messages
    assert (message.compressed, message.data) == (True, b"payload")


async def test_an_uncompressed_call_names_no_encoding(sink: RawSink) -> None:
    await _export(sink, b"payload")
    assert sink.requests[0].field("grpc-encoding") is None
    assert not sink.requests[0].messages[0].compressed


async def test_a_message_larger_than_the_windows_arrives_whole(sink: RawSink) -> None:
    assert await _export(sink, LARGE) is GrpcCode.OK
    assert sink.requests[0].messages[0].data == LARGE


async def test_a_server_with_tiny_windows_is_obeyed() -> None:
    async with RawSink(settings={SettingCodes.INITIAL_WINDOW_SIZE: 1000}) as sink:
        assert await _export(sink, LARGE[:50_000]) is GrpcCode.OK
        assert sink.requests[0].messages[0].data == LARGE[:50_000]


async def test_several_calls_share_one_connection(sink: RawSink) -> None:
    connection = await GrpcConnection.open(_plan(sink.grpc_url))
    for service in (TRACES, LOGS, TRACES):
        assert (await connection.export(service, b"")).is_accepted
    await connection.close()
    assert [request.path for request in sink.requests] == [
        TRACES.grpc_path,
        LOGS.grpc_path,
        TRACES.grpc_path,
    ]
    assert len(sink.http2_connections) == 1


async def test_a_refusal_from_the_head_is_read_while_the_body_is_still_unsent(
    sink: RawSink,
) -> None:
    def refuse_first(_head: Request) -> Answer | None:
        return Answer(grpc_status=16, grpc_message="no key") if not sink.aborted else None

    sink.early = refuse_first
    connection = await GrpcConnection.open(_plan(sink.grpc_url))
    answer = await connection.export(TRACES, LARGE)
    assert (answer.grpc, answer.message) == (GrpcCode.UNAUTHENTICATED, "no key")
    assert connection.is_usable
    sink.early = None
    assert (await connection.export(TRACES, b"")).is_accepted
    await connection.close()
    sink.take_faults()


@pytest.mark.parametrize("after", ["nothing", "head"])
@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_call_that_is_broken_off_has_no_answer(sink: RawSink, how: str, after: str) -> None:
    sink.script = lambda _request: Answer(breaks=Break(how, after))  # type: ignore[arg-type] # as the parameters say
    with pytest.raises(UnreachableError) as caught:
        await _export(sink)
    assert caught.value.cause is Cause.BROKEN_OFF


@pytest.mark.parametrize("code, cause", [(0, Cause.GOING_AWAY), (11, Cause.BROKEN_OFF)])
async def test_a_goodbye_before_the_answer_is_told_apart_from_a_failure(
    sink: RawSink, code: int, cause: Cause
) -> None:
    sink.script = lambda _request: Answer(breaks=Break("goaway", code=code))
    connection = await GrpcConnection.open(_plan(sink.grpc_url))
    with pytest.raises(UnreachableError) as caught:
        await connection.export(TRACES, b"")
    assert caught.value.cause is cause
    assert not connection.is_usable
    await connection.close()


def _accepted(stream: int) -> bytes:
    """Write the answer to a call, of an empty message."""
    message = frame(http2.DATA, 0, stream_id(stream), bytes(5))
    trailers = head_frame(stream, [(b"grpc-status", b"0")], ended=True)
    return head_frame(stream, OK_HEAD, ended=False) + message + trailers


async def test_an_answer_that_comes_after_the_goodbye_is_read() -> None:
    def goodbye_and_answer(stream: int) -> bytes:
        last = stream.to_bytes(4, "big") + bytes(4)
        return frame(http2.GOAWAY, 0, http2.NO_STREAM, last) + _accepted(stream)

    async with raw_http2_backend(goodbye_and_answer) as backend:
        connection = await GrpcConnection.open(_plan(backend.url))
        assert (await connection.export(TRACES, b"")).grpc is GrpcCode.OK
        assert not connection.is_usable
        await connection.close()


@pytest.mark.parametrize(
    "answer, detail",
    [
        (lambda _stream: frame(http2.SETTINGS, 0, b"\0\0\0\1", b""), "PROTOCOL_ERROR"),
        (lambda stream: frame(http2.HEADERS, 4, stream_id(stream), b"\xff"), "COMPRESSION_ERROR"),
    ],
)
async def test_an_answer_that_breaks_the_rules_is_no_answer(
    answer: Callable[[int], bytes], detail: str
) -> None:
    async with raw_http2_backend(answer) as backend:
        connection = await GrpcConnection.open(_plan(backend.url))
        with pytest.raises(UnreachableError) as caught:
            await connection.export(TRACES, b"")
        await connection.close()
    assert caught.value.cause is Cause.BROKEN_OFF
    assert detail in caught.value.detail


async def test_a_response_without_end_is_not_kept(sink: RawSink) -> None:
    sink.script = lambda _request: Answer(body=bytes(5 * 1024 * 1024))
    with pytest.raises(UnreachableError, match="larger than 4 MiB"):
        await _export(sink)


async def test_a_provisional_response_is_passed_over() -> None:
    def hints_first(stream: int) -> bytes:
        hints = head_frame(stream, [(b":status", b"103")], ended=False)
        return hints + _accepted(stream)

    async with raw_http2_backend(hints_first) as backend:
        connection = await GrpcConnection.open(_plan(backend.url))
        assert (await connection.export(TRACES, b"")).is_accepted
        await connection.close()


async def test_a_head_without_grpc_is_read_as_what_it_is(sink: RawSink) -> None:
    sink.script = lambda _request: Answer(status=503, fields=(("content-type", "text/html"),))
    connection = await GrpcConnection.open(_plan(sink.grpc_url))
    answer = await connection.export(TRACES, b"")
    await connection.close()
    assert (answer.grpc, answer.http, answer.is_otlp) == (None, 503, False)


@pytest.mark.parametrize(
    "protocol, content_type",
    [(SendProtocol.HTTP, "application/x-protobuf"), (SendProtocol.JSON, "application/json")],
)
async def test_an_http_request_carries_what_otlp_prescribes(
    sink: RawSink, protocol: SendProtocol, content_type: str
) -> None:
    plan = replace(_plan(f"{sink.http_url}/prefix", protocol), compression="lz4")
    connection = await HttpConnection.open(plan)
    assert (await connection.export(TRACES, b"payload")).is_accepted
    assert (await connection.export(LOGS, b"")).is_accepted
    await connection.close()
    request, second = sink.requests
    assert (request.method, request.path) == ("POST", "/prefix/v1/traces")
    assert second.path == "/prefix/v1/logs"
    assert request.field("content-type") == content_type
    assert request.field("content-encoding") == "lz4"
    assert request.field("authorization") == "StackState canary-key"
    assert request.body == b"payload"
    assert request.connection == second.connection


async def test_without_a_key_no_authorization_is_sent(sink: RawSink) -> None:
    plan = replace(_plan(sink.http_url, SendProtocol.HTTP), key=None)
    connection = await HttpConnection.open(plan)
    await connection.export(TRACES, b"")
    await connection.close()
    assert sink.requests[0].field("authorization") is None


async def test_a_redirect_is_not_followed_with_the_key(sink: RawSink) -> None:
    location = (("location", f"{sink.http_url}/elsewhere"),)
    sink.script = lambda _request: Answer(status=307, fields=location)
    connection = await HttpConnection.open(_plan(sink.http_url, SendProtocol.HTTP))
    answer = await connection.export(TRACES, b"")
    await connection.close()
    assert (answer.http, answer.location) == (307, f"{sink.http_url}/elsewhere")
    assert len(sink.requests) == 1


@pytest.mark.parametrize("after", ["nothing", "half"])
async def test_an_http_answer_that_is_broken_off_is_no_answer(sink: RawSink, after: str) -> None:
    breaks = Break("close", after)  # type: ignore[arg-type] # as the parameters say
    sink.script = lambda _request: Answer(body=b"x" * 100, breaks=breaks)
    connection = await HttpConnection.open(_plan(sink.http_url, SendProtocol.HTTP))
    with pytest.raises(UnreachableError) as caught:
        await connection.export(TRACES, b"")
    assert caught.value.cause is Cause.BROKEN_OFF
    await connection.close()
