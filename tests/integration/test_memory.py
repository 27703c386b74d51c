"""What a worker holds is let go: answers that nobody takes, bodies, requests that are over."""

from __future__ import annotations

import asyncio
import gc

import pytest

from gateway import metrics
from gateway.dataplane.exchange.exchange import Exchange
from gateway.dataplane.http2.server_stream import ServerStream
from gateway.model import BackendName
from gateway.wire import http2
from gateway.wire.http2 import Setting, frame
from tests.support.clients import Http2Client
from tests.support.exchange import PROTOBUF, Answer
from tests.support.plane import RunningWorker, backend, limits, running_worker, sink_backends
from tests.support.raw_http2 import (
    HEAD,
    KEYS,
    MESSAGE,
    OK,
    PATH,
    START,
    head_frame,
    raw_connection,
    raw_http2_backend,
    request_frame,
    stream_id,
)
from tests.support.sink import RawSink


async def test_answers_that_no_caller_takes_are_let_go() -> None:
    """Nobody needs a key to be refused: what is owed to a closed window must not stay."""
    async with running_worker(sweeping=False) as gateway, raw_connection(gateway) as client:
        client.write(http2.PREFACE + http2.settings_frame({Setting.INITIAL_WINDOW_SIZE: 0}))
        for stream in range(1, 41, 2):
            client.write(request_frame(stream, "/v1/traces", ("content-type", PROTOBUF)))
        await gateway.until(lambda: gateway.count(metrics.REQUESTS) == 20)
        assert gateway.context.budget.used > 0
        gateway.sweep(29)
        assert gateway.context.budget.used > 0
        gateway.sweep(31)
        assert gateway.context.budget.used == 0
        gateway.sweep(700)
        gateway.sweep(702)
        await gateway.until(lambda: not gateway.context.connections)


async def _give_bit_by_bit(writer: asyncio.StreamWriter, streams: range) -> None:
    while not writer.is_closing():
        for stream in streams:
            writer.write(frame(http2.WINDOW_UPDATE, 0, stream_id(stream), stream_id(2_048)))
        writer.write(frame(http2.WINDOW_UPDATE, 0, http2.NO_STREAM, stream_id(8_192)))
        await writer.drain()
        await asyncio.sleep(0.001)


async def test_a_full_memory_drains_while_the_backend_takes_bit_by_bit() -> None:
    """At the bound clients are not read, but the backend is: its credit is what frees memory."""
    streams = range(1, 101, 2)
    bound = limits(buffer_memory_bytes=1024 * 1024)
    async with raw_http2_backend(lambda stream: head_frame(stream, OK, ended=True)) as serving:
        only = (backend(BackendName.OTLP_GRPC, serving.url),)
        async with (
            running_worker(backends=only, keys=KEYS, limits=bound, sweeping=False) as gateway,
            raw_connection(gateway) as client,
        ):
            client.write(START)
            for stream in streams:
                client.write(request_frame(stream, PATH, *HEAD, ended=False))
            counters = gateway.context.counters
            await gateway.until(lambda: counters.in_flight["grpc"] == len(streams))
            for stream in streams:
                for part in range(4):
                    client.write(frame(http2.DATA, part == 3, stream_id(stream), b"x" * 16_000))
            await gateway.until(lambda: bool(gateway.context.budget.holding))
            giving = asyncio.create_task(_give_bit_by_bit(serving.writers[0], streams))
            await gateway.until(
                lambda: gateway.count(metrics.REQUESTS, "grpc", "traces", "OK") == 50
            )
            giving.cancel()
            await asyncio.gather(giving, return_exceptions=True)


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
