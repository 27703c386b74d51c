"""What one HTTP/2 connection sends, within the windows of the peer (RFC 9113 §5.2, §6.9).

`send_data` sends what the peer's windows and the transport (`writable`) allow now and queues the
rest; `pump` sends queued data when that changes, in turn over the streams, and reports each part.
It looks only at streams whose own window is open: the others wait for a WINDOW_UPDATE of theirs.
What is to be written gathers in `out`; the `Outlet` writes it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, Generic, Protocol, TypeVar

from gateway.wire import http2
from gateway.wire.http2 import ErrorCode, Http2ConnectionError, Setting, Stream
from gateway.wire.http2_closed import CLOSED, CLOSED_OUTLET
from gateway.wire.http2_role import Role

StreamT = TypeVar("StreamT", bound=Stream)

_FLUSH_BYTES: Final = 128 * 1024
"""Output is handed to the transport at once when it reaches this, not at the end of the turn."""
_MERGED_BYTES: Final = 2 * 1024
"""Queued chunks are merged up to this."""
_RESETS_REMEMBERED: Final = 1_000
_UNENDED_REMEMBERED: Final = 100


class Outlet(Protocol):
    """What writes the output to a transport."""

    def output_pending(self) -> None:
        """`out` is about to get its first part: arrange for `flush`."""

    def flush(self) -> None:
        """Write `out` now, leave it empty, and set `writable` to whether more can be taken."""


class Http2Sender(Generic[StreamT]):
    """See the module. `streams` are the open ones, which both halves of a connection share."""

    __slots__ = (
        "_outlet",
        "_owner",
        "_unended_before",
        "out",
        "out_bytes",
        "peer_window",
        "ready",
        "resets",
        "send_window",
        "streams",
        "unended",
        "writable",
    )

    def __init__(
        self,
        settings: dict[Setting, int],
        outlet: Outlet,
        owner: Role[StreamT],
        *,
        is_server: bool,
    ) -> None:
        self.streams: dict[int, StreamT] = {}
        self.out: list[bytes] = [
            (b"" if is_server else http2.PREFACE) + http2.settings_frame(settings)
        ]
        self.out_bytes = 0
        """Body bytes in `out`."""
        self.writable = True
        """Whether the transport takes more."""
        self.peer_window = http2.DEFAULT_WINDOW
        """The window that the peer gives to a new stream."""
        self.send_window = http2.DEFAULT_WINDOW
        self.resets: dict[int, int] = {}
        """Streams that this side reset not long ago: late frames for them are to be expected.
        With how many bytes of the declared body were still to come; -1: nobody knows.
        """
        self.unended: dict[int, int] = {}
        """Streams that were answered, and whose request has not ended. The bytes as in `resets`."""
        self._unended_before: tuple[int, ...] = ()
        self._outlet: Outlet = outlet
        self._owner: Role[StreamT] = owner
        self.ready: OrderedDict[StreamT, None] = OrderedDict()
        """Streams with queued data whose own window is open, in the order of their turns."""

    def send(self, part: bytes) -> None:
        """Send a frame that is no data."""
        if not self.out:
            self._outlet.output_pending()
        self.out.append(part)

    def send_headers(self, stream: StreamT, block: bytes, *, ended: bool) -> None:
        """Send a header block; `ended`: nothing follows on this stream. Data queued before it
        must have left.
        """
        if ended:
            stream.local_ended = True
        out = self.out
        if not out:
            self._outlet.output_pending()
        length = len(block)
        if length <= http2.MAX_FRAME:
            flags = http2.END_HEADERS | http2.END_STREAM if ended else http2.END_HEADERS
            out.append(http2.frame_head(length, http2.HEADERS, flags) + stream.id_bytes + block)
            return
        parts = [block[at : at + http2.MAX_FRAME] for at in range(0, len(block), http2.MAX_FRAME)]
        out.append(http2.frame(http2.HEADERS, int(ended), stream.id_bytes, parts[0]))
        out.extend(
            http2.frame(http2.CONTINUATION, 0, stream.id_bytes, part) for part in parts[1:-1]
        )
        out.append(http2.frame(http2.CONTINUATION, http2.END_HEADERS, stream.id_bytes, parts[-1]))

    def send_data(self, stream: StreamT, chunk: bytes, ended: bool) -> int:
        """Send body bytes; `ended`: these are the last. Return how many of them had to be queued
        (0: all have left).
        """
        length = len(chunk)
        if (
            length <= stream.send_window
            and length <= self.send_window
            and self.writable
            and not stream.queue
            and length <= http2.MAX_FRAME
        ):
            self.send_window -= length
            stream.send_window -= length
            out = self.out
            if not out:
                self._outlet.output_pending()
            if ended:
                stream.local_ended = True
                out.append(http2.frame_head(length, http2.DATA, http2.END_STREAM) + stream.id_bytes)
            else:
                out.append(http2.frame_head(length, http2.DATA, 0) + stream.id_bytes)
            out.append(chunk)
            self.out_bytes += length
            if self.out_bytes >= _FLUSH_BYTES:
                self._outlet.flush()
            return 0
        if stream.queue:
            last = stream.queue[-1]
            if len(last) + length <= _MERGED_BYTES:
                # Tiny frames would cost many times their length in objects.
                stream.queue[-1] = last + chunk
            else:
                stream.queue.append(chunk)
            stream.queued += length
            stream.queue_ended = ended
            return length
        stream.queue = deque((chunk,))
        stream.queued = length
        stream.queue_ended = ended
        return length - self._pump_stream(stream)

    def _pump_stream(self, stream: StreamT) -> int:
        """Send what may be sent of one stream's queue, and note what the rest waits for; return
        the number of bytes.
        """
        queue = stream.queue
        sent = 0
        while queue and self.writable:
            chunk = queue[0]
            room = min(len(chunk), self.send_window, stream.send_window, http2.MAX_FRAME)
            if room <= 0:
                if chunk:
                    break
                room = 0  # an end without data needs no window, not even one above 0
            if room == len(chunk):
                queue.popleft()
            else:
                queue[0] = chunk[room:]
                chunk = chunk[:room]
            ended = not queue and stream.queue_ended
            self.send_window -= room
            stream.send_window -= room
            sent += room
            flags = http2.END_STREAM if ended else 0
            self.send(http2.frame_head(room, http2.DATA, flags) + stream.id_bytes)
            self.out.append(chunk)
            self.out_bytes += room
            if ended:
                stream.local_ended = True
            if self.out_bytes >= _FLUSH_BYTES:
                self._outlet.flush()
        stream.queued -= sent
        if not queue or (stream.queued and stream.send_window <= 0):
            self.ready.pop(stream, None)
        else:
            self.ready[stream] = None
            if not stream.queued:  # only an end, which needs no window: nothing may hold it up
                self.ready.move_to_end(stream, last=False)
        return sent

    def close(self) -> None:
        """The connection is closed: send nothing more, let go of the outlet, and of the owner as
        soon as no stream is left.
        """
        self.writable = False
        self._outlet = CLOSED_OUTLET
        if not self.streams:
            self._owner = CLOSED

    def stream_window_opened(self, stream: StreamT) -> None:
        """A stream's window has grown: `pump` looks at it again."""
        if stream.queue and stream.send_window > 0:
            self.ready[stream] = None

    def initial_window_changed(self, window: int) -> None:
        """The peer has changed the window of new streams; it counts for open ones, too (RFC 9113
        §6.9.2). Raises `Http2ConnectionError`.
        """
        more = window - self.peer_window
        self.peer_window = window
        for stream in self.streams.values():
            stream.send_window += more
            if stream.send_window > http2.MAX_WINDOW:
                raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window above 2^31 - 1")
            self.stream_window_opened(stream)

    def pump(self) -> None:
        """Send queued data that windows and transport allow now, in turn over the streams."""
        ready = self.ready
        while ready and self.writable:
            stream = next(iter(ready))
            if self.send_window <= 0 and stream.queued:
                return
            del ready[stream]
            sent = self._pump_stream(stream)
            if sent or not stream.queue:
                self._owner.data_left(stream, sent)

    def reset(self, stream_id: int, code: ErrorCode, body_left: int = -1) -> None:
        """Send RST_STREAM. Late frames of the peer for that stream are ignored from now on.

        `body_left`: how many bytes of the declared body are still to come; -1: nobody knows.
        """
        resets = self.resets
        resets[stream_id] = body_left
        if len(resets) > _RESETS_REMEMBERED:
            del resets[next(iter(resets))]
        self.unended.pop(stream_id, None)
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.forget(stream)
        self.send(
            http2.frame(http2.RST_STREAM, 0, stream_id.to_bytes(4, "big"), code.to_bytes(4, "big"))
        )

    def forget(self, stream: StreamT) -> None:
        """Drop a stream and its queue."""
        streams = self.streams
        if stream.id in streams:
            del streams[stream.id]
        if stream.queue is not None:
            self.ready.pop(stream, None)
            queued, stream.queued, stream.queue = stream.queued, 0, None
            if queued:
                self._owner.data_dropped(stream, queued)

    def leave_unended(self, stream: StreamT, body_left: int) -> None:
        """Forget a stream that was answered, and whose request is about to end by itself: it is
        reset only if a body comes after all, or no end within two calls of `reset_unended`.
        """
        self.forget(stream)
        self.unended[stream.id] = body_left
        if len(self.unended) > _UNENDED_REMEMBERED:
            self.reset(next(iter(self.unended)), ErrorCode.NO_ERROR)

    def reset_unended(self) -> None:
        """Reset the streams that `leave_unended` has left before the last call."""
        for stream_id in self._unended_before:
            if stream_id in self.unended:
                self.reset(stream_id, ErrorCode.NO_ERROR)
        self._unended_before = tuple(self.unended)

    def ping(self, payload: bytes) -> None:
        """Send a PING of 8 bytes; `ping_answered` gets them back."""
        self.send(http2.frame(http2.PING, 0, http2.NO_STREAM, payload))

    def goaway(self, last_stream: int, code: ErrorCode, text: str = "") -> None:
        """Send GOAWAY."""
        payload = last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + text.encode()
        self.send(http2.frame(http2.GOAWAY, 0, http2.NO_STREAM, payload))
