"""gRPC load as grpc-go sends it: raw sockets, epoll, real flow control, every response checked.

Each connection keeps a number of streams open until all requests are answered. Requests carry the
bench's keys in turn and a `grpc-timeout` that differs each time, because no two requests of a real
exporter have equal header blocks. The client keeps its header table at 0, so the peer's blocks are
self-contained and can be judged by their bytes.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from hpack import Decoder, HPACKError

from bench import keys, wire
from bench.bodies import Body
from bench.report import RunFailedError

PATH = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
EXPECTED_REPLY = b"\0\0\0\0\0"
"""An ExportTraceServiceResponse without partial success, uncompressed."""

_USER_AGENT = "OpenTelemetry Collector Contrib/0.165.0 (linux/amd64) grpc-go/1.79.0"
_TIMEOUTS = 5000
_CREDIT_THRESHOLD = 16384  # grpc-go gives a window's quarter back
_READ_BYTES = 1 << 18
_STALL_S = 30.0
_MAX_MEMO = 10_000


def request_fields(authority: str, encoding: str | None) -> list[tuple[str, str]]:
    """Return the fields of a request in grpc-go's order, up to grpc-timeout and metadata."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", PATH),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("user-agent", _USER_AGENT),
        ("te", "trailers"),
    ]
    if encoding is not None:
        fields.append(("grpc-encoding", encoding))
    fields.append(("grpc-accept-encoding", "gzip,snappy,zstd"))
    return fields


class HeaderBlocks:
    """Makes each request's header block, and judges the peer's."""

    def __init__(self, authority: str, encoding: str | None, authorizations: Sequence[str]) -> None:
        self._base = wire.fields(request_fields(authority, encoding))
        self._authorizations = [wire.field("authorization", each) for each in authorizations]
        # What is left of a Collector's 5 s differs from request to request.
        self._timeouts = [
            wire.field("grpc-timeout", f"{4_900_000 + number * 13}u") for number in range(_TIMEOUTS)
        ]
        self._decoded: dict[bytes, dict[str, str]] = {}

    def request(self, number: int) -> bytes:
        """Return the block of request `number`."""
        return (
            self._base
            + self._timeouts[number % _TIMEOUTS]
            + self._authorizations[number % len(self._authorizations)]
        )

    def decode(self, block: bytes) -> dict[str, str]:
        """Return the fields of a response's block.

        Raises:
            RunFailedError: the block is not self-contained, or malformed.
        """
        decoded = self._decoded.get(block)
        if decoded is None:
            try:
                decoded = {str(name): str(value) for name, value in Decoder().decode(block)}
            except HPACKError as error:
                message = f"unreadable header block {block.hex()}: {error}"
                raise RunFailedError(message) from error
            if len(self._decoded) < _MAX_MEMO:
                self._decoded[block] = decoded
        return decoded


@dataclass(slots=True)
class _Stream:
    """One request under way."""

    number: int
    window: int
    started_s: float
    unsent_at: int = 0
    head_seen: bool = False
    reply: bytes = b""


@dataclass(slots=True)
class Progress:
    """What all connections share: the work left, and what came of it."""

    requests: int
    started: int = 0
    is_open: bool = False
    durations_s: list[float] = field(default_factory=list)


class _Connection:
    """One HTTP/2 connection with a fixed number of streams in flight."""

    def __init__(
        self,
        port: int,
        streams: int,
        message: bytes,
        blocks: HeaderBlocks,
        progress: Progress,
        *,
        bdp_pings: bool,
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)  # noqa: FBT003 -- the standard library's signature
        self.is_ready = False
        self._max_streams = streams
        self._message = message
        self._blocks = blocks
        self._progress = progress
        self._bdp_pings = bdp_pings
        self._ping_open = False
        self._next_stream = 1
        self._streams: dict[int, _Stream] = {}
        self._sending: deque[tuple[int, _Stream]] = deque()
        self._window = wire.DEFAULT_WINDOW
        self._initial_window = wire.DEFAULT_WINDOW
        self._block_prefix = b""
        self._uncredited = 0
        self._rest = b""
        self._out: list[bytes] = [
            wire.PREFACE,
            wire.settings({wire.SETTING_HEADER_TABLE_SIZE: 0}),
        ]
        self._unsent = b""

    @property
    def wants_write(self) -> bool:
        """Whether the kernel has not taken all that is to be sent."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Send what has gathered, as far as the kernel takes it."""
        data = self._unsent + b"".join(self._out)
        self._out.clear()
        if data:
            try:
                sent = self.socket.send(data)
            except BlockingIOError:
                sent = 0
            self._unsent = data[sent:]

    def start_requests(self) -> None:
        """Open streams until the connection has its number or all requests are out."""
        progress = self._progress
        while len(self._streams) < self._max_streams and progress.started < progress.requests:
            number, stream_id = progress.started, self._next_stream
            progress.started += 1
            self._next_stream += 2
            block = self._block_prefix + self._blocks.request(number)
            self._block_prefix = b""
            self._out.append(wire.frame(wire.HEADERS, wire.FLAG_END_HEADERS, stream_id, block))
            stream = _Stream(number, self._initial_window, time.perf_counter())
            self._streams[stream_id] = stream
            self._sending.append((stream_id, stream))
        self._send_bodies()

    def _send_bodies(self) -> None:
        """Send DATA within the windows, a frame of each stream in turn like grpc-go's loopy."""
        message = self._message
        blocked = 0
        while self._sending and self._window and blocked < len(self._sending):
            stream_id, stream = self._sending.popleft()
            at = stream.unsent_at
            size = min(wire.MAX_FRAME_BYTES, len(message) - at, self._window, stream.window)
            if not size:
                blocked += 1
                self._sending.append((stream_id, stream))
                continue
            blocked = 0
            self._window -= size
            stream.window -= size
            stream.unsent_at = at + size
            ends = stream.unsent_at == len(message)
            flags = wire.FLAG_END_STREAM if ends else 0
            self._out.append(wire.frame(wire.DATA, flags, stream_id, message[at : at + size]))
            if not ends:
                self._sending.append((stream_id, stream))

    def read(self) -> None:
        """Handle what has arrived.

        Raises:
            RunFailedError: the peer refused, reset, closed or answered something unexpected.
        """
        data = self.socket.recv(_READ_BYTES)
        if not data:
            message = "the proxy closed a connection"
            raise RunFailedError(message)
        received = self._rest + data if self._rest else data
        at, end = 0, len(received)
        while end - at >= wire.FRAME_HEADER_BYTES:
            length = int.from_bytes(received[at : at + 3], "big")
            payload_at = at + wire.FRAME_HEADER_BYTES
            if end - payload_at < length:
                break
            self._frame(
                received[at + 3],
                received[at + 4],
                int.from_bytes(received[at + 5 : payload_at], "big"),
                received[payload_at : payload_at + length],
            )
            at = payload_at + length
        self._rest = received[at:]

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == wire.HEADERS:
            self._head_or_trailers(flags, stream_id, payload)
        elif kind == wire.DATA:
            self._reply(flags, stream_id, payload)
        elif kind == wire.WINDOW_UPDATE:
            self._credit(stream_id, int.from_bytes(payload, "big"))
        elif kind == wire.SETTINGS:
            if not flags & wire.FLAG_ACK:
                self._settings(wire.parse_settings(payload))
        elif kind == wire.PING:
            if flags & wire.FLAG_ACK:
                self._ping_open = False
            else:
                self._out.append(wire.frame(wire.PING, wire.FLAG_ACK, 0, payload))
        elif kind in {wire.RST_STREAM, wire.GOAWAY}:
            name = "RST_STREAM" if kind == wire.RST_STREAM else "GOAWAY"
            message = f"{name} on stream {stream_id}: {payload!r}"
            raise RunFailedError(message)

    def _credit(self, stream_id: int, credit: int) -> None:
        if not stream_id:
            self._window += credit
        elif stream_id in self._streams:
            self._streams[stream_id].window += credit
        self._send_bodies()

    def _settings(self, values: dict[int, int]) -> None:
        window = values.get(wire.SETTING_INITIAL_WINDOW_SIZE, self._initial_window)
        for stream in self._streams.values():
            stream.window += window - self._initial_window
        self._initial_window = window
        limit = values.get(wire.SETTING_MAX_CONCURRENT_STREAMS, self._max_streams)
        self._max_streams = min(self._max_streams, limit)
        if values.get(wire.SETTING_HEADER_TABLE_SIZE) == 0:
            self._block_prefix = wire.TABLE_SIZE_UPDATE_TO_ZERO
        self._out.append(wire.frame(wire.SETTINGS, wire.FLAG_ACK, 0))
        self.is_ready = True

    def _stream(self, stream_id: int) -> _Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            message = f"an answer on stream {stream_id}, which is not open"
            raise RunFailedError(message)
        return stream

    def _head_or_trailers(self, flags: int, stream_id: int, block: bytes) -> None:
        if not flags & wire.FLAG_END_HEADERS or flags & ~0x5:
            message = f"HEADERS with flags {flags:#x}, which the bench does not read"
            raise RunFailedError(message)
        fields = self._blocks.decode(block)
        stream = self._stream(stream_id)
        if not flags & wire.FLAG_END_STREAM:
            if fields.get(":status") != "200" or stream.head_seen:
                message = f"request {stream.number}: unexpected head {fields}"
                raise RunFailedError(message)
            stream.head_seen = True
            return
        if fields.get("grpc-status") != "0" or stream.reply != EXPECTED_REPLY:
            message = f"request {stream.number}: reply {stream.reply!r}, trailers {fields}"
            raise RunFailedError(message)
        if stream.unsent_at != len(self._message):
            message = f"request {stream.number}: answered OK before its body was sent"
            raise RunFailedError(message)
        del self._streams[stream_id]
        self._progress.durations_s.append(time.perf_counter() - stream.started_s)

    def _reply(self, flags: int, stream_id: int, payload: bytes) -> None:
        stream = self._stream(stream_id)
        stream.reply += payload
        if flags or not stream.head_seen or len(stream.reply) > len(EXPECTED_REPLY):
            message = f"request {stream.number}: unexpected DATA {payload[:64]!r}, flags {flags}"
            raise RunFailedError(message)
        self._uncredited += len(payload)
        if self._uncredited >= _CREDIT_THRESHOLD:
            self._out.append(wire.window_update(0, self._uncredited))
            self._uncredited = 0
        if self._bdp_pings and not self._ping_open:
            self._ping_open = True
            self._out.append(wire.frame(wire.PING, 0, 0, b"\2\4\x10\x10\x09\x0e\7\7"))


@dataclass(frozen=True, slots=True)
class GrpcLoad:
    """A run of gRPC requests against one port.

    Attributes:
        port: where the proxy listens on 127.0.0.1.
        body: what each request carries.
        requests: how many are sent in all.
        connections: how many connections are held.
        streams: how many requests each connection has in flight, if the peer allows so many.
        key_count: how many keys are used in turn.
        authorizations: used in turn instead of keys.
        bdp_pings: send a PING when a reply arrives and none is open, as grpc-go does to measure
            the path.
    """

    port: int
    body: Body
    requests: int
    connections: int
    streams: int
    key_count: int = keys.COUNT
    bdp_pings: bool = False
    authorizations: Sequence[str] = ()

    def run(self) -> tuple[float, list[float]]:
        """Send all requests; return the seconds they took and each one's duration in seconds.

        Raises:
            RunFailedError: any response was not the expected one, or nothing moved for 30 s.
            OSError: the proxy does not take connections.
        """
        values = self.authorizations or keys.authorizations(self.key_count)
        blocks = HeaderBlocks(f"127.0.0.1:{self.port}", self.body.encoding, values)
        progress = Progress(self.requests)
        by_descriptor: dict[int, _Connection] = {}
        poll = select.epoll()
        try:
            for _ in range(self.connections):
                connection = _Connection(
                    self.port,
                    self.streams,
                    self.body.grpc,
                    blocks,
                    progress,
                    bdp_pings=self.bdp_pings,
                )
                by_descriptor[connection.socket.fileno()] = connection
                poll.register(connection.socket, select.EPOLLIN)
                connection.flush()
            while not all(each.is_ready for each in by_descriptor.values()):
                self._turn(poll, by_descriptor, progress)
            progress.is_open = True
            start_s = time.perf_counter()
            for descriptor, connection in by_descriptor.items():
                connection.start_requests()
                self._flush(poll, descriptor, connection)
            while len(progress.durations_s) < self.requests:
                self._turn(poll, by_descriptor, progress)
            return time.perf_counter() - start_s, progress.durations_s
        finally:
            poll.close()
            for connection in by_descriptor.values():
                connection.socket.close()

    def _turn(
        self, poll: select.epoll, by_descriptor: dict[int, _Connection], progress: Progress
    ) -> None:
        """Wait for the sockets and handle what each has to say."""
        events = poll.poll(_STALL_S)
        if not events:
            done = len(progress.durations_s)
            message = f"nothing moved for {_STALL_S:.0f} s, {done} of {self.requests} answered"
            raise RunFailedError(message)
        for descriptor, event in events:
            connection = by_descriptor[descriptor]
            if event & ~select.EPOLLOUT:
                connection.read()
            if progress.is_open:
                connection.start_requests()
            self._flush(poll, descriptor, connection)

    @staticmethod
    def _flush(poll: select.epoll, descriptor: int, connection: _Connection) -> None:
        had_unsent = connection.wants_write
        connection.flush()
        if connection.wants_write != had_unsent:
            mask = select.EPOLLOUT if connection.wants_write else 0
            poll.modify(descriptor, select.EPOLLIN | mask)
