"""The caller's side over HTTP/2: gRPC, and OTLP/HTTP as Go clients send it with TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.dataplane import replies
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.h2_transport import Http2Transport
from gateway.dataplane.heads import FieldSection
from gateway.dataplane.http2_heads import HeadReader, MalformedHeadError
from gateway.outcome import BACKEND_LOST, CANCELED, HEAD_TOO_LARGE, REFUSALS, Refusal
from gateway.wire import hpack
from gateway.wire.http2 import ConnectionFault, ErrorCode, Setting, Stream, StreamFault

if TYPE_CHECKING:
    from gateway.dataplane.plane import DataPlane

_LAST_STREAM: Final = 2**31 - 1
_DRAIN_PING: Final = b"drain..."
_DRAIN_PING_S: Final = 1.0
"""A client that has not answered the drain's PING by then gets the final GOAWAY all the same."""
_LOST: Final = next(refusal for refusal in REFUSALS.values() if refusal.outcome is BACKEND_LOST)


class ServerStream(Stream):
    """One request of the caller: implements `sides.Downstream`."""

    __slots__ = ("connection", "exchange", "peer", "received")

    exchange: Exchange

    def __init__(self, stream_id: int, connection: Http2Server) -> None:
        Stream.__init__(self, stream_id, connection.peer_window, connection.stream_window)
        self.connection = connection
        self.peer = connection.peer
        self.received = 0

    def send_head(self, section: FieldSection, ended: bool) -> None:
        """Send the answer's head."""
        self.connection.send_headers(self, section.h2 or section.encoded_h2(), ended=ended)
        if ended:
            self.close()

    def send_body(self, chunk: bytes, ended: bool) -> int:
        """Send answer bytes, within the caller's window."""
        connection = self.connection
        queued = connection.send_data(self, chunk, ended)
        if queued:
            connection.plane.budget.charge(queued)
        if self.local_ended:
            self.close()
        return queued

    def send_answer(self, section: FieldSection, body: bytes) -> None:
        """Send a whole answer."""
        self.connection.send_headers(self, section.h2 or section.encoded_h2(), ended=False)
        self.send_body(body, True)

    def send_trailers(self, section: FieldSection) -> None:
        """Send trailers behind what is queued."""
        if self.queue:
            self.connection.trailers_waiting[self] = section
            return
        self.connection.send_headers(self, section.h2 or section.encoded_h2(), ended=True)
        self.close()

    def refuse(self, refusal: Refusal, is_grpc: bool, allow: bytes) -> None:
        """Answer with the gateway's own refusal."""
        if refusal.outcome is CANCELED:
            return
        if is_grpc:
            self.send_head(replies.grpc_reply(refusal), ended=True)
            return
        status, fields, body = self.exchange.http_reply(refusal, allow)
        if self.exchange.head.method == b"HEAD":
            self.send_head(FieldSection(status, fields), True)
        else:
            self.send_answer(FieldSection(status, fields), body)

    def withhold(self) -> None:
        """Say that the request was not processed: the caller sends it again."""
        self.break_off(ErrorCode.REFUSED_STREAM)

    def abort(self) -> None:
        """Break off, so that no client takes the answer for complete."""
        if self.queue:
            self.break_off(ErrorCode.CANCEL)
        elif self.exchange.is_grpc:
            self.send_trailers(replies.grpc_trailers(_LOST))
        else:
            self.break_off(ErrorCode.INTERNAL_ERROR)

    def grant(self, length: int, keeps_up: bool) -> None:
        """Let the caller send more."""
        connection = self.connection
        connection.grant(self, length, may_grow=keeps_up and not connection.plane.budget.is_near)

    def accept_body(self) -> None:
        """Answer `Expect: 100-continue` (RFC 9110 §10.1.1)."""
        self.connection.send_headers(self, _CONTINUE, ended=False)

    def close(self) -> None:
        """The answer is complete: forget the stream; stop a body that is still coming (RFC 9113
        §8.1).
        """
        if self.remote_ended:
            self.connection.forget(self)
        else:
            self.connection.reset(self.id, ErrorCode.NO_ERROR)
        self.part()
        self.connection.stream_ended()

    def break_off(self, code: ErrorCode) -> None:
        """Reset the stream and forget it, with all that waits to be sent."""
        self.connection.reset(self.id, code)
        self.connection.trailers_waiting.pop(self, None)
        self.part()
        self.connection.stream_ended()

    def part(self) -> None:
        """Let go of the exchange: the two would keep each other, and what they hold, until the
        next full collection.
        """
        del self.exchange


_CONTINUE: Final = hpack.encode_field(b":status", b"100")


class Http2Server(Http2Transport[ServerStream]):
    """One client connection."""

    is_server = True

    def __init__(self, plane: DataPlane, peer: str) -> None:
        limit = plane.settings.limits.max_streams_per_connection
        settings = {
            Setting.HEADER_TABLE_SIZE: 0,
            Setting.MAX_CONCURRENT_STREAMS: limit,
            Setting.MAX_HEADER_LIST_SIZE: hpack.MAX_HEADER_LIST_BYTES,
        }
        super().__init__(plane, settings)
        self.peer = peer
        self.opened_at = plane.now()
        self.trailers_waiting: dict[ServerStream, FieldSection] = {}
        self._heads = HeadReader(self.decoder, plane.credentials)
        self._stream_limit = limit
        self._ends_at = self.opened_at + plane.connection_age_limit()
        self._idle_since = self.opened_at
        self._draining = False
        self._drained_at = 0.0
        self._final_goaway = False
        self._block_awaited: list[bytes] | None = None
        self._block_awaited_since = 0.0
        plane.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what is open (asyncio)."""
        self.lost()
        self.plane.connections.discard(self)
        self.trailers_waiting.clear()
        while self.streams:
            _, stream = self.streams.popitem()
            self.forget(stream)
            stream.exchange.caller_gone()
            stream.part()

    # Requests

    def headers_received(
        self, stream_id: int, stream: ServerStream | None, block: bytes, ended: bool
    ) -> None:
        """Begin a request, or end one with its trailers."""
        try:
            if stream is not None:
                self._trailers(stream, block, ended=ended)
                return
            if stream_id <= self.highest_peer_stream or not stream_id & 1:
                self._late_headers(stream_id, block, ended=ended)
                return
            self.highest_peer_stream = stream_id
            try:
                head = self._heads.read(block)
            except MalformedHeadError:
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR) from None
            except hpack.HeaderListTooLargeError:
                self._refuse_large_head(stream_id, ended=ended)
                return
        except hpack.HeaderBlockError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        if len(self.streams) >= self._stream_limit or self._final_goaway:
            self.reset(stream_id, ErrorCode.REFUSED_STREAM)
            return
        stream = ServerStream(stream_id, self)
        stream.remote_ended = ended
        self.streams[stream_id] = stream
        exchange = stream.exchange = Exchange(self.plane, stream, head)
        if ended and head.content_length > 0:
            exchange.started_malformed()
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)
        if ended and not exchange.is_grpc:
            head.content_length = 0  # HTTP/1.1 has to say that no body comes
        exchange.start()
        if ended and not exchange.is_over:
            exchange.body(b"", True)

    def _trailers(self, stream: ServerStream, block: bytes, *, ended: bool) -> None:
        """Read a request's trailers; they end its body and are not passed on (RFC 9110 §6.5.1
        allows to discard them).
        """
        try:
            self._heads.read_trailers(block)
        except (MalformedHeadError, hpack.HeaderListTooLargeError):
            raise StreamFault(stream.id, ErrorCode.PROTOCOL_ERROR) from None
        if stream.remote_ended:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "HEADERS on a half-closed stream")
        if not ended:
            raise StreamFault(stream.id, ErrorCode.PROTOCOL_ERROR)
        stream.remote_ended = True
        self.data_received(stream, b"", True)

    def _late_headers(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        """Handle HEADERS of a stream that is closed: expected only as trailers of one we reset."""
        if not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client's stream with an even id")
        is_valid = ended
        try:
            self._heads.read_trailers(block)
        except (MalformedHeadError, hpack.HeaderListTooLargeError):
            is_valid = False
        if not self.was_reset(stream_id):
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream")
        if not is_valid:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)

    def _refuse_large_head(self, stream_id: int, *, ended: bool) -> None:
        """Answer 431 without a body: there is no head that an exchange could begin with."""
        outcome = HEAD_TOO_LARGE
        self.plane.counters.unrouted("http").requests[str(outcome.http), outcome.result.value] += 1
        section = FieldSection(outcome.http, [(b"content-length", b"0")])
        self.send_headers(ServerStream(stream_id, self), section.encoded_h2(), ended=True)
        if not ended:
            self.reset(stream_id, ErrorCode.NO_ERROR)

    def data_received(self, stream: ServerStream, chunk: bytes, ended: bool) -> None:
        """Hand body bytes to the exchange; their number must be what was declared."""
        declared = stream.exchange.head.content_length
        if declared >= 0:
            stream.received += len(chunk)
            if stream.received > declared or (ended and stream.received != declared):
                stream.exchange.caller_gone()
                raise StreamFault(stream.id, ErrorCode.PROTOCOL_ERROR)
        stream.exchange.body(chunk, ended)

    def data_left(self, stream: ServerStream, length: int) -> None:
        """Queued answer bytes have gone."""
        self.plane.budget.release(length)
        stream.exchange.answer_left(length)
        if not stream.queue:
            trailers = self.trailers_waiting.pop(stream, None)
            if trailers is not None:
                stream.send_trailers(trailers)
            elif stream.local_ended:
                stream.close()

    def data_dropped(self, stream: ServerStream, length: int) -> None:
        """Queued answer bytes will not go."""
        self.plane.budget.release(length)

    def reset_received(self, stream: ServerStream, code: int) -> None:
        """The caller gave up."""
        self.trailers_waiting.pop(stream, None)
        stream.exchange.caller_gone()
        stream.part()
        self.stream_ended()

    def stream_fault(self, fault: StreamFault) -> None:
        """The caller broke the rules on one stream."""
        stream = self.streams.get(fault.stream_id)
        self.reset(fault.stream_id, fault.code)
        if stream is not None:
            self.trailers_waiting.pop(stream, None)
            stream.exchange.caller_gone()
            stream.part()
        self.stream_ended()

    def failed(self, code: ErrorCode, text: str) -> None:
        """The caller broke the protocol: GOAWAY has been sent."""
        self.close_transport()

    # Life

    def stream_ended(self) -> None:
        """A stream was forgotten: note idleness, finish a drain."""
        if not self.streams:
            self._idle_since = self.plane.tick
            if self._final_goaway:
                self.close_transport()

    def sweep(self, now: float) -> None:
        """Enforce header, idle, age and request limits."""
        self.calm()
        limits = self.plane.settings.limits
        for stream in list(self.streams.values()):
            exchange = stream.exchange
            exchange.sweep(now)
            idle = now - exchange.progress_at
            if stream.queue and exchange.is_over and idle > limits.stall_timeout_s:
                stream.break_off(ErrorCode.CANCEL)  # a caller who takes no answer
        if self._is_head_late(now, limits.header_timeout_s):
            self.fail(ErrorCode.PROTOCOL_ERROR, "no complete header block in time")
        elif (
            not self.streams
            and now - max(self.last_received, self._idle_since) > limits.idle_timeout_s
        ) or now > self._ends_at:
            self.start_drain()
        if self._draining and not self._final_goaway and now - self._drained_at > _DRAIN_PING_S:
            self._finish_drain()

    def _is_head_late(self, now: float, timeout_s: float) -> bool:
        """Whether SETTINGS, a header block, or the rest of a frame should have come by now.

        A block has to be complete in time; of a frame the next bytes must come: how long ago it
        began is not noted, and it is no longer than 16 kB.
        """
        if not self.settings_seen:
            return now - self.opened_at > timeout_s
        if self._block is not self._block_awaited:
            self._block_awaited = self._block
            self._block_awaited_since = min(now, self.last_received)
        if self._block is not None:
            return now - self._block_awaited_since > timeout_s
        return bool(self._pending) and now - self.last_received > timeout_s

    def start_drain(self) -> None:
        """Announce the end (RFC 9113 §6.8): first without a limit, then, when the client has
        seen it, with the last stream that we process.

        The PING goes first, in the same write: the `h2` library, and so httpx, takes anything
        behind a GOAWAY for a fault.
        """
        if self._draining:
            return
        self._draining = True
        self._drained_at = self.plane.tick
        self.ping(_DRAIN_PING)
        self.goaway(_LAST_STREAM, ErrorCode.NO_ERROR)

    def ping_answered(self, payload: bytes) -> None:
        """The client has seen the first GOAWAY."""
        if payload == _DRAIN_PING and self._draining and not self._final_goaway:
            self._finish_drain()

    def _finish_drain(self) -> None:
        self._final_goaway = True
        self.goaway(self.highest_peer_stream, ErrorCode.NO_ERROR)
        self.stream_ended()
