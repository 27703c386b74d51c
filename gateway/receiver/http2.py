"""The receiver's HTTP/2 side, on `gateway.wire`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.http2_connection import Http2Connection
from gateway.receiver.app import Body, ReceiverApp
from gateway.receiver.exports import Head, HttpResponse
from gateway.receiver.http2_head import read_head
from gateway.wire import hpack
from gateway.wire.hpack import Pair
from gateway.wire.http2 import ErrorCode, Http2ConnectionError, Http2StreamError, Setting, Stream

_STREAMS: Final = 1000
_SETTINGS: Final = {
    Setting.HEADER_TABLE_SIZE: 0,
    Setting.MAX_CONCURRENT_STREAMS: _STREAMS,
    Setting.MAX_HEADER_LIST_SIZE: hpack.MAX_HEADER_LIST_BYTES,
}
_CALM_S: Final = 1.0
"""How often a client gets back some of what it may send of no use (`wire.http2_budget`)."""


class _Request(NamedTuple):
    """A request on its way in."""

    head: Head
    body: Body


OnComplete = Callable[[Stream, _Request], None]


class _Requests(Http2Connection):
    """The requests of one connection, without I/O; `on_complete` is called with each."""

    def __init__(self, peer: str, on_complete: OnComplete) -> None:
        super().__init__(_SETTINGS, is_server=True)
        self._peer = peer
        self._on_complete = on_complete
        self._open: dict[int, _Request] = {}
        self._trailers: dict[int, list[Pair]] = {}
        """By stream: what follows the part of a response that waits for the client's window."""
        self._is_leaving = False

    def leave(self) -> None:
        """Take no further requests: send GOAWAY."""
        self._is_leaving = True
        self.sender.goaway(self.receiver.control.highest_peer_stream, ErrorCode.NO_ERROR)

    def respond(self, stream: Stream, response: HttpResponse) -> None:
        """Send a response, unless the client no longer waits for it."""
        if self.sender.streams.get(stream.id) is not stream:
            return
        self.receiver.control.budget.served += 1
        fields = [(b":status", b"%d" % response.status), *response.headers]
        self.sender.send_headers(stream, hpack.encode(fields), ended=False)
        has_trailers = response.trailers is not None
        if response.trailers is not None:
            self._trailers[stream.id] = response.trailers
        if response.body or not has_trailers:
            self.sender.send_data(stream, response.body, not has_trailers)
        self.data_left(stream, 0)

    def data_left(self, stream: Stream, length: int) -> None:
        """End the response when all of its body has been sent."""
        if stream.queue:
            return
        trailers = self._trailers.pop(stream.id, None)
        if trailers is not None:
            self.sender.send_headers(stream, hpack.encode(trailers), ended=True)
        self.sender.forget(stream)

    def headers_received(
        self, stream_id: int, stream: Stream | None, block: bytes, ended: bool
    ) -> None:
        """Begin a request, or end one with its trailers, which say nothing in OTLP."""
        control = self.receiver.control
        is_new = bool(stream_id & 1) and stream_id > control.highest_peer_stream
        if is_new:
            control.highest_peer_stream = stream_id
        fields = self.decode(stream_id, block)
        if stream is not None:
            self._end_with_trailers(stream, ended=ended)
            return
        if not is_new:
            if stream_id in self.sender.resets:
                return
            raise Http2ConnectionError(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream")
        if self._is_leaving or len(self.sender.streams) >= _STREAMS:
            raise Http2StreamError(stream_id, ErrorCode.REFUSED_STREAM)
        self._open[stream_id] = _Request(read_head(stream_id, fields, self._peer), Body())
        stream = self.new_stream(stream_id)
        if ended:
            stream.remote_ended = True
            self._complete(stream)

    def data_received(self, stream: Stream, chunk: bytes, ended: bool) -> None:
        """Take body bytes."""
        self._open[stream.id].body.add(chunk)
        if ended:
            self._complete(stream)
        else:
            self.receiver.windows.grant(stream, len(chunk), may_grow=True)

    def reset_received(self, stream: Stream, code: int) -> None:
        """Forget a request that the client has given up."""
        self._forget(stream.id)

    def stream_error(self, error: Http2StreamError) -> None:
        """Reset a stream on which the client broke the rules."""
        super().stream_error(error)
        self._forget(error.stream_id)

    def _forget(self, stream_id: int) -> None:
        self._open.pop(stream_id, None)
        self._trailers.pop(stream_id, None)

    def _end_with_trailers(self, stream: Stream, *, ended: bool) -> None:
        if stream.remote_ended:
            raise Http2ConnectionError(ErrorCode.STREAM_CLOSED, "HEADERS on a half-closed stream")
        if not ended:
            raise Http2StreamError(stream.id, ErrorCode.PROTOCOL_ERROR)
        stream.remote_ended = True
        self._complete(stream)

    def _complete(self, stream: Stream) -> None:
        request = self._open.pop(stream.id)
        declared = request.head.header("content-length")
        if declared and declared != str(request.body.size):  # RFC 9113 §8.1.1
            raise Http2StreamError(stream.id, ErrorCode.PROTOCOL_ERROR)
        self._on_complete(stream, request)


class Http2Protocol(asyncio.Protocol):
    """One connection: takes its bytes, and serves each request in a task."""

    def __init__(self, app: ReceiverApp, transport: asyncio.Transport) -> None:
        peer = transport.get_extra_info("peername")
        self._app = app
        self._transport = transport
        self._requests = _Requests(f"{peer[0]}:{peer[1]}" if peer else "", self._start)
        self._tasks: set[asyncio.Task[None]] = set()
        self._calm_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send our SETTINGS (asyncio)."""
        self._write()

    def data_received(self, data: bytes) -> None:
        """Take what has arrived (asyncio)."""
        now = asyncio.get_running_loop().time()
        if now >= self._calm_at:
            self._calm_at = now + _CALM_S
            self._requests.receiver.control.calm()
        self._requests.receive(data)
        self._write()
        if self._requests.failure:
            self._transport.close()

    def pause_writing(self) -> None:
        """Read nothing while the client does not either (asyncio)."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read again (asyncio)."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def leave(self) -> None:
        """Take no further requests: they belong on another connection."""
        self._requests.leave()
        self._write()

    def _start(self, stream: Stream, request: _Request) -> None:
        task = asyncio.create_task(self._serve(stream, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: Stream, request: _Request) -> None:
        with self._app.open_request():
            response = await self._app.answer(request.head, request.body.content)
        self._requests.respond(stream, response)
        self._write()

    def _write(self) -> None:
        output = self._requests.take_output()
        if output and not self._transport.is_closing():
            self._transport.write(output)
