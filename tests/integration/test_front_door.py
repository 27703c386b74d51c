"""From the listening socket to a protocol: sniffing, the PROXY protocol, the connection limit."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog.testing

from gateway import metrics
from gateway.dataplane.accept import proxy_header
from gateway.dataplane.accept.acceptor import MAX_OVER_LIMIT
from gateway.dataplane.accept.handshake import PROXY_BAD, PROXY_UNTRUSTED
from gateway.dataplane.accept.over_limit import LINGER_S
from gateway.dataplane.accept.protocol_detection import PROXY_HERE, TLS_HERE
from gateway.wire.http2 import PREFACE
from tests.support.clients import Http2Client, http1_request
from tests.support.exchange import PROTOBUF
from tests.support.plane import KEY, RunningWorker, entry, limits, running_worker, sink_backends
from tests.support.polling import until
from tests.support.sink import RawSink

GET_LIVEZ = b"GET /livez HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
V1 = b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 4317\r\n"
WAIT_S = 20
REFUSED = metrics.CONNECTIONS_REFUSED

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(gateway: RunningWorker) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Read until the end, which may be a reset."""
    data = b""
    async with asyncio.timeout(WAIT_S):
        try:
            while chunk := await reader.read(65536):
                data += chunk
        except ConnectionError:
            pass
    return data


async def send_by_byte(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send bytes such that each arrives alone: gateway and client share the loop."""
    for byte in data:
        writer.write(bytes([byte]))
        for _ in range(3):
            await asyncio.sleep(0)


def warnings(logs: list[Any]) -> list[str]:
    return [event["event"] for event in logs if event["log_level"] == "warning"]


async def test_both_http_versions_are_served_on_one_listener() -> None:
    async with running_worker() as gateway, Http2Client(gateway.port) as client:
        assert (await client.request("/livez", (), method="GET")).status == 200
        assert (await http1_request(gateway.port, "/livez", (), method="GET")).status == 200


async def test_an_http1_request_may_come_byte_by_byte() -> None:
    async with running_worker() as gateway, connected(gateway) as (reader, writer):
        await send_by_byte(writer, GET_LIVEZ)
        assert (await read_all(reader)).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_an_http2_preface_may_come_byte_by_byte() -> None:
    async with running_worker() as gateway, connected(gateway) as (reader, writer):
        await send_by_byte(writer, PREFACE + SETTINGS)
        frame = await asyncio.wait_for(reader.readexactly(9), WAIT_S)
        assert frame[3] == 4  # SETTINGS


async def test_what_begins_like_the_preface_and_ends_otherwise_is_no_http2() -> None:
    async with running_worker() as gateway, connected(gateway) as (reader, writer):
        writer.write(PREFACE[:18] + b"XX\r\n\r\n")
        assert b" 400 " in (await read_all(reader)).partition(b"\r\n")[0]


async def test_tls_on_a_cleartext_listener_is_closed_and_the_log_says_what_to_do() -> None:
    hello = b"\x16\x03\x01\x00\x05hello"
    with structlog.testing.capture_logs() as logs:
        async with running_worker() as gateway:
            for _ in range(3):
                async with connected(gateway) as (reader, writer):
                    writer.write(hello)
                    assert await read_all(reader) == b""
            assert gateway.counted(REFUSED) == {("preface",): 3}
    assert warnings(logs) == [TLS_HERE]


@pytest.mark.parametrize("header", [V1, proxy_header.SIGNATURE + b"\x21\x11\x00\x0c" + bytes(12)])
async def test_a_proxy_header_where_none_is_expected_is_closed_and_logged(header: bytes) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running_worker() as gateway, connected(gateway) as (reader, writer):
            writer.write(header + GET_LIVEZ)
            assert await read_all(reader) == b""
            assert gateway.counted(REFUSED) == {("preface",): 1}
    assert warnings(logs) == [PROXY_HERE]


async def test_a_client_that_never_says_what_it_speaks_is_closed() -> None:
    async with running_worker(sweeping=False) as gateway:
        async with connected(gateway) as (silent, _), connected(gateway) as (slow, writer):
            writer.write(PREFACE[:5])
            await until(lambda: gateway.worker.connections == 2)
            await until(lambda: any(c._seen for c in gateway.context.connections))  # type: ignore[attr-defined]  # sniffers
            gateway.sweep(in_s=4)
            assert gateway.worker.connections == 2
            gateway.sweep(in_s=6)
            assert await read_all(silent) == b""
            assert await read_all(slow) == b""
        assert gateway.counted(REFUSED) == {("preface",): 1}


async def test_a_connection_that_is_opened_and_closed_again_is_no_failure() -> None:
    with structlog.testing.capture_logs() as logs:
        async with running_worker() as gateway:
            async with connected(gateway):
                await until(lambda: gateway.worker.connections == 1)
            await until(lambda: gateway.worker.connections == 0)
            assert gateway.counted(REFUSED) == {}
    assert warnings(logs) == []


# The PROXY protocol

PROXIED: dict[str, Any] = {"proxy_protocol": True, "trusted_networks": ("127.0.0.0/8",)}


@pytest.mark.parametrize("by_byte", [False, True])
@pytest.mark.parametrize(
    "header,peer",
    [
        (V1, "203.0.113.7:51234"),
        (
            proxy_header.SIGNATURE
            + b"\x21\x11\x00\x0c"
            + bytes([203, 0, 113, 7, 10, 0, 0, 1])
            + b"\xc8\x22\x10\xdd",
            "203.0.113.7:51234",
        ),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (proxy_header.SIGNATURE + b"\x20\x00\x00\x00", "127.0.0.1"),
    ],
)
async def test_the_client_is_who_the_proxy_header_says(
    header: bytes, peer: str, by_byte: bool
) -> None:
    request = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    async with running_worker(**PROXIED) as gateway, connected(gateway) as (reader, writer):
        if by_byte:
            await send_by_byte(writer, header)
        else:
            writer.write(header)
        writer.write(request)
        assert b" 401 " in await asyncio.wait_for(reader.readline(), WAIT_S)
        gateway.collect()
        assert gateway.refusals[0].peer.startswith(peer)


async def test_http2_begins_right_behind_the_proxy_header() -> None:
    async with running_worker(**PROXIED) as gateway, connected(gateway) as (reader, writer):
        writer.write(V1 + PREFACE + SETTINGS)
        frame = await asyncio.wait_for(reader.readexactly(9), WAIT_S)
        assert frame[3] == 4


@pytest.mark.parametrize("sent", [GET_LIVEZ, b"PROXY TCP4 nonsense\r\n", PREFACE, b"\x16\x03\x01"])
async def test_without_the_expected_proxy_header_a_connection_is_closed(sent: bytes) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running_worker(**PROXIED) as gateway, connected(gateway) as (reader, writer):
            writer.write(sent)
            assert await read_all(reader) == b""
            assert gateway.counted(REFUSED) == {("proxy_header",): 1}
    assert warnings(logs) == [PROXY_BAD]


@pytest.mark.parametrize("sent", [b"", V1[:10]])
async def test_a_proxy_header_that_does_not_come_in_time_closes_the_connection(
    sent: bytes,
) -> None:
    impatient = limits(header_timeout_s=0.05)
    async with running_worker(limits=impatient, **PROXIED) as gateway:
        async with connected(gateway) as (reader, writer):
            writer.write(sent)
            assert await read_all(reader) == b""
        assert gateway.counted(REFUSED) == {("proxy_header",): 1}


async def test_a_proxy_header_that_is_cut_off_counts_but_a_mere_connect_does_not() -> None:
    async with running_worker(**PROXIED) as gateway:
        async with connected(gateway):
            await until(lambda: gateway.worker.connections == 1)
        await until(lambda: gateway.worker.connections == 0)
        assert gateway.counted(REFUSED) == {}
        async with connected(gateway) as (_, writer):
            writer.write(V1[:10])
        await until(lambda: gateway.counted(REFUSED) == {("proxy_header",): 1})


async def test_nobody_outside_the_trusted_networks_may_say_who_a_client_is() -> None:
    with structlog.testing.capture_logs() as logs:
        async with running_worker(
            proxy_protocol=True, trusted_networks=("192.0.2.0/24",)
        ) as gateway:
            async with connected(gateway) as (reader, writer):
                writer.write(V1 + GET_LIVEZ)
                assert await read_all(reader) == b""
            assert gateway.counted(REFUSED) == {("proxy_header",): 1}
    assert warnings(logs) == [PROXY_UNTRUSTED]


# The limit


async def test_beyond_the_limit_http1_is_answered_503_also_when_it_sends_a_body_first() -> None:
    async with running_worker(limits=limits(max_connections=1)) as gateway:
        async with connected(gateway):
            await until(lambda: gateway.worker.connections == 1)
            answer = await http1_request(gateway.port, "/v1/traces", (), bytes(500_000))
            assert answer.status == 503
            assert answer.field("retry-after") == "2"
            assert gateway.counted(REFUSED) == {("limit",): 1}
        await until(lambda: gateway.worker.connections == 0)
        assert (await http1_request(gateway.port, "/livez", (), method="GET")).status == 200


async def test_beyond_the_limit_http2_gets_goaway_with_nothing_processed() -> None:
    async with running_worker(limits=limits(max_connections=1)) as gateway, connected(gateway):
        await until(lambda: gateway.worker.connections == 1)
        async with Http2Client(gateway.port) as client:
            await client.until_goaway()
            assert client.goaway == 0
        assert gateway.counted(REFUSED) == {("limit",): 1}


async def test_a_client_that_is_turned_away_and_does_not_go_is_closed() -> None:
    one = limits(max_connections=1)
    async with running_worker(limits=one, sweeping=False) as gateway, connected(gateway):
        await until(lambda: gateway.worker.connections == 1)
        async with connected(gateway) as (reader, writer):
            writer.write(GET_LIVEZ)
            assert (await read_all(reader)).startswith(b"HTTP/1.1 503")
            assert gateway.worker.connections == 2
            gateway.sweep(in_s=LINGER_S + 1)
            await until(lambda: gateway.worker.connections == 1)


async def test_a_client_that_is_turned_away_and_sends_on_for_ever_is_closed() -> None:
    one = limits(max_connections=1)
    async with running_worker(limits=one, sweeping=False) as gateway, connected(gateway):
        await until(lambda: gateway.worker.connections == 1)
        async with connected(gateway) as (_, writer):
            with contextlib.suppress(ConnectionError):
                for _ in range(1000):
                    writer.write(b"POST /v1/traces HTTP/1.1\r\n" + bytes(65536))
                    await asyncio.wait_for(writer.drain(), WAIT_S)
        await until(lambda: gateway.worker.connections == 1)


async def test_those_turned_away_at_a_time_are_bounded_too() -> None:
    async with running_worker(limits=limits(max_connections=1), sweeping=False) as gateway:
        socks = []
        for _ in range(MAX_OVER_LIMIT + 11):
            socks.append(socket.create_connection(("127.0.0.1", gateway.port)))
            await asyncio.sleep(0)
        await until(lambda: gateway.count(REFUSED, "limit") == MAX_OVER_LIMIT + 10)
        assert gateway.worker.connections == MAX_OVER_LIMIT + 1
        for sock in socks:
            sock.close()


# The drain


async def test_after_a_drain_has_begun_no_connection_is_accepted() -> None:
    async with running_worker() as gateway:
        await gateway.worker.stop(20)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", gateway.port))


async def test_a_request_that_was_on_its_way_when_a_drain_began_is_served() -> None:
    fields = (("content-type", PROTOBUF), ("authorization", f"StackState {KEY}"))
    async with RawSink() as sink:
        backends = sink_backends(sink)
        async with running_worker(keys=[entry(KEY)], backends=backends) as gateway:
            async with connected(gateway) as (reader, writer):
                await until(lambda: gateway.worker.connections == 1)
                drained = asyncio.ensure_future(gateway.worker.stop(20))
                await until(lambda: gateway.context.is_draining)
                head = "POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
                head += "".join(f"{name}: {value}\r\n" for name, value in fields)
                writer.write(f"{head}\r\nabc".encode())
                answer = await read_all(reader)
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
                assert b"connection: close" in answer.lower()
            await asyncio.wait_for(drained, WAIT_S)
            await sink.wait_for(1)


async def test_an_idle_connection_does_not_hold_up_a_drain() -> None:
    brief = limits(drain_timeout_s=2)
    async with running_worker(limits=brief) as gateway, connected(gateway) as (reader, _):
        await until(lambda: gateway.worker.connections == 1)
        await asyncio.wait_for(gateway.worker.stop(60), WAIT_S)
        assert await read_all(reader) == b""


async def test_what_is_still_open_when_the_drains_time_is_over_is_closed() -> None:
    async with running_worker() as gateway, connected(gateway) as (reader, writer):
        writer.write(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\n")
        await until(lambda: gateway.worker.connections == 1)
        await gateway.worker.stop(0)
        await read_all(reader)
        await until(lambda: gateway.worker.connections == 0)
