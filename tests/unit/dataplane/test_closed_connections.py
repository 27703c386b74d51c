"""A closed connection leaves nothing behind that needs a garbage collection."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import cast

import pytest

from gateway.dataplane.core.heads import FieldKinds
from gateway.dataplane.http1.request_head import Http1RequestHead, KnownLines
from gateway.dataplane.http1.server import Http1Server
from gateway.dataplane.http2.request_head import KnownFields
from gateway.dataplane.http2.server import Http2Server
from gateway.dataplane.http2.transport import Http2Transport
from gateway.wire import hpack, http2
from tests.support.in_memory import GRPC_PATH, Core, MemoryTransport
from tests.support.plane import KEY, entry

CONNECTION_PARTS = (Http1Server, Http2Server, Http2Transport, Http1RequestHead)


def _alive() -> list[object]:
    return [each for each in gc.get_objects() if type(each) in CONNECTION_PARTS]


def _receive(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    """Have a connection read bytes, as a transport does."""
    memoryview(protocol.get_buffer(len(data)))[: len(data)] = data
    protocol.buffer_updated(len(data))


def _http1(core: Core) -> asyncio.BufferedProtocol:
    server = Http1Server(
        core.context, core.pipeline, KnownLines(core.credentials, FieldKinds()), "peer"
    )
    server.connection_made(cast("asyncio.Transport", MemoryTransport()))
    head = b"POST /v1/traces HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    key = b"Authorization: StackState " + KEY.encode()
    _receive(server, head + key + b"\r\nContent-Length: 5\r\n\r\nhe")
    return server


def _http2(core: Core) -> asyncio.BufferedProtocol:
    server = Http2Server(
        core.context, core.pipeline, KnownFields(core.credentials, FieldKinds()), "peer"
    )
    protocol = server.protocol
    protocol.connection_made(cast("asyncio.Transport", MemoryTransport()))
    block = hpack.encode(
        [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", GRPC_PATH),
            (b"content-type", b"application/grpc"),
            (b"authorization", b"StackState " + KEY.encode()),
        ]
    )
    request = http2.frame(http2.HEADERS, http2.END_HEADERS, b"\0\0\0\1", block)
    _receive(protocol, http2.PREFACE + http2.settings_frame({}) + request)
    return protocol


@pytest.mark.parametrize("make", [_http1, _http2])
async def test_a_connection_that_is_closed_is_freed_with_its_keys(
    make: Callable[[Core], asyncio.BufferedProtocol],
) -> None:
    """A worker seldom collects: what needs it would stay for hours, keys in heads too."""
    core = Core(entry(KEY))
    gc.collect()
    gc.disable()
    try:
        protocol = make(core)
        await core.connected()
        (backend,) = core.connector.requests
        assert _alive()
        protocol.connection_lost(None)
        assert backend.is_canceled
        await asyncio.sleep(0)  # what was scheduled for the end of the turn
        core.connector.connections[0].opened.clear()
        core.records.all.clear()
        del protocol, backend
        assert _alive() == []
    finally:
        gc.enable()
