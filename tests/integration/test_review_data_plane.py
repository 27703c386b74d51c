"""The data plane against peers that err, stall or attack: nothing is injected, lost or kept."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import pytest
from h2.settings import SettingCodes

from gateway import metrics
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.http2_server import ServerStream
from gateway.model import BackendName
from gateway.wire import hpack, http2
from gateway.wire.h2connection import Connection
from gateway.wire.http2 import ErrorCode, Setting, Stream, frame
from tests.support.clients import Http2Client, Response
from tests.support.exchange import GRPC, PROTOBUF, Answer, GrpcMessage
from tests.support.plane import (
    KEY,
    RunningWorker,
    backend,
    entry,
    limits,
    running_worker,
    sink_backends,
)
from tests.support.polling import until
from tests.support.sink import RawSink

PATH: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
HEAD: Final = (("content-type", GRPC), ("te", "trailers"), ("authorization", f"StackState {KEY}"))
MESSAGE: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()
KEYS: Final = (entry(KEY),)
Fields = Sequence[tuple[bytes, bytes]]
OK_HEAD: Final[Fields] = ((b":status", b"200"), (b"content-type", b"application/grpc"))
OK: Final[Fields] = (*OK_HEAD, (b"grpc-status", b"0"))
START: Final = http2.PREFACE + http2.settings_frame({})


def _id(stream: int) -> bytes:
    return stream.to_bytes(4, "big")


def _head(stream: int, fields: Fields, *, ended: bool) -> bytes:
    flags = http2.END_HEADERS | ended
    return frame(http2.HEADERS, flags, _id(stream), hpack.encode(list(fields)))


def _request(stream: int, path: str, *fields: tuple[str, str], ended: bool = True) -> bytes:
    pseudo = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"))
    pairs = [(name.encode(), value.encode()) for name, value in (*pseudo, *fields)]
    return _head(stream, pairs, ended=ended)


async def _export(gateway: RunningWorker, *fields: tuple[str, str]) -> Response:
    async with Http2Client(gateway.port) as client:
        return await client.request(PATH, (*HEAD, *fields), MESSAGE)


class _Backend:
    """An HTTP/2 backend of raw frames: `answer` makes the bytes for each request that has ended."""

    def __init__(self, answer: Callable[[int], bytes]) -> None:
        self._answer = answer
        self.writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests."""
        self.writers.append(writer)
        writer.write(http2.settings_frame({}))
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readexactly(len(http2.PREFACE))
            while True:
                frame_head = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(frame_head[:3], "big"))
                kind, flags = frame_head[3], frame_head[4]
                if kind == http2.SETTINGS and not flags & http2.ACK:
                    writer.write(frame(http2.SETTINGS, http2.ACK, http2.NO_STREAM, b""))
                if kind in {http2.DATA, http2.HEADERS} and flags & http2.END_STREAM:
                    writer.write(self._answer(int.from_bytes(frame_head[5:], "big")))
        writer.close()


@asynccontextmanager
async def _raw_backend(answer: Callable[[int], bytes]) -> AsyncIterator[_Backend]:
    serving = _Backend(answer)
    server = await asyncio.start_server(serving.serve, "127.0.0.1", 0)
    serving.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield serving
    finally:
        server.close()
        await until(lambda: all(writer.is_closing() for writer in serving.writers))
        for writer in serving.writers:
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@asynccontextmanager
async def _raw_client(gateway: RunningWorker) -> AsyncIterator[asyncio.StreamWriter]:
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        yield writer
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


# What reaches a backend


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
        assert response.reset == ErrorCode.PROTOCOL_ERROR


async def test_a_large_head_is_refused_though_its_beginning_is_known() -> None:
    """The announced size counts for every request of a connection."""
    large = tuple((f"x-{number}", "y" * 900) for number in range(80))
    async with running_worker(keys=KEYS) as gateway, Http2Client(gateway.port) as client:
        for _ in range(3):
            assert (await client.request(PATH, HEAD, MESSAGE)).grpc_status == 14
        assert (await client.request(PATH, (*HEAD, *large), MESSAGE)).status == 431


# Flow control and framing


class _Peer(Connection[Stream]):
    """The layer alone."""

    def __init__(self) -> None:
        super().__init__({})
        self.opened: list[int] = []
        self.receive(START + _request(1, "/", ended=False))

    def headers_received(
        self, stream_id: int, stream: Stream | None, block: bytes, ended: bool
    ) -> None:
        self.highest_peer_stream = stream_id
        self.opened.append(stream_id)
        self.streams[stream_id] = Stream(stream_id, self.peer_window, self.stream_window)


def test_an_end_without_data_passes_a_window_below_zero() -> None:
    """SETTINGS may make a window negative (RFC 9113 §6.9.2)."""
    peer = _Peer()
    stream = peer.streams[1]
    assert peer.send_data(stream, b"x" * 1_000, ended=False) == 0
    peer.receive(http2.settings_frame({Setting.INITIAL_WINDOW_SIZE: 10}))
    peer.take_output()
    windows = peer.send_window, stream.send_window
    assert peer.send_data(stream, b"", ended=True) == 0
    assert b"".join(peer.take_output()) == frame(http2.DATA, http2.END_STREAM, _id(1), b"")
    assert (peer.send_window, stream.send_window) == windows


@pytest.mark.parametrize("cut", [9 + 1_024, 9 + 5_000, 9 + 10_000])
def test_late_data_that_comes_in_parts_is_skipped_whole(cut: int) -> None:
    """The frame behind it is read as a frame."""
    peer = _Peer()
    peer.forget(peer.streams[1])
    data = frame(http2.DATA, 0, _id(1), b"x" * 10_000) + _request(3, "/")
    peer.receive(data[:cut])
    peer.receive(data[cut:])
    assert not peer.is_failed
    assert peer.opened == [1, 3]


async def test_answers_that_no_caller_takes_are_let_go() -> None:
    """Nobody needs a key to be refused: what is owed to a closed window must not stay."""
    async with running_worker(sweeping=False) as gateway, _raw_client(gateway) as client:
        client.write(http2.PREFACE + http2.settings_frame({Setting.INITIAL_WINDOW_SIZE: 0}))
        for stream in range(1, 41, 2):
            client.write(_request(stream, "/v1/traces", ("content-type", PROTOBUF)))
        await gateway.until(lambda: gateway.count(metrics.REQUESTS) == 20)
        assert gateway.plane.budget.used > 0
        gateway.sweep(29)
        assert gateway.plane.budget.used > 0
        gateway.sweep(31)
        assert gateway.plane.budget.used == 0
        gateway.sweep(400)
        gateway.sweep(402)
        await gateway.until(lambda: not gateway.plane.connections)


async def _give_bit_by_bit(writer: asyncio.StreamWriter, streams: range) -> None:
    while not writer.is_closing():
        for stream in streams:
            writer.write(frame(http2.WINDOW_UPDATE, 0, _id(stream), _id(2_048)))
        writer.write(frame(http2.WINDOW_UPDATE, 0, http2.NO_STREAM, _id(8_192)))
        await writer.drain()
        await asyncio.sleep(0.001)


async def test_a_full_memory_drains_while_the_backend_takes_bit_by_bit() -> None:
    """At the bound clients are not read, but the backend is: its credit is what frees memory."""
    streams = range(1, 101, 2)
    bound = limits(buffer_memory_bytes=1024 * 1024)
    async with _raw_backend(lambda stream: _head(stream, OK, ended=True)) as serving:
        only = (backend(BackendName.OTLP_GRPC, serving.url),)
        async with (
            running_worker(backends=only, keys=KEYS, limits=bound, sweeping=False) as gateway,
            _raw_client(gateway) as client,
        ):
            client.write(START)
            for stream in streams:
                client.write(_request(stream, PATH, *HEAD, ended=False))
            flying = gateway.plane.counters.in_flight
            await gateway.until(lambda: flying["grpc"] == len(streams))
            for stream in streams:
                for part in range(4):
                    client.write(frame(http2.DATA, part == 3, _id(stream), b"x" * 16_000))
            await gateway.until(lambda: bool(gateway.plane.budget.waiting))
            giving = asyncio.create_task(_give_bit_by_bit(serving.writers[0], streams))
            await gateway.until(
                lambda: gateway.count(metrics.REQUESTS, "grpc", "traces", "OK") == 50
            )
            giving.cancel()
            await asyncio.gather(giving, return_exceptions=True)


def _incomplete(gateway: RunningWorker, name: str) -> int:
    """How much the connections hold of a frame or block that is not whole yet."""
    return sum(
        len(getattr(connection, name, None) or ()) for connection in gateway.plane.connections
    )


async def test_the_rest_of_a_frame_has_to_come_in_time() -> None:
    """What is held of it is in nobody's account."""
    async with running_worker(sweeping=False) as gateway, _raw_client(gateway) as client:
        client.write(START + _request(1, "/", ("x", "y" * 16_000))[:-1])
        await gateway.until(lambda: _incomplete(gateway, "_pending") > 16_000)
        gateway.sweep(6)
        await gateway.until(lambda: not gateway.plane.connections)


async def test_a_header_block_has_to_be_complete_in_time() -> None:
    """A byte now and then buys no time."""
    async with running_worker(sweeping=False) as gateway, _raw_client(gateway) as client:
        client.write(START + frame(http2.HEADERS, 0, _id(1), b"\x83"))
        await gateway.until(lambda: _incomplete(gateway, "_block") == 1)
        gateway.sweep(3)
        client.write(frame(http2.CONTINUATION, 0, _id(1), b"\x83"))
        await gateway.until(lambda: _incomplete(gateway, "_block") == 2)
        gateway.sweep(4)
        assert gateway.plane.connections
        gateway.sweep(6)
        await gateway.until(lambda: not gateway.plane.connections)


# Answers that cannot be passed on


def _cut_short(stream: int, how: str) -> bytes:
    message = frame(http2.DATA, how == "data", _id(stream), b"\0\0\0\0\0")
    if how == "head":
        return _head(stream, OK_HEAD, ended=True)
    trailers = _head(stream, ((b"x", b"y"),), ended=True) if how == "trailers" else b""
    return _head(stream, OK_HEAD, ended=False) + message + trailers


@pytest.mark.parametrize("how", ["head", "data", "trailers"])
async def test_a_grpc_answer_without_a_status_is_to_be_retried(how: str) -> None:
    """Clients take it for UNKNOWN, and drop their data."""
    async with _raw_backend(lambda stream: _cut_short(stream, how)) as serving:
        only = (backend(BackendName.OTLP_GRPC, serving.url),)
        async with running_worker(backends=only, keys=KEYS) as gateway:
            assert (await _export(gateway)).grpc_status == 14
            assert gateway.count(metrics.BACKEND_REQUESTS, "otlp_grpc", "none") == 1


@pytest.mark.parametrize(
    "answer",
    [
        ((b":status", b"103"),),
        (*OK, (b"x", b"a\r\nb")),
        (*OK, (b"X-Upper", b"a")),
        (*OK, (b"a b", b"c")),
    ],
    ids=["an interim head that ends", "a line end", "upper case", "a blank in a name"],
)
async def test_a_malformed_answer_is_to_be_retried(answer: Fields) -> None:
    """RFC 9113 §8.1.1: it must not be passed on."""
    async with _raw_backend(lambda stream: _head(stream, answer, ended=True)) as serving:
        only = (backend(BackendName.OTLP_GRPC, serving.url),)
        async with running_worker(backends=only, keys=KEYS) as gateway:
            assert (await _export(gateway)).grpc_status == 14


# The pool


async def test_a_backend_that_broke_the_protocol_gets_no_further_request() -> None:
    """Not even between the fault and the end of its connection."""
    async with _raw_backend(lambda stream: _head(stream, OK, ended=True)) as serving:
        only = (backend(BackendName.OTLP_GRPC, serving.url),)
        async with running_worker(backends=only, keys=KEYS) as gateway:
            pool = gateway.plane.pools[BackendName.OTLP_GRPC]
            assert (await _export(gateway)).grpc_status == 0
            serving.writers[0].write(frame(http2.PING, 0, _id(1), b"12345678"))
            await gateway.until(lambda: pool.open_connections == 0)
            assert (await _export(gateway)).grpc_status == 0
            assert len(serving.writers) == 2


async def test_the_pool_grows_at_once_for_those_who_wait() -> None:
    """Not only at the next sweep."""
    release = asyncio.Event()
    announced = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}
    async with RawSink(lambda _: Answer(wait_for=release), settings=announced) as sink:
        only = (backend(BackendName.OTLP_GRPC, sink.grpc_url, max_connections=4),)
        async with running_worker(backends=only, keys=KEYS, sweeping=False) as gateway:
            calls = [asyncio.create_task(_export(gateway)) for _ in range(4)]
            await gateway.until(lambda: len(sink.requests) == 4)
            release.set()
            assert {(await call).grpc_status for call in calls} == {0}


async def test_another_address_is_tried_before_a_request_is_given_up() -> None:
    """Without connections kept open, the first try may meet the address that is down."""
    async with RawSink() as alive:
        with socket.socket() as dead:
            dead.bind(("127.0.0.1", 0))
            down = f"http://127.0.0.1:{dead.getsockname()[1]}"
            both = (backend(BackendName.OTLP_GRPC, down, alive.grpc_url, min_connections=0),)
            for _ in range(8):
                async with running_worker(backends=both, keys=KEYS, sweeping=False) as gateway:
                    assert (await _export(gateway)).grpc_status == 0


# What stays


async def _call(how: str, gateway: RunningWorker, sink: RawSink, client: Http2Client) -> None:
    match how:
        case "accepted":
            await client.request(PATH, HEAD, MESSAGE)
        case "refused":
            await client.request(PATH, HEAD[:2], MESSAGE)
        case "probed":
            await client.request("/livez", (), method="GET")
        case "checked":
            await client.request("/grpc.health.v1.Health/Check", HEAD[:2], b"\0\0\0\0\0")
        case _:
            stream = await client.start(PATH, HEAD, MESSAGE, end=True)
            await gateway.until(lambda: len(sink.requests) == 1)
            client.reset(stream)
            await gateway.until(lambda: len(sink.canceled) == 1)


def _living() -> list[object]:
    return [found for found in gc.get_objects() if type(found) in {Exchange, ServerStream}]


@pytest.mark.parametrize("how", ["accepted", "refused", "probed", "checked", "canceled"])
async def test_a_request_that_is_over_is_freed_without_a_collection(how: str) -> None:
    """Reference counts suffice: a full collection over a million keys stops the data path."""
    release = asyncio.Event()
    if how != "canceled":
        release.set()
    async with RawSink(lambda _: Answer(wait_for=release)) as sink:
        async with (
            running_worker(backends=sink_backends(sink), keys=KEYS, sweeping=False) as gateway,
            Http2Client(gateway.port) as client,
        ):
            gc.collect()
            gc.disable()
            try:
                await _call(how, gateway, sink, client)
                await gateway.until(lambda: not _living())
            finally:
                gc.enable()
        release.set()
        sink.take_faults()
