"""HTTP/2 written frame by frame: a client and a backend that may do what no library does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from gateway.wire import hpack, http2
from gateway.wire.http2 import frame
from tests.support.clients import Http2Client, Response
from tests.support.exchange import GRPC, GrpcMessage
from tests.support.plane import KEY, RunningWorker, entry
from tests.support.polling import until

PATH: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
HEAD: Final = (("content-type", GRPC), ("te", "trailers"), ("authorization", f"StackState {KEY}"))
MESSAGE: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()
KEYS: Final = (entry(KEY),)
Fields = Sequence[tuple[bytes, bytes]]
OK_HEAD: Final[Fields] = ((b":status", b"200"), (b"content-type", b"application/grpc"))
OK: Final[Fields] = (*OK_HEAD, (b"grpc-status", b"0"))
START: Final = http2.PREFACE + http2.settings_frame({})


def stream_id(stream: int) -> bytes:
    """Write a stream's number as a frame's head has it."""
    return stream.to_bytes(4, "big")


def head_frame(stream: int, fields: Fields, *, ended: bool) -> bytes:
    """Write a HEADERS frame."""
    flags = http2.END_HEADERS | ended
    return frame(http2.HEADERS, flags, stream_id(stream), hpack.encode(list(fields)))


def request_frame(stream: int, path: str, *fields: tuple[str, str], ended: bool = True) -> bytes:
    """Write a request's HEADERS frame."""
    pseudo = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"))
    pairs = [(name.encode(), value.encode()) for name, value in (*pseudo, *fields)]
    return head_frame(stream, pairs, ended=ended)


async def export(gateway: RunningWorker, *fields: tuple[str, str]) -> Response:
    """Send one request over gRPC on a connection of its own."""
    async with Http2Client(gateway.port) as client:
        return await client.request(PATH, (*HEAD, *fields), MESSAGE)


class RawHttp2Backend:
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
async def raw_http2_backend(answer: Callable[[int], bytes]) -> AsyncIterator[RawHttp2Backend]:
    """Run a backend for the length of a block."""
    serving = RawHttp2Backend(answer)
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
async def raw_connection(gateway: RunningWorker) -> AsyncIterator[asyncio.StreamWriter]:
    """Open a connection on which a test writes frames."""
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        yield writer
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
