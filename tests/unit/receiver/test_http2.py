"""The receiver's HTTP/2 side, driven by the `h2` library and by raw frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, TrailersReceived
from h2.settings import SettingCodes, Settings

from gateway.model import Signal
from gateway.otlp.framing import frame as grpc_frame
from gateway.otlp.services import SERVICES
from gateway.receiver import ReceivedRequest, Receiver
from gateway.receiver.server import split_address
from gateway.wire import http2
from gateway.wire.http2 import ErrorCode, frame
from tests.support.clients import Http2Client
from tests.support.raw_http2 import START, head_frame, request_frame, stream_id

PATH = SERVICES[Signal.TRACES].grpc_path
HEAD = (("content-type", "application/grpc"), ("te", "trailers"))
MESSAGE = grpc_frame(b"")


class _Caller:
    """An HTTP/2 client whose every step the test takes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.http2 = H2Connection(H2Configuration(client_side=True))
        self.events: list[Event] = []

    def flush(self) -> None:
        self._writer.write(self.http2.data_to_send())

    async def until(self, wanted: type[Event]) -> Event:
        """Read until there is such an event."""
        while True:
            for event in self.events:
                if isinstance(event, wanted):
                    return event
            data = await self._reader.read(65536)
            assert data, "the receiver has closed the connection"
            self.events += self.http2.receive_data(data)
            self.flush()

    def request(self, body: bytes, **more: str) -> None:
        """Send the head and the body, but not the end, of a request on stream 1."""
        fields = [(":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "a")]
        self.http2.send_headers(1, [*fields, *HEAD, *more.items()])
        self.http2.send_data(1, body)


@asynccontextmanager
async def _caller(receiver: Receiver, **settings: int) -> AsyncIterator[_Caller]:
    reader, writer = await asyncio.open_connection(*split_address(receiver.grpc_address))
    caller = _Caller(reader, writer)
    caller.http2.local_settings = Settings(
        client=True, initial_values={SettingCodes[name]: value for name, value in settings.items()}
    )
    caller.http2.initiate_connection()
    try:
        yield caller
    finally:
        writer.close()
        await writer.wait_closed()


async def _raw(receiver: Receiver, *parts: bytes) -> bytes:
    """Send frames as they are; return all that comes until the receiver closes."""
    reader, writer = await asyncio.open_connection(*split_address(receiver.grpc_address))
    writer.write(START + b"".join(parts))
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


def _port(receiver: Receiver) -> int:
    return split_address(receiver.grpc_address)[1]


async def test_a_response_waits_for_the_clients_window_and_its_trailers_follow() -> None:
    async with Receiver() as receiver, _caller(receiver, INITIAL_WINDOW_SIZE=1) as caller:
        caller.request(MESSAGE)
        caller.http2.end_stream(1)
        caller.flush()
        first = await caller.until(DataReceived)
        assert isinstance(first, DataReceived)
        assert first.data == MESSAGE[:1]
        assert not any(isinstance(event, TrailersReceived) for event in caller.events)

        caller.http2.increment_flow_control_window(100, 1)
        caller.flush()

        await caller.until(TrailersReceived)
    data = [event.data for event in caller.events if isinstance(event, DataReceived)]
    assert b"".join(part or b"" for part in data) == MESSAGE


async def test_trailers_end_a_request() -> None:
    records: list[ReceivedRequest] = []
    async with Receiver(records.append) as receiver, _caller(receiver) as caller:
        caller.request(MESSAGE)
        caller.http2.send_headers(1, [("x-checksum", "1")], end_stream=True)
        caller.flush()
        await caller.until(TrailersReceived)
    assert [record.answer for record in records] == ["OK"]
    assert dict(records[0].headers)["host"] == "a"


async def test_a_request_that_is_reset_before_its_response_harms_no_other() -> None:
    told, may_go = asyncio.Event(), asyncio.Event()

    async def take(_record: ReceivedRequest) -> None:
        told.set()
        await may_go.wait()

    async with Receiver(take) as receiver, Http2Client(_port(receiver)) as client:
        given_up = await client.start(PATH, HEAD, MESSAGE, end=True)
        await told.wait()
        client.reset(given_up)
        waiting = asyncio.create_task(client.request(PATH, HEAD, MESSAGE))
        may_go.set()
        response = await waiting
    assert response.grpc_status == 0


def _head(*fields: tuple[str, str], method: str = "POST", path: str = PATH) -> bytes:
    pseudo = ((":method", method), (":scheme", "http"), (":path", path))
    pairs = [(name.encode(), value.encode()) for name, value in (*pseudo, *fields)]
    return head_frame(1, [pair for pair in pairs if pair[1]], ended=True)


SHORT_BODY = request_frame(1, PATH, *HEAD, ("content-length", "9"), ended=False) + frame(
    http2.DATA, http2.END_STREAM, stream_id(1), MESSAGE
)
END = frame(http2.GOAWAY, 0, http2.NO_STREAM, bytes(7))
"""A frame that breaks the protocol: whatever came before it has been answered."""


@pytest.mark.parametrize(
    "malformed",
    [
        _head(path=""),
        _head(method=""),
        _head((":status", "200")),
        _head(("a", "b"), (":authority", "a")),
        _head(("Content-Type", "application/grpc")),
        _head(("connection", "close")),
        _head(("te", "gzip")),
        SHORT_BODY,
    ],
)
async def test_a_malformed_request_is_reset_and_not_told(malformed: bytes) -> None:
    records: list[ReceivedRequest] = []
    async with Receiver(records.append) as receiver:
        answer = await _raw(receiver, malformed, END)
    reset = frame(http2.RST_STREAM, 0, stream_id(1), ErrorCode.PROTOCOL_ERROR.to_bytes(4, "big"))
    assert reset in answer
    assert records == []


@pytest.mark.parametrize(
    "broken, code",
    [
        (lambda: END, ErrorCode.FRAME_SIZE_ERROR),
        (lambda: frame(http2.HEADERS, 5, stream_id(1), b"\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        (lambda: request_frame(2, PATH), ErrorCode.STREAM_CLOSED),
    ],
)
async def test_a_broken_connection_is_ended_with_the_reason(
    broken: Callable[[], bytes], code: ErrorCode
) -> None:
    async with Receiver() as receiver:
        answer = await _raw(receiver, broken())
    goaway = answer.index(bytes((http2.GOAWAY, 0)) + http2.NO_STREAM)
    assert answer[goaway + 10 : goaway + 14] == code.to_bytes(4, "big")


async def test_a_receiver_that_stops_says_goodbye() -> None:
    async with Receiver() as receiver:
        client = Http2Client(_port(receiver))
        await client.__aenter__()
        assert (await client.request(PATH, HEAD, MESSAGE)).grpc_status == 0
    await client.until_goaway()
    await client.__aexit__(None, None, None)
