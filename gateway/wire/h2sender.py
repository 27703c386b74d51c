"""What one HTTP/2 connection sends, and the flow control of both directions (RFC 9113 §5.2, §6.9).

`send_data` sends what the peer's windows and the transport (`writable`) allow now and queues the
rest; `pump` sends queued data when that changes, in turn over the streams, and reports each part
through `data_left`. A stream's receive credit is given back only through `grant`, when its bytes
have left this process. What is to be written gathers in `out`.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

from gateway.wire import http2
from gateway.wire.http2 import ErrorCode, Setting, Stream, StreamFault

StreamT = TypeVar("StreamT", bound=Stream)

_FLUSH_BYTES: Final = 128 * 1024
"""Output is handed to the transport at once when it reaches this, not at the end of the turn."""
_MERGED_BYTES: Final = 2 * 1024
"""Queued chunks are merged up to this."""
_RESETS_REMEMBERED: Final = 1_000
_MAX_STREAM_WINDOW: Final = 1024 * 1024
_MAX_INITIAL_WINDOW: Final = 256 * 1024
"""A stream that is refused from its head may bring no more than this."""
_MAX_CONNECTION_WINDOW: Final = 4 * 1024 * 1024


class Sender(Generic[StreamT]):
    """The sending half of a connection, and the hooks through which a role hears of everything."""

    is_server = True

    def __init__(self, settings: dict[Setting, int]) -> None:
        self.streams: dict[int, StreamT] = {}
        self.out: list[bytes] = []
        self.out_bytes = 0
        self.writable = True
        self.is_failed = False
        self.peer_window = http2.DEFAULT_WINDOW
        self.send_window = http2.DEFAULT_WINDOW
        self.window = http2.DEFAULT_WINDOW
        self.receive_window = http2.DEFAULT_WINDOW
        self.highest_peer_stream = 0
        self.stream_window = settings.get(Setting.INITIAL_WINDOW_SIZE, http2.DEFAULT_WINDOW)
        self._credit = 0
        self._blocked: dict[StreamT, None] = {}
        self._resets: deque[int] = deque(maxlen=_RESETS_REMEMBERED)
        self.out.append((b"" if self.is_server else http2.PREFACE) + http2.settings_frame(settings))

    def _send(self, part: bytes) -> None:
        if not self.out:
            self.output_pending()
        self.out.append(part)

    def send_headers(self, stream: StreamT, block: bytes, *, ended: bool) -> None:
        """Send a header block; `ended`: nothing follows on this stream. Data queued before it
        must have left.
        """
        if ended:
            stream.local_ended = True
        out = self.out
        if not out:
            self.output_pending()
        flags = http2.END_HEADERS | ended
        if len(block) <= http2.MAX_FRAME:
            out.append(
                len(block).to_bytes(3, "big")
                + bytes((http2.HEADERS, flags))
                + stream.id_bytes
                + block
            )
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
                self.output_pending()
            if ended:
                stream.local_ended = True
                out.append(length.to_bytes(3, "big") + b"\0\x01" + stream.id_bytes)
            else:
                out.append(length.to_bytes(3, "big") + b"\0\0" + stream.id_bytes)
            out.append(chunk)
            self.out_bytes += length
            if self.out_bytes >= _FLUSH_BYTES:
                self.flush()
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
        self._blocked[stream] = None
        return length - self._pump_stream(stream)

    def _pump_stream(self, stream: StreamT) -> int:
        """Send what may be sent of one stream's queue; return the number of bytes."""
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
            self._send(
                room.to_bytes(3, "big") + (b"\0\x01" if ended else b"\0\0") + stream.id_bytes
            )
            self.out.append(chunk)
            self.out_bytes += room
            if ended:
                stream.local_ended = True
            if self.out_bytes >= _FLUSH_BYTES:
                self.flush()
        stream.queued -= sent
        if not queue:
            self._blocked.pop(stream, None)
        return sent

    def pump(self) -> None:
        """Send queued data that windows and transport allow now, in turn over the streams."""
        for stream in list(self._blocked):
            if not self.writable or (self.send_window <= 0 and stream.queued):
                return
            if stream in self._blocked:
                del self._blocked[stream]
                self._blocked[stream] = None
                sent = self._pump_stream(stream)
                if sent or not stream.queue:
                    self.data_left(stream, sent)

    def grant(self, stream: StreamT, length: int, *, may_grow: bool = False) -> None:
        """Give back a stream's credit: `length` bytes of it have left. `may_grow`: the next hop
        keeps up, the window may double.
        """
        credit = stream.credit = stream.credit + length
        if credit < stream.window >> 1 or stream.remote_ended:
            return
        if may_grow and stream.window < _MAX_STREAM_WINDOW:
            credit += stream.window
            stream.window <<= 1
            if self.stream_window < stream.window <= _MAX_INITIAL_WINDOW:
                self._announce_window(stream.window)
            if self.window < stream.window << 1 <= _MAX_CONNECTION_WINDOW:
                self._credit += (stream.window << 1) - self.window
                self.window = stream.window << 1
        stream.receive_window += credit
        stream.credit = 0
        self._send(http2.frame(http2.WINDOW_UPDATE, 0, stream.id_bytes, credit.to_bytes(4, "big")))

    def _announce_window(self, window: int) -> None:
        """Let further streams begin with a window that has proved useful (RFC 9113 §6.9.2).

        It counts for all open streams, too.
        """
        more = window - self.stream_window
        self.stream_window = window
        for stream in self.streams.values():
            stream.receive_window += more
        self._send(http2.settings_frame({Setting.INITIAL_WINDOW_SIZE: window}))

    def _grant_connection(self) -> None:
        self._send(
            http2.frame(http2.WINDOW_UPDATE, 0, http2.NO_STREAM, self._credit.to_bytes(4, "big"))
        )
        self.receive_window += self._credit
        self._credit = 0

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Send RST_STREAM. Late frames of the peer for that stream are ignored from now on."""
        self._resets.append(stream_id)
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.forget(stream)
        self._send(
            http2.frame(http2.RST_STREAM, 0, stream_id.to_bytes(4, "big"), code.to_bytes(4, "big"))
        )

    def was_reset(self, stream_id: int) -> bool:
        """Whether we reset this stream not long ago."""
        return stream_id in self._resets

    def forget(self, stream: StreamT) -> int:
        """Drop a stream and its queue; return the bytes that were queued."""
        self.streams.pop(stream.id, None)
        self._blocked.pop(stream, None)
        queued, stream.queued, stream.queue = stream.queued, 0, None
        if queued:
            self.data_dropped(stream, queued)
        return queued

    def ping(self, payload: bytes) -> None:
        """Send a PING of 8 bytes; `ping_answered` gets them back."""
        self._send(http2.frame(http2.PING, 0, http2.NO_STREAM, payload))

    def goaway(self, last_stream: int, code: ErrorCode, text: str = "") -> None:
        """Send GOAWAY."""
        payload = last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + text.encode()
        self._send(http2.frame(http2.GOAWAY, 0, http2.NO_STREAM, payload))

    def fail(self, code: ErrorCode, text: str) -> None:
        """End the connection because of the peer's fault: GOAWAY, then `failed`."""
        if not self.is_failed:
            self.is_failed = True
            self.goaway(self.highest_peer_stream, code, text)
            self.failed(code, text)

    def take_output(self) -> list[bytes]:
        """Return what is to be written, in order, and begin anew."""
        out, self.out = self.out, []
        self.out_bytes = 0
        return out

    # Hooks: what a role does with it

    def next_own_stream(self) -> int:
        """The id of the next stream that this side opens: larger ones are idle."""
        return http2.MAX_STREAM_ID

    def headers_received(
        self, stream_id: int, stream: StreamT | None, block: bytes, ended: bool
    ) -> None:
        """A complete header block. The role must decode it, whatever it then does: it may change
        the decoder's state.
        """

    def data_received(self, stream: StreamT, chunk: bytes, ended: bool) -> None:
        """Body bytes for an open stream. The role gives their credit back with `grant`."""

    def data_left(self, stream: StreamT, length: int) -> None:
        """Queued bytes have been sent."""

    def data_dropped(self, stream: StreamT, length: int) -> None:
        """Queued bytes will never be sent."""

    def reset_received(self, stream: StreamT, code: int) -> None:
        """The peer reset a stream, which is forgotten already."""

    def stream_fault(self, fault: StreamFault) -> None:
        """The peer broke the rules on one stream: it must be `reset`."""
        self.reset(fault.stream_id, fault.code)

    def goaway_received(self, last_stream: int, code: int) -> None:
        """The peer takes no new streams; those above `last_stream` were not processed."""

    def settings_changed(self) -> None:
        """The peer's SETTINGS were applied."""

    def ping_answered(self, payload: bytes) -> None:
        """Our PING came back."""

    def output_pending(self) -> None:
        """`out` is about to get its first part: arrange for `flush`."""

    def flush(self) -> None:
        """Hand `take_output()` to the transport now, and set `writable` to whether it can take
        more.
        """

    def failed(self, code: ErrorCode, text: str) -> None:
        """The connection is over; `out` holds GOAWAY."""
