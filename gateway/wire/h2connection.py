"""HTTP/2 framing and flow control of one connection, in either role (RFC 9113). No I/O, no policy.

`receive` takes bytes as they arrive and calls the hooks that a subclass overrides; what is to be
sent gathers in `out`. Header blocks go through as bytes: what their fields mean is not this
module's business.

Receiving: a stream's credit is given back only through `grant`, when its bytes have left this
process. The connection's credit is given back on receipt, so that one waiting stream does not stop
the others. Sending: `send_data` sends what the peer's windows and the transport (`writable`) allow
now and queues the rest; `pump` sends queued data when that changes, in turn over the streams, and
reports each part through `data_left`.

Faults: `ConnectionFault` ends the connection with GOAWAY, `StreamFault` resets one stream. Both are
raised inside and end in `receive`.
"""

from __future__ import annotations

from typing import Final

from gateway.wire import hpack, http2
from gateway.wire.h2sender import Sender, StreamT
from gateway.wire.http2 import ConnectionFault, ErrorCode, Setting, StreamFault

_PARTIAL_DATA: Final = 1_024
"""An incomplete DATA frame is passed on in parts from this size on, so that no connection holds
most of a frame.
"""
_CONTROL_FRAMES: Final = 5_000
"""SETTINGS, PING, RST_STREAM, PRIORITY and empty DATA frames that a peer may send between two
calls of `calm`.
"""
_STREAM_MASK: Final = 0x7FFF_FFFF


class Connection(Sender[StreamT]):
    """See the module. `is_server` decides which stream ids the peer may open."""

    def __init__(self, settings: dict[Setting, int]) -> None:
        super().__init__(settings)
        self.decoder = hpack.BlockDecoder()
        self.peer_max_streams = _STREAM_MASK
        self.settings_seen = False
        self._pending = b""
        self._at = 0
        self._partial: StreamT | None = None
        self._partial_left = 0
        self._partial_ends = False
        self._block: list[bytes] | None = None
        self._block_bytes = 0
        self._block_stream = 0
        self._block_ends = False
        self._control_frames = 0
        self._preface = http2.PREFACE if self.is_server else b""

    def receive(self, data: bytes) -> None:
        """Take what has arrived. Faults of the peer are answered here; nothing is raised for
        them.
        """
        if self.is_failed:
            return
        if self._pending:
            data = self._pending + data
            self._pending = b""
        self._at = 0
        try:
            if self._preface:
                self._read_preface(data)
            while True:
                try:
                    self._read_frames(data)
                    break
                except StreamFault as fault:
                    self.stream_fault(fault)
        except ConnectionFault as fault:
            self.fail(fault.code, str(fault))

    def _read_preface(self, data: bytes) -> None:
        expected = self._preface
        seen = data[: len(expected)]
        if not expected.startswith(seen):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is no HTTP/2 preface")
        self._preface = expected[len(seen) :]
        self._at = len(seen)

    def _read_frames(self, b: bytes) -> None:  # noqa: C901, PLR0912, PLR0915 - see below
        # The loop of the data path, whole: a call for each frame would cost 5 % of a request.
        streams = self.streams
        at = self._at
        size = len(b)
        if self._partial_left and at < size:
            at = self._continue_data(b, at)
        while size - at >= 9:
            length = b[at] << 16 | b[at + 1] << 8 | b[at + 2]
            start = at + 9
            end = start + length
            kind = b[at + 3]
            if end > size:
                if length > http2.MAX_FRAME:
                    raise ConnectionFault(
                        ErrorCode.FRAME_SIZE_ERROR, "a frame larger than SETTINGS_MAX_FRAME_SIZE"
                    )
                if (
                    kind == http2.DATA
                    and size - start >= _PARTIAL_DATA
                    and not b[at + 4] & http2.PADDED
                ):
                    at = self._begin_data(b, at, length)
                break
            self._at = end
            flags = b[at + 4]
            stream_id = int.from_bytes(b[at + 5 : start], "big") & _STREAM_MASK
            if self._block is not None or not self.settings_seen or length > http2.MAX_FRAME:
                self._check_order(kind, flags, stream_id, length)
            if kind == http2.DATA:
                stream = streams.get(stream_id)
                if stream is None or stream.remote_ended or flags & http2.PADDED or not length:
                    self._odd_data(stream_id, stream, flags, b[start:end])
                else:
                    window = self.receive_window = self.receive_window - length
                    stream.receive_window -= length
                    if window < 0 or stream.receive_window < 0:
                        self._flow_control_fault(stream_id)
                    credit = self._credit = self._credit + length
                    if credit >= self.window >> 1:
                        self._grant_connection()
                    if flags & http2.END_STREAM:
                        stream.remote_ended = True
                        self.data_received(stream, b[start:end], True)
                    else:
                        self.data_received(stream, b[start:end], False)
            elif kind == http2.HEADERS:
                if flags & (http2.PADDED | http2.PRIORITY_FLAG):
                    block = self._strip_headers(stream_id, flags, b[start:end])
                else:
                    block = b[start:end]
                if not stream_id:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
                if flags & http2.END_HEADERS:
                    self.headers_received(
                        stream_id, streams.get(stream_id), block, bool(flags & http2.END_STREAM)
                    )
                else:
                    self._block = [block]
                    self._block_bytes = length
                    self._block_stream = stream_id
                    self._block_ends = bool(flags & http2.END_STREAM)
            elif kind == http2.WINDOW_UPDATE:
                self._window_update(stream_id, b[start:end])
            else:
                self._other_frame(kind, flags, stream_id, b[start:end])
            if self.is_failed:
                return
            at = end
        self._pending = b[at:] if at < size else b""

    def _check_order(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        """Check what holds for every frame but matters seldom: size, the first SETTINGS, the
        order of CONTINUATION.
        """
        if length > http2.MAX_FRAME:
            raise ConnectionFault(
                ErrorCode.FRAME_SIZE_ERROR, "a frame larger than SETTINGS_MAX_FRAME_SIZE"
            )
        if self._block is not None and (
            kind != http2.CONTINUATION or stream_id != self._block_stream
        ):
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, "a header block was interrupted by another frame"
            )
        if not self.settings_seen:
            if kind != http2.SETTINGS or flags & http2.ACK:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self.settings_seen = True

    def _flow_control_fault(self, stream_id: int) -> None:
        if self.receive_window < 0:
            raise ConnectionFault(
                ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window"
            )
        raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR)

    def _count_data(self, stream: StreamT | None, stream_id: int, length: int) -> None:
        """Take received bytes off the windows; the connection's credit goes back at once."""
        self.receive_window -= length
        if stream is not None:
            stream.receive_window -= length
        if self.receive_window < 0 or (stream is not None and stream.receive_window < 0):
            self._flow_control_fault(stream_id)
        self._credit += length
        if self._credit >= self.window >> 1:
            self._grant_connection()

    def _odd_data(self, stream_id: int, stream: StreamT | None, flags: int, payload: bytes) -> None:
        """Handle DATA that is padded, empty, or for a stream that takes none."""
        self._count_data(stream, stream_id, len(payload))
        padding = 0
        if flags & http2.PADDED:
            if not payload or payload[0] >= len(payload):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding as long as its frame")
            padding = 1 + payload[0]
            payload = payload[1 : len(payload) - payload[0]]
        if stream is None or stream.remote_ended:
            self._stray(stream_id)
            return
        if not payload and not flags & http2.END_STREAM:
            self._count_control()
        if flags & http2.END_STREAM:
            stream.remote_ended = True
        elif padding:
            self.grant(stream, padding)
        self.data_received(stream, payload, stream.remote_ended)

    def _begin_data(self, b: bytes, at: int, length: int) -> int:
        """Pass on the first part of a DATA frame whose end has not come yet; return the position
        behind it.
        """
        flags = b[at + 4]
        stream_id = int.from_bytes(b[at + 5 : at + 9], "big") & _STREAM_MASK
        self._at = len(b)
        self._check_order(http2.DATA, flags, stream_id, length)
        stream = self.streams.get(stream_id)
        if stream is not None and stream.remote_ended:
            stream = None
        self._partial_left = length
        self._partial = stream
        self._partial_ends = bool(flags & http2.END_STREAM)
        at = self._continue_data(b, at + 9)
        if stream is None:
            self._stray(stream_id)
        return at

    def _continue_data(self, b: bytes, at: int) -> int:
        """Pass on the next part of a DATA frame that came in parts; return the position behind
        it.
        """
        part = b[at : at + self._partial_left]
        end = at + len(part)
        self._at = end
        self._partial_left -= len(part)
        stream = self._partial
        if stream is not None and self.streams.get(stream.id) is not stream:
            stream = self._partial = None
        self._count_data(stream, stream.id if stream else 0, len(part))
        if stream is not None:
            ended = self._partial_ends and not self._partial_left
            if ended:
                stream.remote_ended = True
            self.data_received(stream, part, ended)
        if not self._partial_left:
            self._partial = None
        return end

    def _stray(self, stream_id: int) -> None:
        """Answer a frame for a stream that is idle (a fault) or closed (late frames of a stream
        that we reset are expected).
        """
        if self._is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame on an idle stream")
        if stream_id not in self._resets:
            self._resets.append(stream_id)
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED)

    def _is_idle(self, stream_id: int) -> bool:
        if not stream_id:
            return True
        if bool(stream_id & 1) == self.is_server:
            return stream_id > self.highest_peer_stream
        return stream_id >= self.next_own_stream()

    def _strip_headers(self, stream_id: int, flags: int, payload: bytes) -> bytes:
        """Take padding and priority off a HEADERS payload."""
        padding = 0
        start = 0
        if flags & http2.PADDED:
            if not payload:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its padding length"
                )
            padding = payload[0]
            start = 1
        if flags & http2.PRIORITY_FLAG:
            if len(payload) < start + 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its priority")
            if int.from_bytes(payload[start : start + 4], "big") & _STREAM_MASK == stream_id:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
            start += 5
        if padding > len(payload) - start:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
        return payload[start : len(payload) - padding]

    def _other_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == http2.CONTINUATION:
            self._continuation(flags, payload)
        elif kind == http2.SETTINGS:
            self._settings(flags, stream_id, payload)
        elif kind == http2.PING:
            self._ping(flags, stream_id, payload)
        elif kind == http2.RST_STREAM:
            self._rst_stream(stream_id, payload)
        elif kind == http2.GOAWAY:
            self._goaway(stream_id, payload)
        elif kind == http2.PRIORITY:
            self._priority(stream_id, payload)
        elif kind == http2.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE is not accepted")
        else:
            self._count_control()

    def _goaway(self, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY that is too short")
        last_stream = int.from_bytes(payload[:4], "big") & _STREAM_MASK
        self.goaway_received(last_stream, int.from_bytes(payload[4:8], "big"))

    def _priority(self, stream_id: int, payload: bytes) -> None:
        """Check a PRIORITY frame; priorities are not followed (RFC 9113 §5.3 deprecates them)."""
        self._count_control()
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise StreamFault(stream_id, ErrorCode.FRAME_SIZE_ERROR)
        if int.from_bytes(payload[:4], "big") & _STREAM_MASK == stream_id:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)

    def _continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._block.append(payload)
        self._block_bytes += len(payload)
        if self._block_bytes > http2.MAX_HEADER_BLOCK or not payload:
            self._count_control()
        if self._block_bytes > http2.MAX_HEADER_BLOCK:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block that is too large")
        if flags & http2.END_HEADERS:
            block = b"".join(self._block)
            self._block = None
            self.headers_received(
                self._block_stream, self.streams.get(self._block_stream), block, self._block_ends
            )

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._count_control()
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & http2.ACK:
            if payload:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload"
                )
            self.decoder.acknowledge()
            return
        if len(payload) % 6:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong length")
        for at in range(0, len(payload), 6):
            self._setting(
                int.from_bytes(payload[at : at + 2], "big"),
                int.from_bytes(payload[at + 2 : at + 6], "big"),
            )
        self._send(http2.frame(http2.SETTINGS, http2.ACK, http2.NO_STREAM, b""))
        self.pump()
        self.settings_changed()

    def _setting(self, key: int, value: int) -> None:
        if key == Setting.INITIAL_WINDOW_SIZE:
            if value > http2.MAX_WINDOW:
                raise ConnectionFault(
                    ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE above 2^31 - 1"
                )
            for stream in self.streams.values():
                stream.send_window += value - self.peer_window
                if stream.send_window > http2.MAX_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window above 2^31 - 1")
            self.peer_window = value
        elif key == Setting.MAX_FRAME_SIZE:
            if not http2.MAX_FRAME <= value < 1 << 24:
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE out of range"
                )
        elif key == Setting.MAX_CONCURRENT_STREAMS:
            self.peer_max_streams = value
        elif key == Setting.ENABLE_PUSH and (value > 1 or (value and not self.is_server)):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH out of range")

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING of a wrong length")
        if flags & http2.ACK:
            self.ping_answered(payload)
        else:
            self._count_control()
            self._send(http2.frame(http2.PING, http2.ACK, http2.NO_STREAM, payload))

    def _rst_stream(self, stream_id: int, payload: bytes) -> None:
        if self.is_server:
            # A backend resets what we have sent: no more of them than requests.
            self._count_control()
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of a wrong length")
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.forget(stream)
            self.reset_received(stream, int.from_bytes(payload, "big"))
        elif self._is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        elif stream_id in self._resets:
            # The peer has ended it too: no late frames are to be expected any more.
            self._resets.remove(stream_id)

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong length")
        increment = int.from_bytes(payload, "big") & _STREAM_MASK
        if not stream_id:
            self.send_window += increment
            if not increment:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            if self.send_window > http2.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window above 2^31 - 1")
        else:
            stream = self.streams.get(stream_id)
            if stream is None and self._is_idle(stream_id):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            if not increment:
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)
            if stream is None:
                return
            stream.send_window += increment
            if stream.send_window > http2.MAX_WINDOW:
                raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        if self._blocked:
            self.pump()

    def _count_control(self) -> None:
        self._control_frames += 1
        if self._control_frames > _CONTROL_FRAMES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many control frames")

    def calm(self) -> None:
        """Let the peer send control frames again; called once a second."""
        self._control_frames = 0
