"""DATA of one HTTP/2 connection that is no whole, plain frame of an open stream (RFC 9113 §6.1).

Frames that come in parts, padded and tiny ones, and those for streams that are closed. Whole plain
ones, the usual case, are `http2_receiver`'s own. Errors are raised, and end there.
"""

from __future__ import annotations

from typing import Final, Generic

from gateway.wire import http2
from gateway.wire.http2 import ErrorCode, Http2ConnectionError, Http2StreamError
from gateway.wire.http2_budget import TINY_BYTES
from gateway.wire.http2_closed import CLOSED
from gateway.wire.http2_control import ControlFrames
from gateway.wire.http2_role import Role
from gateway.wire.http2_sender import Http2Sender, StreamT
from gateway.wire.http2_windows import ReceiveWindows

_HEAD_BYTES: Final = 9
_RUN_BYTES: Final = 4 * 1024
"""A frame of a run has at least so many: what is less costs little to copy twice."""


class DataFrames(Generic[StreamT]):
    """See the module. `partial_left`: how much is to come of a frame whose parts are passed on."""

    __slots__ = (
        "_control",
        "_ends",
        "_partial",
        "_role",
        "_sender",
        "_windows",
        "partial_left",
        "run_end",
        "tiny",
    )

    def __init__(
        self,
        role: Role[StreamT],
        sender: Http2Sender[StreamT],
        windows: ReceiveWindows[StreamT],
        control: ControlFrames[StreamT],
        *,
        is_server: bool,
    ) -> None:
        self.tiny = TINY_BYTES if is_server else 1
        """Frames of fewer bytes are counted. Of a backend only empty ones: a usual response has 5
        bytes, then trailers.
        """
        self.partial_left = 0
        self.run_end = 0
        """Where the last frame of `next_of_run` ends."""
        self._partial: StreamT | None = None
        self._ends = False
        self._role = role
        self._sender = sender
        self._windows = windows
        self._control = control

    def close(self) -> None:
        """Let go of the role: the connection is closed."""
        self._role = CLOSED

    def begin(self, stream_id: int, flags: int, length: int, part: bytes) -> None:
        """Pass on the first part of a frame of `length` bytes whose end has not come yet."""
        stream = self._sender.streams.get(stream_id)
        if stream is not None and stream.remote_ended:
            stream = None
        self.partial_left = length
        self._partial = stream
        self._ends = bool(flags & http2.END_STREAM)
        self.go_on(part)
        if stream is None:
            self._late(stream_id, length, ended=self._ends)

    def go_on(self, part: bytes) -> None:
        """Pass on the next part, at most `partial_left` bytes."""
        self.partial_left -= len(part)
        stream = self._partial
        if stream is not None and self._sender.streams.get(stream.id) is not stream:
            stream = self._partial = None
        self._windows.count(stream, stream.id if stream else 0, len(part))
        if stream is not None:
            ended = self._ends and not self.partial_left
            if ended:
                stream.remote_ended = True
            self._role.data_received(stream, part, ended)
        if not self.partial_left:
            self._partial = None

    def odd(self, stream_id: int, stream: StreamT | None, flags: int, payload: bytes) -> None:
        """Take a whole frame that is padded, tiny, or for a stream that takes none."""
        self._windows.count(stream, stream_id, len(payload))
        padding = 0
        if flags & http2.PADDED:
            if not payload or payload[0] >= len(payload):
                raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "padding as long as its frame")
            padding = 1 + payload[0]
            payload = payload[1 : len(payload) - payload[0]]
        if stream is None or stream.remote_ended:
            self._late(stream_id, len(payload), ended=bool(flags & http2.END_STREAM))
            return
        if len(payload) < self.tiny and not flags & http2.END_STREAM:
            self._control.budget.spend("tiny_data" if payload else "empty_data")
        if flags & http2.END_STREAM:
            stream.remote_ended = True
        elif padding:
            self._windows.grant(stream, padding)
        self._role.data_received(stream, payload, stream.remote_ended)

    def next_of_run(self, view: memoryview, at: int) -> int:
        """Take the next part of an upload from what a large read has brought, and copy it once: the
        rest of a frame, or a whole one.

        Return the position behind it; the same position where something else comes next.
        """
        if self.partial_left:
            end = self.run_end = min(at + self.partial_left, len(view))
            self.go_on(view[at:end].tobytes())
            return end
        head = view[at : at + _HEAD_BYTES].tobytes()
        if len(head) < _HEAD_BYTES or head[3] != http2.DATA or head[4] & http2.PADDED:
            return at
        length = head[0] << 16 | head[1] << 8 | head[2]
        start = at + _HEAD_BYTES
        if not _RUN_BYTES <= length <= min(http2.MAX_FRAME, len(view) - start):
            return at
        stream_id = (head[5] & 0x7F) << 24 | head[6] << 16 | head[7] << 8 | head[8]
        stream = self._sender.streams.get(stream_id)
        if stream is None or stream.remote_ended:
            return at
        end = self.run_end = start + length
        self._windows.count(stream, stream_id, length)
        stream.remote_ended = bool(head[4] & http2.END_STREAM)
        self._role.data_received(stream, view[start:end].tobytes(), stream.remote_ended)
        return end

    def _late(self, stream_id: int, length: int, *, ended: bool) -> None:
        """Handle DATA for a stream that is idle (an error) or closed: late frames of a stream that
        we reset are expected, but no more than its head has declared.
        """
        sender = self._sender
        left = sender.unended.get(stream_id)
        is_unended = left is not None
        if left is None:
            if self._control.is_idle(stream_id):
                raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "a frame on an idle stream")
            self._control.budget.spend("closed_stream")
            left = sender.resets.get(stream_id)
            if left is None:
                raise Http2StreamError(stream_id, ErrorCode.STREAM_CLOSED)
        if left >= 0:
            left -= length
            if left < 0 or (ended and left):
                raise Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR)
        if not is_unended:
            sender.resets[stream_id] = left
        elif ended:
            del sender.unended[stream_id]
        else:
            sender.reset(stream_id, ErrorCode.NO_ERROR, left)
