"""gRPC load as grpc-go sends it: real flow control, every response checked.

The client keeps its header table at 0, so the peer's blocks are self-contained and can be judged by
their bytes.
"""

from __future__ import annotations

import functools
import gzip
import time
import zlib
from collections import deque
from dataclasses import dataclass

from hpack import Decoder, HPACKError

from bench import heads, keys, wire
from bench.heads import HeaderBlocks, Heads, HeadWriter, RecordedHeads
from bench.link import Link
from bench.load_loop import Client, LoadLoop, Plan, Tally
from bench.report import RunFailedError

EXPECTED_REPLY = b"\0\0\0\0\0"
"""An ExportTraceServiceResponse without partial success, uncompressed."""

_EXPECTED_MESSAGES = frozenset({b"", b"\n\0"})
"""The Collector writes an empty `partial_success` at times."""

_LONGEST_REPLY = 64

UNAUTHENTICATED = "16"
_REFUSED_STATUS = frozenset({"401", "403"})
_CREDIT_THRESHOLD = 16384  # grpc-go gives a window's quarter back
_NO_ERROR = bytes(4)
_PREFIX = 5  # of a message: whether it is compressed, and its length


@functools.lru_cache(maxsize=10_000)
def _decode(block: bytes) -> dict[str, str]:
    """Return the fields of a response's block.

    Raises:
        RunFailedError: the block is not self-contained, or malformed.
    """
    try:
        return {str(name): str(value) for name, value in Decoder().decode(block)}
    except HPACKError as error:
        message = f"unreadable header block {block.hex()}: {error}"
        raise RunFailedError(message) from error


@dataclass(slots=True)
class _Stream:
    """One request under way."""

    number: int
    window: int
    due_s: float
    unsent_at: int = 0
    head: dict[str, str] | None = None
    reply: bytes = b""


def _is_expected(stream: _Stream) -> bool:
    """Return whether the reply is one message, compressed or not, that rejects nothing."""
    reply = stream.reply
    if len(reply) < _PREFIX or len(reply) - _PREFIX != int.from_bytes(reply[1:_PREFIX], "big"):
        return False
    message = reply[_PREFIX:]
    if reply[0]:
        if (stream.head or {}).get("grpc-encoding") != "gzip":
            return False
        try:
            message = gzip.decompress(message)
        except (OSError, EOFError, zlib.error):
            return False
    return message in _EXPECTED_MESSAGES


class GrpcClient:
    """One HTTP/2 connection with a fixed number of streams in flight."""

    def __init__(self, plan: Plan, message: bytes, writer: HeadWriter, tally: Tally) -> None:
        self.link = Link(plan.port, "h2" if plan.is_tls else None)
        self.is_spent = False
        self._plan = plan
        self._tally = tally
        self._is_ready = False
        self._max_streams = plan.streams
        self._message = message
        self._writer = writer
        self._ping_open = False
        self._next_stream = 1
        self._streams: dict[int, _Stream] = {}
        self._sending: deque[tuple[int, _Stream]] = deque()
        self._window = wire.DEFAULT_WINDOW
        self._initial_window = wire.DEFAULT_WINDOW
        self._uncredited = 0
        self._rest = b""
        self._out: list[bytes] = [
            wire.PREFACE,
            wire.settings({wire.SETTING_HEADER_TABLE_SIZE: 0}),
        ]

    @property
    def room(self) -> int:
        """How many more requests may be begun now."""
        if not self._is_ready or self.is_spent:
            return 0
        if self._plan.reconnects:
            return 1 if self._next_stream == 1 else 0
        return self._max_streams - len(self._streams)

    def begin(self, number: int, due_s: float) -> None:
        """Open a stream; its duration runs from `due_s`."""
        stream_id = self._next_stream
        self._next_stream += 2
        block = self._writer.block(number)
        self._out.append(wire.frame(wire.HEADERS, wire.FLAG_END_HEADERS, stream_id, block))
        stream = _Stream(number, self._initial_window, due_s)
        self._streams[stream_id] = stream
        self._sending.append((stream_id, stream))
        self._send_bodies()

    def flush(self) -> None:
        """Send what has gathered, as far as the kernel takes it."""
        try:
            self.link.write(b"".join(self._out))
        except OSError:
            if not self._plan.is_refused:
                raise
            self.link.drop_unsent()  # what the proxy says to it is read next
        self._out.clear()

    def _send_bodies(self) -> None:
        """Send DATA within the windows, a frame of each stream in turn like grpc-go's loopy."""
        message = self._message
        blocked = 0
        while self._sending and self._window and blocked < len(self._sending):
            stream_id, stream = self._sending.popleft()
            if stream_id not in self._streams:
                continue  # refused
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

    def receive(self) -> None:
        """Handle what has arrived; see `Client.receive`."""
        data = self.link.read()
        if data is None:
            return
        if not data:
            self._gone("the proxy closed a connection")
            return
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

    def _gone(self, reason: str) -> None:
        """Let another connection follow where refusals may end one and none is awaited."""
        if not self._plan.is_refused or self._streams:
            raise RunFailedError(reason)
        self.is_spent = True

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:  # noqa: C901 - a table
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
        elif kind == wire.RST_STREAM:
            if not (self._plan.is_refused and stream_id not in self._streams):
                message = f"RST_STREAM on stream {stream_id}: {payload!r}"
                raise RunFailedError(message)
        elif kind == wire.GOAWAY:
            self._gone(f"GOAWAY on stream {stream_id}: {payload!r}")

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
            self._writer.told()
        self._out.append(wire.frame(wire.SETTINGS, wire.FLAG_ACK, 0))
        self._is_ready = True

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
        fields = _decode(block)
        stream = self._stream(stream_id)
        if self._plan.is_refused:
            stream.head = {**(stream.head or {}), **fields}
            if flags & wire.FLAG_END_STREAM:
                self._refused(stream_id, stream)
            return
        if not flags & wire.FLAG_END_STREAM:
            if fields.get(":status") != "200" or stream.head is not None:
                message = f"request {stream.number}: unexpected head {fields}"
                raise RunFailedError(message)
            stream.head = fields
            return
        if fields.get("grpc-status") != "0" or not _is_expected(stream):
            message = f"request {stream.number}: reply {stream.reply!r}, trailers {fields}"
            raise RunFailedError(message)
        if stream.unsent_at != len(self._message):
            message = f"request {stream.number}: answered OK before its body was sent"
            raise RunFailedError(message)
        self._finish(stream_id, stream)

    def _refused(self, stream_id: int, stream: _Stream) -> None:
        """Check a refusal: the protocol's own, or HTTP's where a proxy knows no gRPC."""
        head = stream.head or {}
        by_grpc = head.get("grpc-status") == UNAUTHENTICATED
        if not by_grpc and head.get(":status") not in _REFUSED_STATUS:
            message = f"request {stream.number}: not refused, but answered {head}"
            raise RunFailedError(message)
        if stream.unsent_at != len(self._message):  # as grpc-go gives up a body that nobody wants
            self._out.append(wire.frame(wire.RST_STREAM, 0, stream_id, _NO_ERROR))
        self._finish(stream_id, stream)

    def _finish(self, stream_id: int, stream: _Stream) -> None:
        del self._streams[stream_id]
        self._tally.durations_s.append(time.perf_counter() - stream.due_s)
        self.is_spent = self.is_spent or self._plan.reconnects

    def _reply(self, flags: int, stream_id: int, payload: bytes) -> None:
        stream = self._stream(stream_id)
        self._uncredited += len(payload)
        if self._uncredited >= _CREDIT_THRESHOLD:
            self._out.append(wire.window_update(0, self._uncredited))
            self._uncredited = 0
        if self._plan.is_refused:
            if flags & wire.FLAG_END_STREAM:
                self._refused(stream_id, stream)
            return
        stream.reply += payload
        if flags or stream.head is None or len(stream.reply) > _LONGEST_REPLY:
            message = f"request {stream.number}: unexpected DATA {payload[:64]!r}, flags {flags}"
            raise RunFailedError(message)
        if self._plan.bdp_pings and not self._ping_open:
            self._ping_open = True
            self._out.append(wire.frame(wire.PING, 0, 0, b"\2\4\x10\x10\x09\x0e\7\7"))


def encoder(plan: Plan) -> Heads:
    """Return whose header blocks a run sends.

    Raises:
        RunFailedError: there is no recording of this encoder.
    """
    authority = f"127.0.0.1:{plan.port}"
    if plan.encoder is None or plan.encoder == heads.NEVER_SIGNALS:
        return HeaderBlocks(
            authority,
            plan.body.encoding,
            plan.key_count,
            first_key=keys.UNKNOWN if plan.is_refused else 0,
            authorizations=plan.authorizations,
            is_plain=plan.encoder is not None,
        )
    try:
        return RecordedHeads(plan.encoder)
    except FileNotFoundError as error:
        message = f"no encoder {plan.encoder!r}: choose one of {', '.join(heads.recorded())}"
        raise RunFailedError(message) from error


def run(plan: Plan) -> tuple[float, list[float]]:
    """Send what a plan says; see `LoadLoop.run`."""
    chosen = encoder(plan)
    message = plan.body.grpc

    def connect(tally: Tally) -> Client:
        return GrpcClient(plan, message, chosen.writer(), tally)

    return LoadLoop(plan, connect).run()
