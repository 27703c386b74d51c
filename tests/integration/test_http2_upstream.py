"""HTTP/2 to backends: answers that cannot be passed on, and which connection a request gets."""

from __future__ import annotations

import asyncio
import socket

import pytest
from h2.settings import SettingCodes

from gateway import metrics
from gateway.model import BackendName
from gateway.wire import http2
from gateway.wire.http2 import frame
from tests.support.exchange import Answer
from tests.support.plane import backend, open_connections, running_worker
from tests.support.raw_http2 import (
    KEYS,
    OK,
    OK_HEAD,
    Fields,
    export,
    head_frame,
    raw_http2_backend,
    stream_id,
)
from tests.support.sink import RawSink


def _cut_short(stream: int, how: str) -> bytes:
    message = frame(http2.DATA, how == "data", stream_id(stream), b"\0\0\0\0\0")
    if how == "head":
        return head_frame(stream, OK_HEAD, ended=True)
    trailers = head_frame(stream, ((b"x", b"y"),), ended=True) if how == "trailers" else b""
    return head_frame(stream, OK_HEAD, ended=False) + message + trailers


@pytest.mark.parametrize("how", ["head", "data", "trailers"])
async def test_a_grpc_answer_without_a_status_is_to_be_retried(how: str) -> None:
    """Clients take it for UNKNOWN, and drop their data."""
    async with raw_http2_backend(lambda stream: _cut_short(stream, how)) as serving:
        only = (backend(BackendName.OTLP_GRPC, serving.url),)
        async with running_worker(backends=only, keys=KEYS) as gateway:
            assert (await export(gateway)).grpc_status == 14
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
    async with raw_http2_backend(lambda stream: head_frame(stream, answer, ended=True)) as serving:
        only = (backend(BackendName.OTLP_GRPC, serving.url),)
        async with running_worker(backends=only, keys=KEYS) as gateway:
            assert (await export(gateway)).grpc_status == 14


async def test_a_backend_that_broke_the_protocol_gets_no_further_request() -> None:
    """Not even between the fault and the end of its connection."""
    async with raw_http2_backend(lambda stream: head_frame(stream, OK, ended=True)) as serving:
        only = (backend(BackendName.OTLP_GRPC, serving.url),)
        async with running_worker(backends=only, keys=KEYS) as gateway:
            pool = gateway.path.pools[BackendName.OTLP_GRPC]
            assert (await export(gateway)).grpc_status == 0
            serving.writers[0].write(frame(http2.PING, 0, stream_id(1), b"12345678"))
            await gateway.until(lambda: not open_connections(pool))
            assert (await export(gateway)).grpc_status == 0
            assert len(serving.writers) == 2


async def test_the_pool_grows_at_once_for_those_who_wait() -> None:
    """Not only at the next sweep."""
    release = asyncio.Event()
    announced = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}
    async with RawSink(lambda _: Answer(wait_for=release), settings=announced) as sink:
        only = (backend(BackendName.OTLP_GRPC, sink.grpc_url, max_connections=4),)
        async with running_worker(backends=only, keys=KEYS, sweeping=False) as gateway:
            calls = [asyncio.create_task(export(gateway)) for _ in range(4)]
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
                    assert (await export(gateway)).grpc_status == 0
