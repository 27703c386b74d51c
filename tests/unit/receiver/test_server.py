from __future__ import annotations

import asyncio
import io
import random
import socket

import aiohttp
import grpc
import h2.config
import h2.connection
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from gateway.model import Protocol, Signal
from gateway.otlp.encodings import MAX_BODY_BYTES
from gateway.otlp.framing import frame
from gateway.otlp.services import SERVICES
from gateway.receiver import ListenError, ReceivedRequest, Receiver
from gateway.receiver.server import split_address

TRACES = SERVICES[Signal.TRACES]
JSON = {"content-type": "application/json"}


async def _export(channel: grpc.aio.Channel, request: bytes = b"") -> bytes:
    """Call Export with raw bytes, as grpcio's client does it."""
    export: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(TRACES.grpc_path)
    return await export(request)


def _trace(spans: int, name: str = "a") -> bytes:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for _ in range(spans):
        scope.spans.add(name=name)
    return request.SerializeToString()


async def test_both_listeners_speak_grpc_and_http() -> None:
    records: list[ReceivedRequest] = []
    async with Receiver(records.append) as receiver, aiohttp.ClientSession() as client:
        for address in (receiver.grpc_address, receiver.http_address):
            async with grpc.aio.insecure_channel(address) as channel:
                answer = await _export(channel, _trace(2))
                assert ExportTraceServiceResponse.FromString(answer) == ExportTraceServiceResponse()
            url = f"http://{address}/v1/traces"
            async with client.post(url, data=b"{}", headers=JSON) as response:
                assert (response.status, await response.read()) == (200, b"{}")
    both = [(Protocol.GRPC, 2), (Protocol.HTTP, 0)]
    assert [(record.protocol, record.items) for record in records] == both * 2


async def test_the_peer_and_the_headers_of_a_request_are_told() -> None:
    records: list[ReceivedRequest] = []
    async with Receiver(records.append) as receiver, aiohttp.ClientSession() as client:
        headers = JSON | {"X-Gateway-Key-Name": "laptop", "Authorization": "StackState canary"}
        url = f"http://{receiver.http_address}/v1/logs"
        async with client.post(url, data=b"{}", headers=headers) as response:
            await response.read()
    (record,) = records
    assert record.peer.startswith("127.0.0.1:")
    assert record.key_name == "laptop"
    assert "canary" not in record.to_json()


async def test_a_grpc_error_arrives_as_status_message_and_details() -> None:
    async with Receiver() as receiver, grpc.aio.insecure_channel(receiver.grpc_address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _export(channel, b"\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "the body is not an ExportTraceServiceRequest in protobuf"
    trailers = caught.value.trailing_metadata()
    assert trailers is not None
    assert "grpc-status-details-bin" in dict(trailers)


async def test_many_calls_at_once_on_one_connection_all_get_their_answer() -> None:
    records: list[ReceivedRequest] = []
    async with (
        Receiver(records.append) as receiver,
        grpc.aio.insecure_channel(receiver.grpc_address) as channel,
    ):
        await asyncio.gather(*(_export(channel, _trace(number)) for number in range(200)))
    assert sorted(record.items for record in records) == list(range(200))
    assert len({record.peer for record in records}) == 1


async def test_a_body_larger_than_the_windows_arrives_whole() -> None:
    records: list[ReceivedRequest] = []
    request = _trace(1, "x" * 3_000_000)
    async with (
        Receiver(records.append) as receiver,
        grpc.aio.insecure_channel(receiver.grpc_address) as channel,
    ):
        await _export(channel, request)
    assert (records[0].bytes, records[0].items) == (len(request), 1)


async def test_a_body_over_the_limit_is_refused_and_the_connection_lives_on() -> None:
    records: list[ReceivedRequest] = []
    async with Receiver(records.append) as receiver, aiohttp.ClientSession() as client:
        url = f"http://{receiver.http_address}/v1/traces"
        headers = {"content-type": "application/x-protobuf"}
        too_much = io.BytesIO(bytes(MAX_BODY_BYTES + 6))
        async with client.post(url, data=too_much, headers=headers) as response:
            assert response.status == 413
        async with client.post(url, data=b"", headers=headers) as response:
            assert response.status == 200
    assert [record.answer for record in records] == ["413", "200"]
    assert records[0].peer == records[1].peer


async def test_a_request_is_answered_only_after_its_record_was_taken() -> None:
    told, may_go = asyncio.Event(), asyncio.Event()

    async def take(_record: ReceivedRequest) -> None:
        told.set()
        await may_go.wait()

    async with Receiver(take) as receiver, aiohttp.ClientSession() as client:
        url = f"http://{receiver.http_address}/v1/traces"
        request = asyncio.create_task(client.post(url, data=b"{}", headers=JSON))
        await told.wait()
        assert not request.done()
        may_go.set()
        response = await request
        assert response.status == 200
        response.release()


async def test_a_caller_who_leaves_in_the_middle_of_a_body_is_no_request() -> None:
    records: list[ReceivedRequest] = []
    async with Receiver(records.append) as receiver, aiohttp.ClientSession() as client:
        host, port = split_address(receiver.http_address)
        _, writer = await asyncio.open_connection(host, port)
        writer.write(
            b"POST /v1/traces HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        url = f"http://{receiver.http_address}/v1/logs"
        async with client.post(url, data=b"{}", headers=JSON) as response:
            assert response.status == 200
    assert [record.path for record in records] == ["/v1/logs"]


async def test_one_listener_alone_is_possible() -> None:
    async with Receiver(grpc=None, http="localhost:0") as receiver:
        assert receiver.addresses == (receiver.http_address,)
        with pytest.raises(KeyError):
            receiver.grpc_address  # noqa: B018 - reading it is the test


async def test_ipv6_addresses_are_written_in_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    async with Receiver(grpc=None, http="[::1]:0") as receiver, aiohttp.ClientSession() as client:
        url = f"http://{receiver.http_address}/v1/logs"
        assert url.startswith("http://[::1]:")
        async with client.post(url, data=b"{}", headers=JSON) as response:
            assert response.status == 200


async def test_a_taken_port_is_told_and_leaves_nothing_behind() -> None:
    async with Receiver() as first:
        with pytest.raises(ListenError, match="address already in use"):
            async with Receiver(http=first.http_address):
                pytest.fail("two servers on one port")


@pytest.mark.parametrize("address", ["4317", ":4317", "localhost", "localhost:x", "a:70000", ""])
def test_what_is_no_address_is_told_with_one_that_is(address: str) -> None:
    with pytest.raises(ListenError, match=r"127\.0\.0\.1:4317"):
        split_address(address)


async def test_stopping_does_not_wait_for_open_connections() -> None:
    async with Receiver() as receiver:
        channel = grpc.aio.insecure_channel(receiver.grpc_address)
        await _export(channel)
        host, port = split_address(receiver.http_address)
        _, writer = await asyncio.open_connection(host, port)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)
    writer.close()
    await channel.close()


async def test_stopping_lets_go_of_requests_that_never_end() -> None:
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    told = asyncio.Event()

    async def take(_record: ReceivedRequest) -> None:
        told.set()
        await asyncio.Event().wait()

    head = b"POST /v1/logs HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    async with Receiver(take) as receiver:
        host, port = split_address(receiver.http_address)
        (_, half_sent), (reader, untold) = [
            await asyncio.open_connection(host, port) for _ in range(2)
        ]
        half_sent.write(head + b"Content-Length: 9\r\n\r\n{")
        untold.write(head + b"Content-Length: 2\r\n\r\n{}")
        await told.wait()
    assert b" 200 " not in await reader.read()
    for writer in (half_sent, untold):
        writer.close()
    assert complaints == []


@pytest.mark.parametrize("seed", range(2))
async def test_damaged_and_broken_off_requests_harm_nobody(seed: int) -> None:
    """Flip bytes of a good HTTP/2 request, hang up in the middle, and see who complains."""
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    dice = random.Random(seed)
    writers: list[asyncio.StreamWriter] = []
    async with Receiver() as receiver:
        host, port = split_address(receiver.grpc_address)
        for _ in range(50):
            request = bytearray(_http2_request())
            for _ in range(dice.randrange(4)):
                request[dice.randrange(len(request))] = dice.randrange(256)
            cut = dice.randrange(len(request) // 2, len(request) + 1)
            _, writer = await asyncio.open_connection(host, port)
            writer.write(request[:cut])
            if dice.random() < 0.3:
                writer.transport.abort()
            writers.append(writer)
        async with grpc.aio.insecure_channel(receiver.grpc_address) as channel:
            assert await _export(channel, _trace(1)) == b""
    for writer in writers:
        writer.close()
    assert complaints == []


def _http2_request() -> bytes:
    config = h2.config.H2Configuration(client_side=True)
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    headers = [(":method", "POST"), (":path", TRACES.grpc_path), (":scheme", "http")]
    headers += [(":authority", "a"), ("content-type", "application/grpc"), ("te", "trailers")]
    connection.send_headers(1, headers)
    connection.send_data(1, frame(_trace(2)), end_stream=True)
    return connection.data_to_send()
