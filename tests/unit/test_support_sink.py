"""The instruments are tested like the product: a sink that errs would excuse the gateway."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from h2.settings import SettingCodes

from tests.support.bodies import SIGNALS, Batch, json_body
from tests.support.certs import Authority
from tests.support.clients import Http2Client, Response, http1_request
from tests.support.decode import batch_of, count, numbers, payload, signal_of
from tests.support.encodings import ENCODERS
from tests.support.exchange import JSON, PROTOBUF, FramingError, GrpcMessage, split_messages
from tests.support.process import free_ports
from tests.support.sink import Answer, Break, RawSink, Request

TRACES = SIGNALS["traces"]
GRPC_FIELDS = [("content-type", "application/grpc"), ("te", "trailers")]
HTTP_FIELDS = [("content-type", PROTOBUF)]


@pytest.fixture(name="authority")
def _authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path)


@pytest.fixture(name="sink")
async def _sink() -> AsyncIterator[RawSink]:
    async with RawSink() as sink:
        yield sink


def grpc_body(*item_numbers: int) -> bytes:
    batch = TRACES.make(item_numbers)
    return GrpcMessage(compressed=False, data=batch.SerializeToString()).to_bytes()


async def grpc_request(sink: RawSink, body: bytes | None = None) -> Response:
    async with Http2Client(sink.grpc_port) as client:
        return await client.request(TRACES.grpc_path, GRPC_FIELDS, body or grpc_body(1))


@pytest.mark.parametrize("signal", SIGNALS)
async def test_a_grpc_request_is_recorded_byte_for_byte_and_answered_with_success(
    sink: RawSink, signal: str
) -> None:
    under_test = SIGNALS[signal]
    data = under_test.make([7, 8]).SerializeToString()
    body = GrpcMessage(compressed=False, data=data).to_bytes()
    fields = [*GRPC_FIELDS, ("grpc-timeout", "9S"), ("x-own", "ü")]

    async with Http2Client(sink.grpc_port) as client:
        response = await client.request(under_test.grpc_path, fields, body, authority="here:1")

    (request,) = sink.requests
    assert (response.status, response.grpc_status, response.message) == (200, 0, b"")
    assert (request.method, request.path, request.authority) == (
        "POST",
        under_test.grpc_path,
        "here:1",
    )
    assert request.fields == tuple(fields)
    assert (request.http_version, request.is_grpc, request.body) == ("2", True, body)
    assert (signal_of(request), numbers(batch_of(request))) == (signal, [7, 8])


@pytest.mark.parametrize("signal", SIGNALS)
async def test_an_http_request_is_recorded_byte_for_byte_and_answered_with_success(
    sink: RawSink, signal: str
) -> None:
    under_test = SIGNALS[signal]
    body = gzip.compress(under_test.make([7, 8]).SerializeToString())
    fields = [
        ("Content-Type", PROTOBUF),
        ("Content-Encoding", "gzip"),
        ("Content-Length", str(len(body))),
    ]

    response = await http1_request(sink.http_port, under_test.http_path, fields, body)

    (request,) = sink.requests
    assert (response.status, response.field("content-type"), response.body) == (200, PROTOBUF, b"")
    assert request.fields[0] == ("host", "localhost")
    assert request.fields[1:] == tuple((name.lower(), value) for name, value in fields)
    assert (request.http_version, request.is_grpc, request.body) == ("1.1", False, body)
    assert (signal_of(request), numbers(batch_of(request))) == (signal, [7, 8])


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
async def test_a_json_body_is_decoded_and_answered_in_json(sink: RawSink, signal: str) -> None:
    body = json_body(signal, [3, 4, 5])

    response = await http1_request(
        sink.http_port, SIGNALS[signal].http_path, [("content-type", JSON)], body
    )

    assert (response.field("content-type"), response.body) == (JSON, b"{}")
    assert batch_of(sink.requests[0]) == batch_of_json_twin(signal, [3, 4, 5])
    assert sink.requests[0].field("transfer-encoding") == "chunked"


def batch_of_json_twin(signal: str, item_numbers: list[int]) -> Batch:
    twin = SIGNALS[signal].make(item_numbers)
    if signal == "logs":
        for resource in twin.resource_logs:  # type: ignore[union-attr]  # chosen by name above
            for record in resource.scope_logs[0].log_records:
                record.ClearField("observed_time_unix_nano")
    return twin


async def test_a_body_larger_than_every_window_arrives_whole(sink: RawSink) -> None:
    body = grpc_body(*range(5000))
    await grpc_request(sink, body)
    assert sink.requests[0].body == body
    assert count(batch_of(sink.requests[0])) == 5000


async def test_an_answer_larger_than_every_window_arrives_whole(sink: RawSink) -> None:
    message = bytes(range(256)) * 1000
    sink.script = lambda _: Answer(body=message)
    async with Http2Client(sink.grpc_port) as client:
        response = await client.request(TRACES.grpc_path, GRPC_FIELDS, grpc_body(1))
    http = await http1_request(sink.http_port, TRACES.http_path, HTTP_FIELDS, b"x")
    assert response.message == message
    assert http.body == message


async def test_a_scripted_grpc_error_is_trailers_only(sink: RawSink) -> None:
    sink.script = lambda _: Answer(
        grpc_status=14, grpc_message="later", fields=(("x-a", "1"),), trailers=(("x-b", "2"),)
    )
    async with Http2Client(sink.grpc_port) as client:
        response = await client.request(TRACES.grpc_path, GRPC_FIELDS, grpc_body(1))
    assert (response.status, response.grpc_status, response.grpc_message) == (200, 14, "later")
    assert (response.trailers, response.body) == ((), b"")
    assert (response.field("x-a"), response.field("x-b")) == ("1", "2")


async def test_a_scripted_grpc_success_carries_its_message_and_trailers(sink: RawSink) -> None:
    sink.script = lambda _: Answer(body=b"partial", trailers=(("x-b", "2"),))
    async with Http2Client(sink.grpc_port) as client:
        response = await client.request(TRACES.grpc_path, GRPC_FIELDS, grpc_body(1))
    assert response.message == b"partial"
    assert response.trailers == (("grpc-status", "0"), ("x-b", "2"))


async def test_a_scripted_http_status_body_and_fields_are_sent(sink: RawSink) -> None:
    sink.script = lambda _: Answer(status=503, body=b"wait", fields=(("retry-after", "3"),))
    response = await http1_request(sink.http_port, TRACES.http_path, HTTP_FIELDS, b"x")
    assert (response.status, response.body, response.field("retry-after")) == (503, b"wait", "3")


async def test_an_answer_waits_for_its_event(sink: RawSink) -> None:
    release = asyncio.Event()
    sink.script = lambda _: Answer(wait_for=release)
    over_grpc = asyncio.create_task(grpc_request(sink))
    over_http = asyncio.create_task(
        http1_request(sink.http_port, TRACES.http_path, HTTP_FIELDS, b"x")
    )
    await sink.wait_for(2)
    assert not over_grpc.done()
    assert not over_http.done()
    release.set()
    await asyncio.gather(over_grpc, over_http)


async def test_an_early_answer_comes_before_the_body(sink: RawSink) -> None:
    sink.early = lambda head: (
        Answer(status=401, grpc_status=16) if "/v1/" not in head.path else None
    )
    async with Http2Client(sink.grpc_port) as client:
        stream_id = await client.start(TRACES.grpc_path, GRPC_FIELDS, b"half")
        response = await client.answer(stream_id)
    http = await http1_request(sink.http_port, TRACES.http_path, HTTP_FIELDS, b"x")
    refused = await http1_request(
        sink.http_port, "/other", [("content-length", "100"), ("connection", "close")], b"half"
    )
    assert (response.grpc_status, http.status, refused.status) == (16, 200, 401)
    assert [request.path for request in sink.requests] == [TRACES.http_path]


@pytest.mark.parametrize(
    "after, head, body",
    [("nothing", 0, b""), ("head", 200, b""), ("half", 200, b"half"), ("body", 200, b"halfhalf")],
)
@pytest.mark.parametrize("how", ["reset", "close"])
async def test_an_http1_answer_breaks_off_where_the_script_says(
    sink: RawSink, how: str, after: str, head: int, body: bytes
) -> None:
    breaks = Break(how, after)  # type: ignore[arg-type]  # literals of the parameter lists
    chunked = (("transfer-encoding", "chunked"),)
    sink.script = lambda _: Answer(body=b"halfhalf", fields=chunked, breaks=breaks)
    response = await http1_request(sink.http_port, TRACES.http_path, HTTP_FIELDS, b"x")
    assert not response.ended
    if how == "close":  # a reset may overtake what was sent before it
        assert (response.status, response.body) == (head, body)


@pytest.mark.parametrize("after, head", [("nothing", 0), ("head", 200), ("half", 200)])
async def test_an_http2_answer_is_reset_where_the_script_says(
    sink: RawSink, after: str, head: int
) -> None:
    breaks = Break("reset", after, code=7)  # type: ignore[arg-type]  # as above
    sink.script = lambda _: Answer(body=b"halfhalf", breaks=breaks)
    async with Http2Client(sink.grpc_port) as client:
        response = await client.request(TRACES.grpc_path, GRPC_FIELDS, grpc_body(1))
    assert (response.reset, response.status, response.ended) == (7, head, False)


async def test_an_http2_connection_closes_where_the_script_says(sink: RawSink) -> None:
    sink.script = lambda _: Answer(breaks=Break("close", "head"))
    async with Http2Client(sink.grpc_port) as client:
        response = await client.request(TRACES.grpc_path, GRPC_FIELDS, grpc_body(1))
    assert (response.status, response.ended, response.reset) == (200, False, None)


async def test_goaway_leaves_the_connection_open_for_what_was_processed(sink: RawSink) -> None:
    async with Http2Client(sink.grpc_port) as client:
        await client.request(TRACES.grpc_path, GRPC_FIELDS, grpc_body(1))
        sink.http2_connections[0].goaway(1, code=0)
        await client.until_goaway()
    assert client.goaway == 0


async def test_a_request_broken_off_over_http2_is_a_fault(sink: RawSink) -> None:
    async with Http2Client(sink.grpc_port) as client:
        await client.start(TRACES.grpc_path, GRPC_FIELDS, b"half a mess")
    await sink.wait_until(lambda: bool(sink.aborted), "an aborted request")
    assert (sink.aborted[0].body, sink.aborted[0].complete) == (b"half a mess", False)
    assert sink.requests == []
    assert len(sink.take_faults()) == 1


async def test_aborts_that_a_test_provokes_may_be_recorded_alone(sink: RawSink) -> None:
    sink.aborts_are_faults = False
    async with Http2Client(sink.grpc_port) as client:
        await client.start(TRACES.grpc_path, GRPC_FIELDS, b"half a mess")
    await sink.wait_until(lambda: bool(sink.aborted), "an aborted request")
    assert sink.faults == []


async def test_a_request_broken_off_over_http1_is_a_fault(sink: RawSink) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", sink.http_port)
    writer.write(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
    await writer.drain()
    writer.close()
    await sink.wait_until(lambda: bool(sink.aborted), "an aborted request")
    assert sink.aborted[0].body == b"half"
    assert sink.requests == []
    assert len(sink.take_faults()) == 1


async def test_a_caller_that_stops_waiting_is_recorded_as_canceled(sink: RawSink) -> None:
    sink.script = lambda _: Answer(breaks=Break("silence"))
    async with Http2Client(sink.grpc_port) as client:
        await client.start(TRACES.grpc_path, GRPC_FIELDS, grpc_body(1), end=True)
        await sink.wait_for(1)
    _, writer = await asyncio.open_connection("127.0.0.1", sink.http_port)
    writer.write(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    await sink.wait_for(2)
    writer.close()
    await sink.wait_until(lambda: len(sink.canceled) == 2, "two canceled requests")
    assert [request.path for request in sink.canceled] == [TRACES.grpc_path, TRACES.http_path]


@pytest.mark.parametrize(
    "body", [b"\x00\x00\x00", b"\x02\x00\x00\x00\x00", b"\x00\x00\x00\x00\x05abc"]
)
async def test_bad_grpc_framing_is_a_fault(sink: RawSink, body: bytes) -> None:
    await grpc_request(sink, body)
    assert "bad gRPC framing" in sink.take_faults()[0]
    with pytest.raises(FramingError, match=f"of {len(body)}"):
        split_messages(body)


async def test_two_messages_in_a_unary_call_are_a_fault(sink: RawSink) -> None:
    await grpc_request(sink, grpc_body(1) + grpc_body(2))
    assert "2 messages" in sink.take_faults()[0]


async def test_a_protocol_error_is_a_fault(sink: RawSink) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", sink.grpc_port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n" * 4)
    await sink.wait_until(lambda: bool(sink.faults), "a fault")
    writer.close()
    assert "protocol error" in sink.take_faults()[0]


async def test_faults_that_nobody_takes_fail_the_test() -> None:
    with pytest.raises(AssertionError, match="bad gRPC framing"):
        async with RawSink() as sink:
            await grpc_request(sink, b"\x00")


async def test_a_script_that_fails_is_a_fault() -> None:
    def fail(request: Request) -> Answer:
        if request.is_grpc:
            message = "a test's own error"
            raise RuntimeError(message)
        return Answer(breaks=Break("goaway"))

    async with RawSink(fail) as sink:
        await http1_request(sink.http_port, TRACES.http_path, HTTP_FIELDS, b"x")
        async with Http2Client(sink.grpc_port) as client:
            await client.start(TRACES.grpc_path, GRPC_FIELDS, grpc_body(1), end=True)
            await sink.wait_until(lambda: len(sink.faults) == 2, "two faults")
        http, grpc = sink.take_faults()
        assert "HTTP/1.1 has no GOAWAY" in http
        assert grpc == "RuntimeError: a test's own error"


async def test_held_credit_stops_a_sender_at_the_edge_of_its_window(sink: RawSink) -> None:
    body = grpc_body(*range(5000))
    async with Http2Client(sink.grpc_port) as client:
        await client.request(TRACES.grpc_path, GRPC_FIELDS, grpc_body(1))
        side = sink.http2_connections[0]
        side.hold_credit = True
        call = asyncio.create_task(client.request(TRACES.grpc_path, GRPC_FIELDS, body))
        await client.until_blocked()
        assert len(sink.requests) == 1
        side.give_credit()
        assert (await call).grpc_status == 0
    assert sink.requests[1].body == body


async def test_many_streams_and_connections_are_told_apart(sink: RawSink) -> None:
    async with Http2Client(sink.grpc_port) as one, Http2Client(sink.grpc_port) as two:
        await asyncio.gather(
            *(
                client.request(TRACES.grpc_path, GRPC_FIELDS, grpc_body(number))
                for number in range(20)
                for client in (one, two)
            )
        )
    seen = sorted((r.connection, *numbers(batch_of(r))) for r in sink.requests)
    assert seen == [(connection, number) for connection in (0, 1) for number in range(20)]


async def test_announced_settings_bind_the_client() -> None:
    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 3}
    async with RawSink(settings=settings) as sink, Http2Client(sink.grpc_port) as client:
        await client.request(TRACES.grpc_path, GRPC_FIELDS, grpc_body(1))
        assert client.max_streams == 3


async def test_the_sink_can_take_the_place_of_one_that_is_gone() -> None:
    ports = free_ports(2)
    for _ in range(2):
        async with RawSink(ports=(ports[0], ports[1])) as sink:
            assert [sink.grpc_port, sink.http_port] == ports
            assert (await grpc_request(sink)).grpc_status == 0


async def test_waiting_for_what_does_not_come_says_what_came(
    sink: RawSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    await grpc_request(sink)
    monkeypatch.setattr("tests.support.sink.WAIT_S", 0.0)
    with pytest.raises(TimeoutError, match=r"2 requests; came: \['POST /opentelemetry"):
        await sink.wait_for(2)


async def test_the_sink_speaks_both_protocols_over_tls(authority: Authority) -> None:
    server = authority.issue("server", ["localhost"])
    async with RawSink(tls=server.server_context()) as sink:
        trust = authority.client_context()
        async with Http2Client(sink.grpc_port, trust) as client:
            response = await client.request(TRACES.grpc_path, GRPC_FIELDS, grpc_body(1))
        http = await http1_request(
            sink.http_port,
            TRACES.http_path,
            HTTP_FIELDS,
            b"x",
            tls=authority.client_context(),
        )
        assert (response.grpc_status, http.status) == (0, 200)
        assert sink.grpc_url.startswith("https://")


async def test_a_client_without_the_authority_is_refused(authority: Authority) -> None:
    server = authority.issue("server", ["localhost"])
    async with RawSink(tls=server.server_context()) as sink:
        with pytest.raises(ssl.SSLCertVerificationError):
            await http1_request(sink.http_port, "/", HTTP_FIELDS, tls=ssl.create_default_context())


async def test_payloads_of_every_encoding_are_opened(sink: RawSink) -> None:
    plain = TRACES.make(range(50)).SerializeToString()
    for name, encode in ENCODERS.items():
        fields = [*HTTP_FIELDS, ("content-encoding", name)]
        await http1_request(sink.http_port, TRACES.http_path, fields, encode(plain))
    assert [payload(request) for request in sink.requests] == [plain] * len(ENCODERS)
