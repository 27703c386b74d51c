"""HTTP/2 to clients: what reaches a backend, and how long a frame or a block may take to come."""

from __future__ import annotations

import pytest

from gateway.dataplane.http2.server import Http2Server
from gateway.wire import http2
from gateway.wire.http2 import frame
from tests.support.clients import Http2Client
from tests.support.exchange import GRPC, PROTOBUF
from tests.support.plane import KEY, RunningWorker, running_worker, sink_backends
from tests.support.raw_http2 import (
    HEAD,
    KEYS,
    MESSAGE,
    PATH,
    START,
    raw_connection,
    request_frame,
    stream_id,
)
from tests.support.sink import RawSink


@pytest.mark.parametrize("name", ["sts-api-key", "dd-api-key"])
@pytest.mark.parametrize("value", ["x\r\nx-gateway-key-id: 77", "x\r\n\r\nPOST / HTTP/1.1\r\n"])
@pytest.mark.parametrize("path", [PATH, "/v1/traces"])
async def test_an_unreadable_credential_beside_a_good_one_injects_nothing(
    name: str, value: str, path: str
) -> None:
    """It is no field of the next hop, whatever version that speaks."""
    kind = GRPC if path == PATH else PROTOBUF
    fields = (("content-type", kind), *HEAD[1:], (name, value))
    async with RawSink() as sink:
        async with (
            running_worker(backends=sink_backends(sink), keys=KEYS) as gateway,
            Http2Client(gateway.port) as client,
        ):
            for _ in range(3):  # before and after header blocks are stateless
                response = await client.request(path, fields, MESSAGE)
                assert response.status == 200
                assert response.grpc_status in {0, None}
        assert len(sink.requests) == 3
        assert not any(request.values("x-gateway-key-id") for request in sink.requests)
        assert not any(request.values(name) for request in sink.requests)


async def test_a_keys_outer_blanks_do_not_reach_the_backend() -> None:
    """RFC 9113 §8.2.1 has backends refuse the request for them."""
    fields = (*HEAD[:2], ("authorization", f" StackState {KEY} "))
    async with RawSink() as sink:
        async with (
            running_worker(backends=sink_backends(sink), keys=KEYS) as gateway,
            Http2Client(gateway.port) as client,
        ):
            for _ in range(3):
                assert (await client.request(PATH, fields, MESSAGE)).grpc_status == 0
        assert {request.field("authorization") for request in sink.requests} == {HEAD[2][1]}


async def test_a_target_with_a_blank_is_malformed() -> None:
    """Over HTTP/1.1 the blank would end it."""
    async with running_worker(keys=KEYS) as gateway, Http2Client(gateway.port) as client:
        response = await client.request("/v1/traces?a=b HTTP/1.1", HEAD, MESSAGE)
        assert (response.status, response.grpc_status) == (200, 3)


async def test_a_large_head_is_refused_though_its_beginning_is_known() -> None:
    """The announced size counts for every request of a connection."""
    large = tuple((f"x-{number}", "y" * 900) for number in range(80))
    async with running_worker(keys=KEYS) as gateway, Http2Client(gateway.port) as client:
        for _ in range(3):
            assert (await client.request(PATH, HEAD, MESSAGE)).grpc_status == 14
        refused = await client.request(PATH, (*HEAD, *large), MESSAGE)
        assert (refused.status, refused.grpc_status) == (200, 8)


def _incomplete(gateway: RunningWorker, name: str) -> int:
    """Return how much the connections hold of a frame or block whose end has not come."""
    return sum(
        len(getattr(connection._receiver, name) or ())
        for connection in gateway.context.connections
        if isinstance(connection, Http2Server)
    )


async def test_the_rest_of_a_frame_has_to_come_in_time() -> None:
    """What is held of it is in nobody's account."""
    async with running_worker(sweeping=False) as gateway, raw_connection(gateway) as client:
        client.write(START + request_frame(1, "/", ("x", "y" * 16_000))[:-1])
        await gateway.until(lambda: _incomplete(gateway, "_pending") > 16_000)
        gateway.sweep(6)
        await gateway.until(lambda: not gateway.context.connections)


async def test_a_header_block_has_to_be_complete_in_time() -> None:
    """A byte now and then buys no time."""
    async with running_worker(sweeping=False) as gateway, raw_connection(gateway) as client:
        client.write(START + frame(http2.HEADERS, 0, stream_id(1), b"\x83"))
        await gateway.until(lambda: _incomplete(gateway, "_block") == 1)
        gateway.sweep(3)
        client.write(frame(http2.CONTINUATION, 0, stream_id(1), b"\x83"))
        await gateway.until(lambda: _incomplete(gateway, "_block") == 2)
        gateway.sweep(4)
        assert gateway.context.connections
        gateway.sweep(6)
        await gateway.until(lambda: not gateway.context.connections)
