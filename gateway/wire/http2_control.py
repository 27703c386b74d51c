"""HTTP/2 frames that carry neither a header block nor data (RFC 9113 §6.3 to §6.9).

They are counted: a peer that sends more of them than it has a reason for is ended (`http2_budget`).
"""

from __future__ import annotations

import struct
from typing import Final, Generic

from gateway.wire import hpack, http2
from gateway.wire.http2 import ErrorCode, Http2ConnectionError, Http2StreamError, Setting
from gateway.wire.http2_budget import FrameBudget
from gateway.wire.http2_closed import CLOSED
from gateway.wire.http2_role import Role
from gateway.wire.http2_sender import Http2Sender, StreamT

_STREAMS_PER_COST: Final = 16
"""A change of the initial window costs one more for so many open streams: it counts for each."""
_SETTING_BYTES: Final = 6
_SETTINGS_PER_COST: Final = 10
_STREAM_MASK: Final = 0x7FFF_FFFF


class ControlFrames(Generic[StreamT]):
    """Handles the control frames of one connection."""

    __slots__ = (
        "_decoder",
        "_is_server",
        "_role",
        "_sender",
        "budget",
        "highest_peer_stream",
        "peer_max_streams",
    )

    def __init__(
        self,
        role: Role[StreamT],
        sender: Http2Sender[StreamT],
        decoder: hpack.BlockDecoder,
        *,
        is_server: bool,
    ) -> None:
        self.peer_max_streams = _STREAM_MASK
        """How many streams the peer lets this side have open."""
        self.highest_peer_stream = 0
        """The last stream that the peer has opened."""
        self.budget = FrameBudget(sender, is_server=is_server)
        self._role = role
        self._sender = sender
        self._decoder = decoder
        self._is_server = is_server

    def handle(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Handle one frame. Raises `Http2ConnectionError`, `Http2StreamError`."""
        if kind == http2.WINDOW_UPDATE:
            self._window_update(stream_id, payload)
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
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE is not accepted")
        else:
            self.budget.spend("unknown")

    def calm(self) -> None:
        """Let the peer send some more control frames; called once a second."""
        self.budget.refill()

    def close(self) -> None:
        """Let go of the role: the connection is closed."""
        self._role = CLOSED

    def is_idle(self, stream_id: int) -> bool:
        """Return whether a stream was never opened."""
        if not stream_id:
            return True
        if bool(stream_id & 1) == self._is_server:
            return stream_id > self.highest_peer_stream
        return stream_id >= self._role.next_own_stream()

    def _goaway(self, stream_id: int, payload: bytes) -> None:
        self.budget.spend("goaway")
        if stream_id:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY that is too short")
        last_stream = int.from_bytes(payload[:4], "big") & _STREAM_MASK
        self._role.goaway_received(last_stream, int.from_bytes(payload[4:8], "big"))

    def _priority(self, stream_id: int, payload: bytes) -> None:
        """Check a PRIORITY frame; priorities are not followed (RFC 9113 §5.3 deprecates them)."""
        self.budget.spend("priority")
        if not stream_id:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise Http2StreamError(stream_id, ErrorCode.FRAME_SIZE_ERROR)
        if int.from_bytes(payload[:4], "big") & _STREAM_MASK == stream_id:
            raise Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR)

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        self.budget.spend("settings", 1 + len(payload) // (_SETTING_BYTES * _SETTINGS_PER_COST))
        if stream_id:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & http2.ACK:
            if payload:
                raise Http2ConnectionError(
                    ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload"
                )
            self._decoder.acknowledge()
            return
        if len(payload) % _SETTING_BYTES:
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong length")
        settings: dict[int, int] = {}
        for key, value in struct.iter_unpack(">HI", payload):
            self._check_setting(key, value)
            settings[key] = value  # of one that comes more than once the last counts
        self._apply(settings)
        self._sender.send(http2.frame(http2.SETTINGS, http2.ACK, http2.NO_STREAM, b""))
        self._role.settings_changed()

    def _check_setting(self, key: int, value: int) -> None:
        if key == Setting.INITIAL_WINDOW_SIZE:
            if value > http2.MAX_WINDOW:
                raise Http2ConnectionError(
                    ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE above 2^31 - 1"
                )
        elif key == Setting.MAX_FRAME_SIZE:
            if not http2.MAX_FRAME <= value < 1 << 24:
                raise Http2ConnectionError(
                    ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE out of range"
                )
        elif key == Setting.ENABLE_PUSH and (value > 1 or (value and not self._is_server)):
            raise Http2ConnectionError(
                ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH out of range"
            )

    def _apply(self, settings: dict[int, int]) -> None:
        sender = self._sender
        window = settings.get(Setting.INITIAL_WINDOW_SIZE, sender.peer_window)
        if window != sender.peer_window:
            self.budget.spend("settings", len(sender.streams) // _STREAMS_PER_COST)
            sender.initial_window_changed(window)
        self.peer_max_streams = settings.get(Setting.MAX_CONCURRENT_STREAMS, self.peer_max_streams)

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "PING of a wrong length")
        if flags & http2.ACK:
            self.budget.spend("ping_ack")
            self._role.ping_answered(payload)
        else:
            self.budget.spend("ping")
            self._sender.send(http2.frame(http2.PING, http2.ACK, http2.NO_STREAM, payload))

    def _rst_stream(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of a wrong length")
        sender = self._sender
        stream = sender.streams.get(stream_id)
        if stream is not None:
            # The role counts it: only that knows whether the stream was opened for this.
            sender.forget(stream)
            self._role.reset_received(stream, int.from_bytes(payload, "big"))
            return
        if self.is_idle(stream_id):
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        # The peer has ended it too: no late frames are to be expected any more.
        sender.resets.pop(stream_id, None)
        sender.unended.pop(stream_id, None)
        self.budget.spend("rst_stream")

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        """Open a window. What that lets go leaves with the next `pump`: one for all frames of a
        read.
        """
        if self._is_server:  # a backend may answer each DATA frame of any size with two
            self.budget.spend("window_update")
        if len(payload) != 4:
            raise Http2ConnectionError(
                ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong length"
            )
        increment = int.from_bytes(payload, "big") & _STREAM_MASK
        if stream_id:
            self._open_stream_window(stream_id, increment)
            return
        sender = self._sender
        sender.send_window += increment
        self.budget.granted += increment
        if not increment:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        if sender.send_window > http2.MAX_WINDOW:
            raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window above 2^31 - 1")

    def _open_stream_window(self, stream_id: int, increment: int) -> None:
        sender = self._sender
        stream = sender.streams.get(stream_id)
        if stream is None and self.is_idle(stream_id):
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
        if not increment:
            raise Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR)
        if stream is not None:
            stream.send_window += increment
            if stream.send_window > http2.MAX_WINDOW:
                raise Http2StreamError(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
            sender.stream_window_opened(stream)
        elif stream_id in sender.unended and sender.peer_window + increment > http2.MAX_WINDOW:
            # More than any response could have used up of its window.
            raise Http2StreamError(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
