"""The backend's side over HTTP/2: many requests on one connection, stream ids of our own."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.seams import ConnectionOwner, UpstreamRequest
from gateway.dataplane.http2.answer_sections import AnswerSections
from gateway.dataplane.http2.keepalive import Keepalive, Step
from gateway.dataplane.http2.transport import Http2Transport, TransportRole
from gateway.dataplane.upstream.connector import ConnectError
from gateway.wire import hpack
from gateway.wire.http2 import ErrorCode, Http2ConnectionError, Http2StreamError, Setting, Stream

ALPN: Final = ("h2",)
"""What is offered to a backend over TLS."""

_log = structlog.get_logger("gateway.worker")

_PING: Final = b"alive?.."
_IDLE_S: Final = 60.0
_LAST_ID: Final = 2**31 - 1_001


class UpstreamStream(Stream):
    """One request at the backend: implements `seams.Upstream`."""

    __slots__ = ("_connection", "head_seen", "request")

    def __init__(self, stream_id: int, connection: Http2Upstream, request: UpstreamRequest) -> None:
        Stream.__init__(
            self, stream_id, connection.sender.peer_window, connection.windows.stream_window
        )
        self._connection = connection
        self.request = request
        self.head_seen = False

    @property
    def address(self) -> str:
        """Where it goes, for traces and logs."""
        return self._connection.owner.target.address

    def send_body(self, chunk: bytes, ended: bool) -> int:
        """See `Upstream`: as much as the backend's window allows is sent now."""
        connection = self._connection
        queued = connection.sender.send_data(self, chunk, ended)
        if queued:
            connection.context.budget.charge(queued)
        return queued

    def cancel(self) -> None:
        """See `Upstream`: reset the stream, if it is still open."""
        connection = self._connection
        if connection.sender.streams.get(self.id) is self:
            connection.sender.reset(self.id, ErrorCode.CANCEL)
            if not self.head_seen:
                connection.request_unanswered()
            connection.request_ended()

    def grant(self, length: int) -> None:
        """See `Upstream`."""
        connection = self._connection
        if connection.sender.streams.get(self.id) is self:
            may_grow = not connection.context.budget.is_near
            connection.windows.grant(self, length, may_grow=may_grow)


class Http2Upstream(TransportRole[UpstreamStream]):
    """One connection to a backend (`seams.UpstreamConnection`): the role of a `Http2Transport`."""

    __slots__ = (
        "_answered_count",
        "_answers",
        "_heads",
        "_idle_since",
        "_is_closing",
        "_keepalive",
        "_next_id",
        "_prefix",
        "_pseudo",
        "_ready",
        "_receiver",
        "context",
        "owner",
        "sender",
        "transport",
        "windows",
    )

    def __init__(
        self,
        context: WorkerContext,
        owner: ConnectionOwner,
        authority: str | None,
        answers: AnswerSections,
    ) -> None:
        """`authority` is sent as `:authority` instead of the address's own."""
        settings = {
            Setting.HEADER_TABLE_SIZE: 0,
            Setting.ENABLE_PUSH: 0,
            Setting.MAX_HEADER_LIST_SIZE: hpack.MAX_HEADER_LIST_BYTES,
        }
        self.context = context
        self.owner = owner
        self.transport: Http2Transport[UpstreamStream] = Http2Transport(
            context, self, settings, is_server=False
        )
        self.sender = self.transport.sender
        self._receiver = self.transport.receiver
        self.windows = self._receiver.windows
        self._answers = answers
        self._next_id = 1
        self._is_closing = False
        self._ready: asyncio.Future[None] = context.loop.create_future()
        self._keepalive = Keepalive()
        self._answered_count = 0
        self._idle_since = context.tick
        target = owner.target
        self._pseudo = hpack.encode(
            [
                (b":method", b"POST"),
                (b":scheme", b"https" if target.tls else b"http"),
                (b":authority", (authority or target.address).encode()),
            ]
        )
        self._prefix = target.prefix.encode()
        self._heads: dict[bytes, bytes] = {}
        """Path → the fields that are the same for every request with it."""

    # Readiness

    async def ready(self) -> None:
        """Wait for the backend's SETTINGS, so that its stream limit is known before the first
        request.
        """
        await self._ready

    @property
    def protocol(self) -> asyncio.BufferedProtocol:
        """What takes the connection's bytes."""
        return self.transport

    @property
    def bug_place(self) -> str:
        """See `TransportRole`."""
        return "upstream"

    def opened(self, transport: asyncio.Transport) -> bool:
        """See `TransportRole`."""
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None and ssl_object.selected_alpn_protocol() != "h2":
            self._ready.set_exception(
                ConnectError("the backend does not offer HTTP/2 (ALPN h2), which gRPC needs")
            )
            return False
        return True

    def settings_changed(self) -> None:
        """The backend's stream limit may be another now."""
        if not self._ready.done():
            self._ready.set_result(None)
        else:
            self.owner.capacity_changed(self, self.capacity)

    def next_own_stream(self) -> int:
        """See `Role`."""
        return self._next_id

    # Requests

    @property
    def busy(self) -> int:
        """Open requests."""
        return len(self.sender.streams)

    @property
    def capacity(self) -> int:
        """How many more requests it takes now: none while a PING waits for its answer."""
        if self._is_closing or self._receiver.is_failed or self._keepalive.is_asking:
            return 0
        return self._receiver.control.peer_max_streams - len(self.sender.streams)

    @property
    def requests(self) -> list[UpstreamRequest]:
        """The open requests."""
        return [stream.request for stream in self.sender.streams.values()]

    def open(self, request: UpstreamRequest) -> UpstreamStream:
        """Send a request's head on a new stream."""
        stream = UpstreamStream(self._next_id, self, request)
        self._next_id += 2
        self._receiver.control.budget.served += 1
        if self._next_id > _LAST_ID:
            self._is_closing = True
        self.sender.streams[stream.id] = stream
        path = request.head.path
        head = self._heads.get(path)
        if head is None:
            # Routed paths are a closed set, so this stays small.
            head = self._pseudo + hpack.encode(
                [(b":path", self._prefix + path), (b"te", b"trailers")]
            )
            self._heads[path] = head
        fields = request.fields.h2(request.head, request.principal, request.peer)
        self.sender.send_headers(stream, head + fields, ended=False)
        if self.capacity <= 0:
            self.owner.capacity_changed(self, 0)
        return stream

    def headers_received(
        self, stream_id: int, stream: UpstreamStream | None, block: bytes, ended: bool
    ) -> None:
        """Take an answer's head or trailers."""
        section = self._answers.read(block, self._receiver.decoder)
        if stream is None:
            if stream_id >= self._next_id or not stream_id & 1:
                raise Http2ConnectionError(
                    ErrorCode.PROTOCOL_ERROR, "HEADERS for a stream that was never opened"
                )
            return
        if section is None or (stream.head_seen and (section.status or not ended)):
            raise Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR)
        if not stream.head_seen:
            if not section.status:
                raise Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR)
            if section.status < 200:
                if ended:
                    raise Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR)
                return
            stream.head_seen = True
            if ended:
                self._answered(stream)
            stream.request.answer.head(section, ended)
        else:
            self._answered(stream)
            stream.request.answer.trailers(section)

    def _answered(self, stream: UpstreamStream) -> None:
        """The backend's answer is complete; a body that is still going is stopped."""
        stream.remote_ended = True
        self._answered_count += 1
        if stream.local_ended:
            self.sender.forget(stream)
        else:
            self.sender.reset(stream.id, ErrorCode.NO_ERROR)
        self.request_ended()

    def data_received(self, stream: UpstreamStream, chunk: bytes, ended: bool) -> None:
        """Take answer bytes."""
        if not stream.head_seen:
            raise Http2StreamError(stream.id, ErrorCode.PROTOCOL_ERROR)
        if ended:
            self._answered(stream)
        stream.request.answer.body(chunk, ended)

    def data_left(self, stream: UpstreamStream, length: int) -> None:
        """Queued request bytes have gone."""
        self.context.budget.release(length)
        stream.request.body_left(length)

    def data_dropped(self, stream: UpstreamStream, length: int) -> None:
        """Queued request bytes will not go."""
        self.context.budget.release(length)
        stream.request.body_dropped(length)

    def reset_received(self, stream: UpstreamStream, code: int) -> None:
        """The backend gave up on one request; REFUSED_STREAM: it has not looked at it (RFC 9113
        §8.7).
        """
        self.request_ended()
        # With an answer begun it has looked at it, whatever it says.
        stream.request.lost(code == ErrorCode.REFUSED_STREAM and not stream.head_seen)

    def stream_error(self, error: Http2StreamError) -> None:
        """The backend broke the rules on one stream."""
        stream = self.sender.streams.get(error.stream_id)
        self.sender.reset(error.stream_id, error.code)
        if stream is not None:
            self.request_ended()
            stream.request.lost(False)

    def goaway_received(self, last_stream: int, code: int) -> None:
        """The backend takes no new requests; those above `last_stream` are sent elsewhere, unless
        their answer has begun.
        """
        self._is_closing = True
        self.owner.connection_lost(self)
        for stream in [
            stream for stream in self.sender.streams.values() if stream.id > last_stream
        ]:
            self.sender.forget(stream)
            stream.request.lost(not stream.head_seen)
        self.request_ended()

    def failed(self, code: ErrorCode, text: str) -> None:
        """The backend broke the protocol."""
        _log.warning(
            "the backend broke the HTTP/2 protocol",
            address=self.owner.target.address,
            code=code.name,
            text=text,
        )
        if not self._ready.done():
            self._ready.set_exception(
                ConnectError(f"the backend does not speak HTTP/2, which gRPC needs: {text}")
            )
        self.owner.connection_lost(self)
        self.transport.close()
        self._lose_requests()

    def holds_bodies(self) -> bool:
        """See `TransportRole`: bodies come from clients only."""
        return False

    def closed(self, error: Exception | None) -> None:
        """See `TransportRole`: every open request is lost."""
        if not self._ready.done():
            self._ready.set_exception(
                ConnectError(
                    f"the connection was closed before HTTP/2 had begun: {error or 'end of file'}"
                )
            )
        self.owner.connection_lost(self)
        self._lose_requests()

    def _lose_requests(self) -> None:
        for stream in list(self.sender.streams.values()):
            self.sender.forget(stream)
            stream.request.lost(False)

    # Life

    def request_ended(self) -> None:
        """A stream was forgotten."""
        if not self.sender.streams:
            self._idle_since = self.context.tick
            if self._is_closing:
                self.transport.close()
                return
        self.owner.capacity_changed(self, self.capacity)

    def request_unanswered(self) -> None:
        """A request has ended without an answer: in a silence the backend is asked at once."""
        now = self.context.tick
        self._keepalive.request_unanswered(now)
        if self._next_step(now) is Step.PING:
            self._ask()

    def ping_answered(self, payload: bytes) -> None:
        """The backend is still there."""
        self._keepalive.answered()
        self._is_heard()

    def sweep(self, now: float) -> None:
        """Notice a backend that is no longer there, or answers nothing."""
        self._receiver.control.calm()
        was_asking = self._keepalive.is_asking
        step = self._next_step(now)
        if step is Step.PING:
            self._ask()
        elif step is Step.GIVE_UP:
            self.owner.silent(self, now)
            self.transport.abort()
        elif step is Step.REPLACE:
            self.close()
        elif was_asking and not self._keepalive.is_asking:
            self._is_heard()
        elif (
            not self.sender.streams
            and now - self._idle_since > _IDLE_S
            and self.owner.is_surplus(self)
        ):
            self.close()

    def _next_step(self, now: float) -> Step:
        return self._keepalive.next_step(
            now,
            self.transport.last_received,
            self._answered_count,
            waits=bool(self.sender.streams),
        )

    def _is_heard(self) -> None:
        self.owner.trust(self)
        self.owner.capacity_changed(self, self.capacity)

    def _ask(self) -> None:
        self.sender.ping(_PING)
        self.owner.doubt(self)

    def close(self) -> None:
        """Close when nothing is open, else after the open requests."""
        self._is_closing = True
        self.owner.connection_lost(self)
        if not self.sender.streams:
            self.sender.goaway(0, ErrorCode.NO_ERROR)
            self.transport.close()
