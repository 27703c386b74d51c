"""The HTTP/2 side of the test backend: one connection, driven by the `h2` library."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Protocol, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    PingReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame

from tests.support.exchange import Answer, Break, Fields, GrpcMessage, Request, Script, http_body

_NO_ERROR = 0


class Recorder(Protocol):
    """What the sides need of the sink."""

    script: Script

    def early_answer(self, head: Request) -> Answer | None:
        """Return the answer that is due before the body, if any."""

    def record(self, request: Request) -> None:
        """Take in a request that has ended."""

    def cancel(self, request: Request) -> None:
        """Note that the peer no longer waits for the answer."""

    def fault(self, text: str) -> None:
        """Note what no test expects."""

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run work until it ends or the sink closes."""


@dataclass(slots=True)
class _Stream:
    """One request on its way in, and the answer's bytes that flow control holds back."""

    fields: Fields
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    answered: bool = False
    """Whether an answer is decided on."""
    finished: bool = False
    """Whether the answer is sent to its end."""
    room: asyncio.Event = field(default_factory=asyncio.Event)


class Http2Side(asyncio.Protocol):
    """One connection to the sink.

    Credit is given back on receipt, unless `hold_credit` is set: then a sender comes to a halt at
    the edge of its windows until `give_credit` is called.
    """

    def __init__(self, sink: Recorder, number: int, settings: dict[SettingCodes, int]) -> None:
        """`number` identifies the connection in what is recorded."""
        self.hold_credit = False
        self.closed = False
        self.pings = 0
        self._sink = sink
        self._number = number
        self._http2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._settings = settings
        self._streams: dict[int, _Stream] = {}
        self._owed: dict[int, int] = {}
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Announce our settings."""
        self._transport = cast("asyncio.Transport", transport)
        self._http2.initiate_connection()
        # Afterwards, for then h2 applies them when the peer has acknowledged them, not before.
        self._http2.update_settings({int(code): value for code, value in self._settings.items()})
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Feed the state machine; a protocol error is a fault and ends the connection."""
        try:
            events = self._http2.receive_data(data)
        except ProtocolError as error:
            self._sink.fault(f"HTTP/2 protocol error: {type(error).__name__}: {error}")
            self._flush()
            self.abort()
            return
        for event in events:
            self._take(event)
        self._flush()

    def connection_lost(self, _: Exception | None) -> None:
        """Record what never ended."""
        self.closed = True
        for stream_id in list(self._streams):
            self._drop(stream_id)

    @property
    def highest_stream(self) -> int:
        """The last stream that the peer has begun."""
        return self._http2.highest_inbound_stream_id

    def abort(self) -> None:
        """Reset the TCP connection."""
        if self._transport is not None:
            self._transport.abort()

    def give_credit(self) -> None:
        """Give back all credit that `hold_credit` kept, and keep no more."""
        self.hold_credit = False
        for stream_id, size in self._owed.items():
            self._http2.acknowledge_received_data(size, stream_id)
        self._owed.clear()
        self._flush()

    def goaway(self, last_stream_id: int, code: int = _NO_ERROR) -> None:
        """Send GOAWAY and go on serving: a graceful shutdown (RFC 9113 §6.8)."""
        frame = GoAwayFrame(stream_id=0, last_stream_id=last_stream_id, error_code=code)
        self._write(frame.serialize())

    def _take(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._begin(event)
            case DataReceived():
                self._more(event)
            case StreamEnded():
                self._end(event.stream_id)
            case StreamReset():
                self._drop(event.stream_id)
            case TrailersReceived():
                self._sink.fault("a request with trailers")
            case WindowUpdated():
                self._widen(event.stream_id)
            case PingReceived():
                self.pings += 1
            case _:
                pass

    def _begin(self, event: RequestReceived) -> None:
        stream = _Stream(cast("Fields", tuple((str(n), str(v)) for n, v in event.headers)))
        self._streams[event.stream_id] = stream
        request = self._request(stream, complete=False)
        answer = self._sink.early_answer(request)
        if answer is not None:
            stream.answered = True
            self._sink.spawn(self._send(event.stream_id, request, lambda _: answer))

    def _more(self, event: DataReceived) -> None:
        if (stream := self._streams.get(event.stream_id)) is not None:
            stream.body += event.data
        size = event.flow_controlled_length
        if self.hold_credit:
            self._owed[event.stream_id] = self._owed.get(event.stream_id, 0) + size
        elif size:
            self._http2.acknowledge_received_data(size, event.stream_id)

    def _end(self, stream_id: int) -> None:
        stream = self._streams[stream_id]
        stream.ended = True
        request = self._request(stream, complete=True)
        self._sink.record(request)
        if stream.finished:
            del self._streams[stream_id]
        elif not stream.answered:
            stream.answered = True
            self._sink.spawn(self._send(stream_id, request, self._sink.script))

    def _drop(self, stream_id: int) -> None:
        """Forget a stream that the peer reset, or that went with its connection."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.room.set()
            request = self._request(stream, complete=stream.ended)
            if stream.ended:
                self._sink.cancel(request)
            elif not stream.answered:
                self._sink.record(request)

    def _widen(self, stream_id: int) -> None:
        for number, stream in self._streams.items():
            if stream_id in (0, number):
                stream.room.set()

    def _request(self, stream: _Stream, *, complete: bool) -> Request:
        pseudo = dict(f for f in stream.fields if f[0].startswith(":"))
        return Request(
            http_version="2",
            method=pseudo.get(":method", ""),
            path=pseudo.get(":path", ""),
            authority=pseudo.get(":authority", ""),
            fields=tuple(f for f in stream.fields if not f[0].startswith(":")),
            body=bytes(stream.body),
            connection=self._number,
            complete=complete,
        )

    async def _send(self, stream_id: int, request: Request, script: Script) -> None:
        answer = script(request)
        if answer.wait_for is not None:
            await answer.wait_for.wait()
        fields, body, trailers = _render(request, answer)
        if self._broken(stream_id, answer.breaks, "nothing"):
            return
        only_head = not body and not trailers and answer.breaks is None
        if not self._send_head(stream_id, fields, end=only_head) or only_head:
            return
        if self._broken(stream_id, answer.breaks, "head"):
            return
        for part, name in ((body[: len(body) // 2], "half"), (body[len(body) // 2 :], "body")):
            await self._send_body(stream_id, part)
            if self._broken(stream_id, answer.breaks, name):
                return
        self._finish(stream_id, trailers)

    def _send_head(self, stream_id: int, fields: Fields, *, end: bool) -> bool:
        """Send the head unless the peer has given the stream up meanwhile."""
        if stream_id not in self._streams:
            return False
        self._http2.send_headers(stream_id, list(fields), end_stream=end)
        if end:
            self._done(stream_id)
        self._flush()
        return True

    async def _send_body(self, stream_id: int, data: bytes) -> None:
        while data and (stream := self._streams.get(stream_id)) is not None:
            stream.room.clear()
            size = min(
                self._http2.local_flow_control_window(stream_id),
                self._http2.max_outbound_frame_size,
                len(data),
            )
            if size <= 0:
                await stream.room.wait()
                continue
            self._http2.send_data(stream_id, data[:size])
            self._flush()
            data = data[size:]

    def _finish(self, stream_id: int, trailers: Fields) -> None:
        if stream_id not in self._streams:
            return
        if trailers:
            self._http2.send_headers(stream_id, list(trailers), end_stream=True)
        else:
            self._http2.end_stream(stream_id)
        self._done(stream_id)
        self._flush()

    def _done(self, stream_id: int) -> None:
        """Forget an answered stream; one whose body still comes is waited for."""
        stream = self._streams[stream_id]
        stream.finished = True
        if stream.ended:
            del self._streams[stream_id]

    def _broken(self, stream_id: int, breaks: Break | None, reached: str) -> bool:
        """Break the answer off if that is due here."""
        if breaks is None or breaks.after != reached:
            return False
        match breaks.how:
            case "reset":
                if self._streams.pop(stream_id, None) is not None:
                    self._http2.reset_stream(stream_id, breaks.code)
            case "goaway":
                self._streams.pop(stream_id, None)
                last = stream_id if breaks.processed else stream_id - 2
                self.goaway(max(last, 0), breaks.code)
            case "close":
                if self._transport is not None:
                    self._transport.close()
            case "silence":
                pass
        self._flush()
        return True

    def _flush(self) -> None:
        self._write(self._http2.data_to_send())

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and not self.closed:
            self._transport.write(data)


def _render(request: Request, answer: Answer) -> tuple[Fields, bytes, Fields]:
    """Return head, body and trailers; a gRPC error without a message is trailers-only."""
    if not request.is_grpc or answer.grpc_status < 0:
        fields, body = http_body(request, answer)
        return ((":status", str(answer.status)), *fields), body, ()
    head = ((":status", str(answer.status)), ("content-type", "application/grpc"), *answer.fields)
    trailers: Fields = (("grpc-status", str(answer.grpc_status)),)
    if answer.grpc_message:
        trailers += (("grpc-message", answer.grpc_message),)
    trailers += answer.trailers
    if answer.grpc_status != 0 and answer.body is None:
        return (*head, *trailers), b"", ()
    return head, GrpcMessage(compressed=False, data=answer.body or b"").to_bytes(), trailers
