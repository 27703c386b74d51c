"""What one HTTP/2 connection receives, in either role (RFC 9113). No I/O, no policy.

`receive` takes bytes as they arrive and calls the `Role`; header blocks go through as bytes: what
their fields mean is not this module's business. Frames other than DATA and HEADERS are
`http2_control`'s.

A stream's credit is returned only through `grant`, when its bytes have left this process. The
connection's credit is returned on receipt, so that one waiting stream does not stop the others.

Errors of the peer: `Http2ConnectionError` ends the connection with GOAWAY, `Http2StreamError`
resets one stream, or ends the connection if that stream was never opened. Both are raised inside
and end in `receive`.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final, Generic

from gateway.wire import hpack, http2
from gateway.wire.http2 import ErrorCode, Http2ConnectionError, Http2StreamError, Setting
from gateway.wire.http2_budget import RESET_COST
from gateway.wire.http2_closed import CLOSED
from gateway.wire.http2_control import ControlFrames
from gateway.wire.http2_data import DataFrames
from gateway.wire.http2_role import Role
from gateway.wire.http2_sender import Http2Sender, StreamT
from gateway.wire.http2_windows import ReceiveWindows

_PARTIAL_DATA: Final = 1_024
"""An incomplete DATA frame is passed on in parts from this size on, so that no connection holds
most of a frame.
"""
_STREAM_MASK: Final = 0x7FFF_FFFF
_DATA_KIND: Final = bytes((http2.DATA,))
FRAMES_FROM_CLIENT: Final = 64
"""Frames that one call of `receive` handles, so that no peer gets more than a few milliseconds of
the loop at a time.
"""
FRAMES_FROM_BACKEND: Final = 1_024
"""Of a backend it is more: the answers of all callers come on its connection."""
_USUAL_BYTES: Final = 512
"""A frame that is longer than this, and no DATA, counts as"""
_BYTES_PER_FRAME: Final = 64
"""one more for each so many bytes."""


class Http2Receiver(Generic[StreamT]):
    """See the module. `is_server` decides which stream ids the peer may open."""

    __slots__ = (
        "_at",
        "_block",
        "_block_ends",
        "_block_stream",
        "_frames_at_once",
        "_frames_left",
        "_pending",
        "_preface",
        "_role",
        "_sender",
        "_streams",
        "_unfinished",
        "abuse",
        "control",
        "data",
        "decoder",
        "has_more",
        "held",
        "is_failed",
        "settings_seen",
        "windows",
    )

    def __init__(
        self,
        settings: dict[Setting, int],
        role: Role[StreamT],
        sender: Http2Sender[StreamT],
        *,
        is_server: bool,
    ) -> None:
        self.decoder = hpack.BlockDecoder()
        self.windows = ReceiveWindows(settings, sender)
        self.control = ControlFrames(role, sender, self.decoder, is_server=is_server)
        self.data = DataFrames(role, sender, self.windows, self.control, is_server=is_server)
        self.is_failed = False
        """Whether the connection is over, because of an error of the peer or of the transport."""
        self.abuse = ""
        """The kind of frame of which the peer has sent too many (`http2_budget.KINDS`)."""
        self.settings_seen = False
        """Whether the peer's first SETTINGS have come."""
        self.has_more = False
        """Whether frames wait for the next call of `receive`: it handles a bounded number."""
        self.held = 0
        """Bytes of frames and header blocks that are not complete, or wait."""
        self._frames_at_once = FRAMES_FROM_CLIENT if is_server else FRAMES_FROM_BACKEND
        self._frames_left = 0
        self._role: Role[StreamT] = role
        self._sender = sender
        self._streams = sender.streams
        self._pending = b""
        self._at = 0
        self._block: bytearray | None = None
        self._block_stream = 0
        self._block_ends = False
        self._unfinished = 0
        self._preface = http2.PREFACE if is_server else b""

    @property
    def unfinished(self) -> int:
        """The number of the frame, or of the header block, whose end has not come; 0: there is
        none.
        """
        is_cut = self._pending and not self.has_more
        return self._unfinished if is_cut or self._block is not None else 0

    @property
    def is_within_data(self) -> bool:
        """Whether that is a DATA frame."""
        return self._pending[3:4] == _DATA_KIND

    def close(self) -> None:
        """Take nothing more, and let go of the role: the connection is closed."""
        self.is_failed = True
        self._role = CLOSED
        self.control.close()
        self.data.close()

    def fail(self, code: ErrorCode, text: str) -> None:
        """End the connection because of an error of the peer: GOAWAY, then `Role.failed`."""
        if not self.is_failed:
            self.is_failed = True
            self.has_more = False
            self.held = 0
            self._pending = b""
            self._block = None
            self._sender.goaway(self.control.highest_peer_stream, code, text)
            self._role.failed(code, text)

    def receive(self, data: bytes, frames: int | None = None) -> None:
        """Take what has arrived, or go on when `has_more`. Errors of the peer are answered here;
        nothing is raised for them.

        `frames`: how many to handle, where it is another number than usual.
        """
        if self.is_failed:
            return
        if self._pending:
            data = self._pending + data
            self.has_more = False
        self._at = 0
        self._frames_left = self._frames_at_once if frames is None else frames
        try:
            if self._preface:
                self._read_preface(data)
            while True:
                try:
                    self._read_frames(data)
                    break
                except Http2StreamError as error:
                    self._stream_error(error)
                    # How many were handled is not known here: half of them is a bound, too.
                    self._frames_left >>= 1
        except Http2ConnectionError as failure:
            self.abuse = failure.abuse
            self.fail(failure.code, str(failure))
            return
        if self._sender.ready and not self.is_failed:
            self._sender.pump()

    def receive_large(self, view: memoryview, frames: int | None = None) -> None:
        """As `receive`, of a large read, whose buffer is used again afterwards. What it has of an
        upload under way is copied once, straight from there.
        """
        at = 0
        if self.data.partial_left and not self.is_failed:
            try:
                at = self._take_run(view, self._frames_at_once if frames is None else frames)
            except Http2ConnectionError as failure:
                self.abuse = failure.abuse
                self.fail(failure.code, str(failure))
                return
        self.receive(view[at:].tobytes(), frames)

    def _take_run(self, view: memoryview, frames: int) -> int:
        """Take the DATA that comes first, at most so many frames; return the position behind it."""
        data = self.data
        at, size = 0, len(view)
        for _ in range(frames):
            if at == size or self.is_failed:
                break
            try:
                end = data.next_of_run(view, at)
            except Http2StreamError as error:
                end = data.run_end
                self._stream_error(error)
            if end == at:
                break
            at = end
        return at

    def _stream_error(self, error: Http2StreamError) -> None:
        """Reset the stream. Raises `Http2ConnectionError`."""
        if self.control.is_idle(error.stream_id):
            # RST_STREAM must not be sent on an idle stream (RFC 9113 §6.4), and any stream error
            # may end the connection (§5.4.1).
            text = "an error on a stream that was never opened"
            raise Http2ConnectionError(error.code, text) from error
        # Those that the peer provokes cost it what its own RST_STREAM does.
        self.control.budget.spend("stream_error", RESET_COST)
        self._role.stream_error(error)

    def _read_preface(self, data: bytes) -> None:
        expected = self._preface
        seen = data[: len(expected)]
        if not expected.startswith(seen):
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "this is no HTTP/2 preface")
        self._preface = expected[len(seen) :]
        self._at = len(seen)

    def _read_frames(self, b: bytes) -> None:  # noqa: C901, PLR0912, PLR0915 - see below
        # The loop of the data path, whole: a call for each frame would cost 5 % of a request.
        streams = self._streams
        windows = self.windows
        role = self._role
        frames = self.data
        tiny = frames.tiny
        at = self._at
        size = len(b)
        if frames.partial_left and at < size:
            start, at = at, min(at + frames.partial_left, size)
            self._at = at
            frames.go_on(b[start:at])
        turns = iter(range(self._frames_left))
        for _ in turns:
            if size - at < 9:
                break
            length = b[at] << 16 | b[at + 1] << 8 | b[at + 2]
            start = at + 9
            end = start + length
            kind = b[at + 3]
            if end > size:
                if length > http2.MAX_FRAME:
                    raise Http2ConnectionError(
                        ErrorCode.FRAME_SIZE_ERROR, "a frame larger than SETTINGS_MAX_FRAME_SIZE"
                    )
                if (
                    kind == http2.DATA
                    and size - start >= _PARTIAL_DATA
                    and not b[at + 4] & http2.PADDED
                ):
                    self._at = size
                    flags = b[at + 4]
                    stream_id = int.from_bytes(b[at + 5 : start], "big") & _STREAM_MASK
                    at = size
                    self._check_order(kind, flags, stream_id, length)
                    frames.begin(stream_id, flags, length, b[start:])
                break
            self._at = end
            flags = b[at + 4]
            stream_id = (b[at + 5] & 0x7F) << 24 | b[at + 6] << 16 | b[at + 7] << 8 | b[at + 8]
            if self._block is not None or not self.settings_seen or length > http2.MAX_FRAME:
                self._check_order(kind, flags, stream_id, length)
            if kind == http2.DATA:
                stream = streams.get(stream_id)
                if stream is None or stream.remote_ended or flags & http2.PADDED or length < tiny:
                    frames.odd(stream_id, stream, flags, b[start:end])
                else:
                    window = windows.receive_window = windows.receive_window - length
                    stream.receive_window -= length
                    if window < 0 or stream.receive_window < 0:
                        windows.fail(stream_id)
                    credit = windows.credit = windows.credit + length
                    if credit >= windows.window >> 1:
                        windows.grant_connection()
                    if flags & http2.END_STREAM:
                        stream.remote_ended = True
                        role.data_received(stream, b[start:end], True)
                    else:
                        role.data_received(stream, b[start:end], False)
            elif kind == http2.HEADERS:
                if flags & (http2.PADDED | http2.PRIORITY_FLAG):
                    block = self._strip_headers(stream_id, flags, b[start:end])
                else:
                    block = b[start:end]
                if not stream_id:
                    raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
                if flags & http2.END_HEADERS:
                    role.headers_received(
                        stream_id, streams.get(stream_id), block, bool(flags & http2.END_STREAM)
                    )
                else:
                    self._block = bytearray(block)
                    self._block_stream = stream_id
                    self._block_ends = bool(flags & http2.END_STREAM)
                    if at or not self._pending:
                        self._unfinished += 1
            elif kind == http2.CONTINUATION:
                self._continuation(flags, b[start:end])
            else:
                self.control.handle(kind, flags, stream_id, b[start:end])
            if self.is_failed:
                return
            at = end
            if length > _USUAL_BYTES and kind != http2.DATA:
                deque(islice(turns, length // _BYTES_PER_FRAME), 0)
        else:
            self.has_more = size - at >= 9
        if at < size:
            if self._block is None and (at or not self._pending):
                self._unfinished += 1
            self._pending = b[at:]
        elif self._pending:
            self._pending = b""
        self.held = size - at if self._block is None else size - at + len(self._block)

    def _check_order(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        """Check what holds for every frame but matters seldom: size, the first SETTINGS, the
        order of CONTINUATION.
        """
        if length > http2.MAX_FRAME:
            raise Http2ConnectionError(
                ErrorCode.FRAME_SIZE_ERROR, "a frame larger than SETTINGS_MAX_FRAME_SIZE"
            )
        if self._block is not None and (
            kind != http2.CONTINUATION or stream_id != self._block_stream
        ):
            raise Http2ConnectionError(
                ErrorCode.PROTOCOL_ERROR, "a header block was interrupted by another frame"
            )
        if not self.settings_seen:
            if kind != http2.SETTINGS or flags & http2.ACK:
                raise Http2ConnectionError(
                    ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS"
                )
            self.settings_seen = True

    def _strip_headers(self, stream_id: int, flags: int, payload: bytes) -> bytes:
        """Take padding and priority off a HEADERS payload."""
        padding = 0
        start = 0
        if flags & http2.PADDED:
            if not payload:
                raise Http2ConnectionError(
                    ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its padding length"
                )
            padding = payload[0]
            start = 1
        if flags & http2.PRIORITY_FLAG:
            if len(payload) < start + 5:
                raise Http2ConnectionError(
                    ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its priority"
                )
            if int.from_bytes(payload[start : start + 4], "big") & _STREAM_MASK == stream_id:
                raise Http2ConnectionError(
                    ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself"
                )
            start += 5
        if padding > len(payload) - start:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
        return payload[start : len(payload) - padding]

    def _continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self.control.budget.spend("continuation")
        self._block += payload
        if len(self._block) > http2.MAX_HEADER_BLOCK:
            raise Http2ConnectionError(
                ErrorCode.ENHANCE_YOUR_CALM, "a header block that is too large", "header_list"
            )
        if flags & http2.END_HEADERS:
            block = bytes(self._block)
            self._block = None
            self._role.headers_received(
                self._block_stream, self._streams.get(self._block_stream), block, self._block_ends
            )
