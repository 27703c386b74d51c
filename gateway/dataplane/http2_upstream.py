"""The backend's side over HTTP/2: many requests on one connection, stream ids of our own."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, ClassVar, Final

import structlog

from gateway.dataplane.h2_transport import Http2Transport
from gateway.dataplane.heads import ANSWER_HOP_BY_HOP, FieldSection, Pair
from gateway.dataplane.pool import ConnectError
from gateway.wire import hpack
from gateway.wire.http2 import ConnectionFault, ErrorCode, Setting, Stream, StreamFault

if TYPE_CHECKING:
    from gateway.dataplane.plane import DataPlane
    from gateway.dataplane.pool import Address, Pool
    from gateway.dataplane.relaying import Relaying
    from gateway.settings import Backend

_log = structlog.get_logger(__name__)

_SECTIONS_KEPT: Final = 1_000
_LONGEST_KEPT: Final = 256
_PING_AFTER_S: Final = 10.0
"""Silence while a stream waits after which the backend is asked whether it is still there; as
long again, and it is not.
"""
_PING: Final = b"alive?.."
_IDLE_S: Final = 60.0
_LAST_ID: Final = 2**31 - 1_001

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+\Z")
_FORBIDDEN: Final = re.compile(rb"[\0\r\n]")
"""What makes a field's value malformed (RFC 9113 §8.2.1). Outer blanks would too, but gRPC servers
send messages that end with one.
"""

_sections: dict[bytes, FieldSection] = {}


class UpstreamStream(Stream):
    """One request at the backend: implements `sides.Upstream`."""

    __slots__ = ("connection", "exchange", "head_seen")

    def __init__(self, stream_id: int, connection: Http2Upstream, exchange: Relaying) -> None:
        Stream.__init__(self, stream_id, connection.peer_window, connection.stream_window)
        self.connection = connection
        self.exchange = exchange
        self.head_seen = False

    @property
    def address(self) -> str:
        """Where it goes, for traces and logs."""
        return self.connection.home.target.address

    def send_body(self, chunk: bytes, ended: bool) -> int:
        """Send request bytes, within the backend's window."""
        queued = self.connection.send_data(self, chunk, ended)
        if queued:
            self.connection.plane.budget.charge(queued)
        return queued

    def cancel(self) -> None:
        """Reset the stream, if it is still open."""
        connection = self.connection
        if connection.streams.get(self.id) is self:
            connection.reset(self.id, ErrorCode.CANCEL)
            connection.request_ended()

    def grant(self, length: int) -> None:
        """Let the backend send more."""
        if self.connection.streams.get(self.id) is self:
            self.connection.grant(self, length, may_grow=not self.connection.plane.budget.is_near)


class Http2Upstream(Http2Transport[UpstreamStream]):
    """One connection to a backend; `pool` gives it requests."""

    is_server = False
    alpn: ClassVar[tuple[str, ...]] = ("h2",)
    shares_streams: ClassVar[bool] = True
    bug_place = "upstream"

    def __init__(self, plane: DataPlane, backend: Backend, home: Address, pool: Pool) -> None:
        settings = {
            Setting.HEADER_TABLE_SIZE: 0,
            Setting.ENABLE_PUSH: 0,
            Setting.MAX_HEADER_LIST_SIZE: hpack.MAX_HEADER_LIST_BYTES,
        }
        super().__init__(plane, settings)
        self.home = home
        target = home.target
        self._pool = pool
        self._next_id = 1
        self._is_closing = False
        self._ready: asyncio.Future[None] = plane.loop.create_future()
        self._pinged_at = 0.0
        self._idle_since = plane.tick
        authority = backend.host or target.address
        self._pseudo = hpack.encode(
            [
                (b":method", b"POST"),
                (b":scheme", b"https" if target.tls else b"http"),
                (b":authority", authority.encode()),
            ]
        )
        self._prefix = target.prefix.encode()
        self._heads: dict[bytes, bytes] = {}

    # Readiness

    async def ready(self) -> None:
        """Wait for the backend's SETTINGS, so that its stream limit is known before the first
        request.
        """
        await self._ready

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (asyncio)."""
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None and ssl_object.selected_alpn_protocol() != "h2":
            self._ready.set_exception(
                ConnectError("the backend does not offer HTTP/2 (ALPN h2), which gRPC needs")
            )
            transport.abort()  # type: ignore[attr-defined]  # every stream transport has it
            return
        super().connection_made(transport)

    def settings_changed(self) -> None:
        """The backend's stream limit may be another now."""
        if not self._ready.done():
            self._ready.set_result(None)
        else:
            self._pool.capacity_changed(self)

    def next_own_stream(self) -> int:
        """See `Connection`."""
        return self._next_id

    # Requests

    @property
    def busy(self) -> int:
        """Open requests."""
        return len(self.streams)

    @property
    def capacity(self) -> int:
        """How many more requests it takes now."""
        if self._is_closing or self.is_failed:
            return 0
        return self.peer_max_streams - len(self.streams)

    def open(self, exchange: Relaying) -> UpstreamStream:
        """Send a request's head on a new stream."""
        stream = UpstreamStream(self._next_id, self, exchange)
        self._next_id += 2
        if self._next_id > _LAST_ID:
            self._is_closing = True
        self.streams[stream.id] = stream
        path = exchange.head.path
        head = self._heads.get(path)
        if head is None:
            # Routed paths are a closed set, so this stays small.
            head = self._pseudo + hpack.encode(
                [(b":path", self._prefix + path), (b"te", b"trailers")]
            )
            self._heads[path] = head
        self.send_headers(stream, head + exchange.forwarded_h2(), ended=False)
        return stream

    def headers_received(
        self, stream_id: int, stream: UpstreamStream | None, block: bytes, ended: bool
    ) -> None:
        """Take an answer's head or trailers."""
        section = self._section(block)
        if stream is None:
            if stream_id >= self._next_id or not stream_id & 1:
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, "HEADERS for a stream that was never opened"
                )
            return
        if section is None or (stream.head_seen and (section.status or not ended)):
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)
        if not stream.head_seen:
            if not section.status:
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)
            if section.status < 200:
                if ended:
                    raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)
                return
            stream.head_seen = True
            if ended:
                self._answered(stream)
            stream.exchange.answer_head(section, ended)
        else:
            self._answered(stream)
            stream.exchange.answer_trailers(section)

    def _answered(self, stream: UpstreamStream) -> None:
        """The backend's answer is complete; a body that is still going is stopped."""
        stream.remote_ended = True
        if stream.local_ended:
            self.forget(stream)
        else:
            self.reset(stream.id, ErrorCode.NO_ERROR)
        self.request_ended()

    def _section(self, block: bytes) -> FieldSection | None:
        """Decode an answer's head or trailers, None if it is malformed. Short ones repeat and
        are kept.
        """
        is_stateless = self.decoder.is_stateless
        if is_stateless:
            section = _sections.get(block)
            if section is not None:
                return section
        try:
            pairs = self.decoder.decode(block)
        except hpack.HeaderBlockError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        except hpack.HeaderListTooLargeError:
            return None
        section = _read_section(pairs)
        if (
            is_stateless
            and section is not None
            and len(block) <= _LONGEST_KEPT
            and hpack.split(block) is not None
        ):
            if len(_sections) >= _SECTIONS_KEPT:
                _sections.clear()
            _sections[block] = section
        return section

    def data_received(self, stream: UpstreamStream, chunk: bytes, ended: bool) -> None:
        """Take answer bytes."""
        if not stream.head_seen:
            raise StreamFault(stream.id, ErrorCode.PROTOCOL_ERROR)
        if ended:
            self._answered(stream)
        stream.exchange.answer_body(chunk, ended)

    def data_left(self, stream: UpstreamStream, length: int) -> None:
        """Queued request bytes have gone."""
        self.plane.budget.release(length)
        stream.exchange.body_left(length)

    def data_dropped(self, stream: UpstreamStream, length: int) -> None:
        """Queued request bytes will not go."""
        self.plane.budget.release(length)
        stream.exchange.body_dropped(length)

    def reset_received(self, stream: UpstreamStream, code: int) -> None:
        """The backend gave up on one request; REFUSED_STREAM: it has not looked at it (RFC 9113
        §8.7).
        """
        self.request_ended()
        stream.exchange.upstream_lost(code == ErrorCode.REFUSED_STREAM)

    def stream_fault(self, fault: StreamFault) -> None:
        """The backend broke the rules on one stream."""
        stream = self.streams.get(fault.stream_id)
        self.reset(fault.stream_id, fault.code)
        if stream is not None:
            self.request_ended()
            stream.exchange.upstream_lost(False)

    def goaway_received(self, last_stream: int, code: int) -> None:
        """The backend takes no new requests; those above `last_stream` are sent elsewhere."""
        self._is_closing = True
        self._pool.connection_lost(self)
        for stream in [stream for stream in self.streams.values() if stream.id > last_stream]:
            self.forget(stream)
            stream.exchange.upstream_lost(True)
        self.request_ended()

    def failed(self, code: ErrorCode, text: str) -> None:
        """The backend broke the protocol."""
        _log.warning(
            "the backend broke the HTTP/2 protocol",
            address=self.home.target.address,
            code=code.name,
            text=text,
        )
        if not self._ready.done():
            self._ready.set_exception(
                ConnectError(f"the backend does not speak HTTP/2, which gRPC needs: {text}")
            )
        self._pool.connection_lost(self)
        self.close_transport()
        self._lose_requests()

    def connection_lost(self, exc: Exception | None) -> None:
        """Every open request is lost (asyncio)."""
        self.lost()
        if not self._ready.done():
            self._ready.set_exception(
                ConnectError(
                    f"the connection was closed before HTTP/2 had begun: {exc or 'end of file'}"
                )
            )
        self._pool.connection_lost(self)
        self._lose_requests()

    def _lose_requests(self) -> None:
        for stream in list(self.streams.values()):
            self.forget(stream)
            stream.exchange.upstream_lost(False)

    # Life

    def request_ended(self) -> None:
        """A stream was forgotten."""
        if not self.streams:
            self._idle_since = self.plane.tick
            if self._is_closing:
                self.close_transport()
                return
        self._pool.capacity_changed(self)

    def ping_answered(self, payload: bytes) -> None:
        """The backend is still there."""
        self._pinged_at = 0.0

    def sweep(self, now: float) -> None:
        """Notice a backend that has vanished without a FIN: ask only while a stream waits."""
        self.calm()
        if not self.streams:
            self._pinged_at = 0.0
            if now - self._idle_since > _IDLE_S and self._pool.is_surplus(self):
                self.close()
        elif self._pinged_at:
            if now - self._pinged_at > _PING_AFTER_S and self.last_received < self._pinged_at:
                self.abort()
        elif now - self.last_received > _PING_AFTER_S:
            self._pinged_at = now
            self.ping(_PING)

    def close(self) -> None:
        """Close when nothing is open, else after the open requests."""
        self._is_closing = True
        self._pool.connection_lost(self)
        if not self.streams:
            self.goaway(0, ErrorCode.NO_ERROR)
            self.close_transport()


def _read_section(pairs: list[Pair]) -> FieldSection | None:
    status = 0
    fields: list[Pair] = []
    for name, value in pairs:
        if name == b":status":
            if status or fields or len(value) != 3 or not value.isdigit():
                return None
            status = int(value)
        elif not _NAME.match(name) or _FORBIDDEN.search(value):
            return None
        elif name not in ANSWER_HOP_BY_HOP:
            fields.append((name, value))
    section = FieldSection(status, fields)
    for name, value in fields:
        if name == b"grpc-status":
            section.grpc_status = int(value) if value.isdigit() and len(value) <= 4 else 2
        elif name == b"grpc-message":
            section.grpc_message = value
        elif name == b"content-length" and value.isdigit():
            section.content_length = int(value)
    return section
