"""The caller's side over HTTP/2: gRPC, and OTLP/HTTP as Go clients send it with TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from gateway import metrics
from gateway.dataplane.core.certificates import ClientCertificate
from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.heads import RequestHead
from gateway.dataplane.core.throttled_log import MALFORMED_REQUEST
from gateway.dataplane.exchange.pipeline import RequestPipeline
from gateway.dataplane.http2.lifetime import ServerLifetime
from gateway.dataplane.http2.request_head import (
    HeadReader,
    KnownFields,
    LargeHeadError,
    MalformedHeadError,
)
from gateway.dataplane.http2.server_stream import ServerStream, StreamConnection
from gateway.dataplane.http2.transport import Http2Transport, TransportRole
from gateway.outcome import REFUSALS
from gateway.wire import hpack
from gateway.wire.http2 import (
    FIRST_SERVER_STREAM,
    ErrorCode,
    Http2ConnectionError,
    Http2StreamError,
    Setting,
)
from gateway.wire.http2_budget import RESET_COST

ABUSE: Final = "a client's HTTP/2 connection was ended: it sends too many frames that are of no use"
DAMAGED: Final = "a client's HTTP/2 connection was ended: a header block cannot be decoded"
UNREADABLE: Final = "header_block"
"""The kind of abuse (`metrics.ABUSE_KINDS`) that one block is enough for."""
_FREE_HEAD_BYTES: Final = 256
"""So many bytes of a head that is too large cost as much as a frame that is of no use,"""
_FREE_HEAD_FIELDS: Final = 8
"""and so many of its fields."""
_CANCELED_AT_ONCE: Final = 16
"""Streams of a connection that is gone: about a millisecond. Many may go in one turn."""
_GOAWAY_S: Final = 2.0
"""How long a client may take to read why its connection ends."""


class Http2Server(TransportRole[ServerStream]):
    """One client connection: the role of a `Http2Transport`, and a `seams.ServerConnection`."""

    __slots__ = (
        "_connection",
        "_context",
        "_failed_at",
        "_heads",
        "_lifetime",
        "_pipeline",
        "_receiver",
        "_sender",
        "_stream_limit",
        "_transport",
    )

    def __init__(
        self,
        context: WorkerContext,
        pipeline: RequestPipeline,
        known: KnownFields,
        peer: str,
        certificate: ClientCertificate | None = None,
    ) -> None:
        limit = context.limits.max_streams_per_connection
        settings = {
            Setting.HEADER_TABLE_SIZE: 0,
            Setting.MAX_CONCURRENT_STREAMS: limit,
            Setting.MAX_HEADER_LIST_SIZE: hpack.MAX_HEADER_LIST_BYTES,
        }
        self._context = context
        self._pipeline = pipeline
        self._stream_limit = limit
        self._failed_at = 0.0
        transport: Http2Transport[ServerStream] = Http2Transport(
            context, self, settings, context.client_of(peer), is_server=True
        )
        self._transport = transport
        self._sender = transport.sender
        self._receiver = transport.receiver
        self._heads = HeadReader(self._receiver.decoder, known)
        self._lifetime = ServerLifetime(context, transport)
        self._connection = StreamConnection(
            self._sender,
            self._receiver.windows,
            context.budget,
            peer,
            self._receiver.control.budget,
            self._lifetime.stream_ended,
            certificate,
        )

    @property
    def protocol(self) -> asyncio.BufferedProtocol:
        """What takes the connection's bytes."""
        return self._transport

    @property
    def bug_place(self) -> str:
        """See `TransportRole`."""
        return "connection"

    def opened(self, transport: asyncio.Transport) -> bool:
        """See `TransportRole`."""
        self._context.connections.add(self)
        return True

    def closed(self, error: Exception | None) -> None:
        """See `TransportRole`: cancel what is open."""
        self._context.connections.discard(self)
        self._cancel_some()

    def _cancel_some(self) -> None:
        """Cancel open streams; many of them in several turns of the loop."""
        sender = self._sender
        streams = sender.streams
        for _ in range(_CANCELED_AT_ONCE):
            if not streams:
                break
            stream = next(reversed(streams.values()))
            sender.forget(stream)
            stream.exchange.caller_gone()
            stream.part()
        if streams:
            self._context.backlog.add(self._transport.client, self._cancel_some)
        else:
            sender.close()

    def next_own_stream(self) -> int:
        """See `Role`: a server opens none, so all even streams are idle."""
        return FIRST_SERVER_STREAM

    # Requests

    def headers_received(
        self, stream_id: int, stream: ServerStream | None, block: bytes, ended: bool
    ) -> None:
        """Begin a request, or end one with its trailers."""
        try:
            if stream is not None:
                self._trailers(stream, block, ended=ended)
                return
            if stream_id <= self._receiver.control.highest_peer_stream or not stream_id & 1:
                self._late_headers(stream_id, block, ended=ended)
                return
            self._receiver.control.highest_peer_stream = stream_id
            try:
                head = self._heads.read(block)
            except MalformedHeadError as error:
                self._refuse_malformed(stream_id, error.head, str(error))
                return
            except LargeHeadError as large:
                cost = max(len(block) // _FREE_HEAD_BYTES, large.fields // _FREE_HEAD_FIELDS)
                self._receiver.control.budget.spend("header_list", cost)
                self._refuse_head(stream_id, large.head, "HEAD_TOO_LARGE", ended=ended)
                return
        except hpack.HeaderBlockError as unreadable:
            code = ErrorCode.COMPRESSION_ERROR
            raise Http2ConnectionError(code, str(unreadable), UNREADABLE) from unreadable
        if ended and head.content_length > 0:
            self._refuse_malformed(stream_id, head, "a content-length, and no body")
            return
        if len(self._sender.streams) >= self._stream_limit or self._lifetime.is_over:
            self._refuse_stream(stream_id)
            return
        stream = ServerStream(stream_id, self._connection)
        stream.remote_ended = ended
        pipeline = self._pipeline
        exchange = stream.exchange = pipeline.make(stream, head)
        self._sender.streams[stream_id] = stream
        stream.charge(len(block), len(head.fields))
        if ended and not head.is_grpc:
            head.content_length = 0  # HTTP/1.1 has to say that no body comes
        pipeline.start(exchange)
        if ended and not exchange.is_over:
            exchange.receive_body(b"", True)

    def _refuse_stream(self, stream_id: int) -> None:
        """Refuse a stream beyond the announced number, or after the final GOAWAY."""
        self._sender.reset(stream_id, ErrorCode.REFUSED_STREAM)
        if not self._lifetime.is_over:
            self._receiver.control.budget.spend("stream_error")

    def _refuse_malformed(self, stream_id: int, head: RequestHead, detail: str) -> None:
        """Answer a malformed head, and then reset the stream, as RFC 9113 §8.1.1 has it."""
        self._context.throttled.warn(
            MALFORMED_REQUEST, self._connection.peer, self._context.now(), detail
        )
        # Whatever follows: the stream is reset below.
        if self._refuse_head(stream_id, head, "MALFORMED", ended=True):
            raise Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR)

    def _refuse_head(self, stream_id: int, head: RequestHead, reason: str, *, ended: bool) -> bool:
        """Answer what has no proper head; return whether there was room for that."""
        if len(self._sender.streams) >= self._stream_limit or self._lifetime.is_over:
            self._refuse_stream(stream_id)
            return False
        stream = ServerStream(stream_id, self._connection)
        stream.remote_ended = ended
        self._sender.streams[stream_id] = stream
        stream.exchange = self._pipeline.make(stream, head)
        stream.exchange.refuse(REFUSALS[reason])
        return True

    def _trailers(self, stream: ServerStream, block: bytes, *, ended: bool) -> None:
        """Read a request's trailers; they end its body and are not passed on (RFC 9110 §6.5.1
        allows to discard them).
        """
        try:
            self._heads.read_trailers(block)
        except (MalformedHeadError, hpack.HeaderListTooLargeError):
            raise Http2StreamError(stream.id, ErrorCode.PROTOCOL_ERROR) from None
        if stream.remote_ended:
            raise Http2ConnectionError(ErrorCode.STREAM_CLOSED, "HEADERS on a half-closed stream")
        if not ended:
            raise Http2StreamError(stream.id, ErrorCode.PROTOCOL_ERROR)
        stream.remote_ended = True
        self.data_received(stream, b"", True)

    def _late_headers(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        """Handle HEADERS of a stream that is closed: expected only as trailers of one we reset."""
        if not stream_id & 1:
            raise Http2ConnectionError(
                ErrorCode.PROTOCOL_ERROR, "a client's stream with an even id"
            )
        is_valid = ended
        try:
            self._heads.read_trailers(block)
        except (MalformedHeadError, hpack.HeaderListTooLargeError):
            is_valid = False
        left = self._sender.unended.pop(stream_id, None)
        if left is None:
            self._receiver.control.budget.spend("closed_stream")
            left = self._sender.resets.get(stream_id)
        if left is None:
            raise Http2ConnectionError(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream")
        if not is_valid or left > 0:
            raise Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR)

    def data_received(self, stream: ServerStream, chunk: bytes, ended: bool) -> None:
        """Hand body bytes to the exchange; their number must be what was declared."""
        declared = stream.exchange.head.content_length
        if declared >= 0:
            stream.received += len(chunk)
            if stream.received > declared or (ended and stream.received != declared):
                stream.exchange.caller_gone()
                raise Http2StreamError(stream.id, ErrorCode.PROTOCOL_ERROR)
        stream.exchange.receive_body(chunk, ended)

    def data_left(self, stream: ServerStream, length: int) -> None:
        """Queued answer bytes have gone."""
        self._context.budget.release(length)
        stream.exchange.answer_left(length)
        if not stream.queue:
            stream.queue_left()

    def data_dropped(self, stream: ServerStream, length: int) -> None:
        """Queued answer bytes will not go."""
        self._context.budget.release(length)

    def reset_received(self, stream: ServerStream, code: int) -> None:
        """The caller gave up. It may at any time, but not open streams only to reset them (CVE
        2023-44487): one that has lasted until a sweep has cost it time.
        """
        is_young = stream.exchange.record.started >= self._context.tick
        stream.exchange.caller_gone()
        stream.part()
        self._lifetime.stream_ended()
        if is_young:
            self._receiver.control.budget.spend("rst_stream", RESET_COST)

    def stream_error(self, error: Http2StreamError) -> None:
        """The caller broke the rules on one stream."""
        stream = self._sender.streams.get(error.stream_id)
        self._sender.reset(error.stream_id, error.code)
        if stream is not None:
            stream.exchange.caller_gone()
            stream.part()
        self._lifetime.stream_ended()

    def failed(self, code: ErrorCode, text: str) -> None:
        """The caller broke the protocol, or sent too much of no use: GOAWAY has been sent."""
        abuse = self._receiver.abuse
        if abuse:
            self._context.counters.count(metrics.ABUSE, abuse)
            warning = DAMAGED if abuse == UNREADABLE else ABUSE
            self._context.throttled.warn(
                warning, self._connection.peer, self._context.now(), f"kind: {abuse}"
            )
        self._failed_at = self._context.tick
        self._transport.close()

    # What `seams.ServerConnection` asks for

    def sweep(self, now: float) -> None:
        """See `ServerConnection`."""
        if self._receiver.is_failed:
            if now - self._failed_at > _GOAWAY_S:
                self._transport.abort()  # a caller that does not even read why
            return
        self._receiver.control.calm()
        self._sender.reset_unended()
        stall_timeout_s = self._context.limits.stall_timeout_s
        for stream in list(self._sender.streams.values()):
            exchange = stream.exchange
            exchange.sweep(now)
            idle = now - exchange.progress_at
            if stream.queue and exchange.is_over and idle > stall_timeout_s:
                stream.end(ErrorCode.CANCEL)  # a caller that takes no answer
        self._transport.sweep()
        self._lifetime.sweep(now)

    def holdings(self) -> Iterator[tuple[str, int]]:
        """See `ServerConnection`."""
        for stream in self._sender.streams.values():
            yield stream.exchange.sender, stream.held

    def holds_bodies(self) -> bool:
        """See `TransportRole`."""
        return any(stream.exchange.body.held for stream in self._sender.streams.values())

    def start_drain(self) -> None:
        """See `ServerConnection`."""
        self._lifetime.start_drain()

    def abort(self) -> None:
        """See `ServerConnection`."""
        self._transport.abort()

    # Frames that change nothing here

    def goaway_received(self, last_stream: int, code: int) -> None:
        """See `Role`: the client may take its time to close."""

    def settings_changed(self) -> None:
        """See `Role`."""

    def ping_answered(self, payload: bytes) -> None:
        """See `Role`."""
        self._lifetime.ping_answered(payload)
