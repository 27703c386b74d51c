"""Both halves of an HTTP/2 connection without I/O, for `receive` and `send`: bytes in, bytes out.

A worker does not use it: its connections have bounds and turns (`dataplane.http2.transport`).
"""

from __future__ import annotations

from gateway.wire import hpack
from gateway.wire.hpack import Pair
from gateway.wire.http2 import (
    FIRST_SERVER_STREAM,
    ErrorCode,
    Http2ConnectionError,
    Http2StreamError,
    Setting,
    Stream,
)
from gateway.wire.http2_receiver import Http2Receiver
from gateway.wire.http2_role import Role
from gateway.wire.http2_sender import Http2Sender


class _QuietRole(Role[Stream]):
    """What a connection is told and need not act on."""

    def output_pending(self) -> None:
        """Leave it until `Http2Connection.take_output`."""

    def flush(self) -> None:
        """Leave it until `Http2Connection.take_output`."""

    def reset_received(self, stream: Stream, code: int) -> None:
        """See `Role`."""

    def goaway_received(self, last_stream: int, code: int) -> None:
        """See `Role`."""

    def settings_changed(self) -> None:
        """See `Role`."""

    def ping_answered(self, payload: bytes) -> None:
        """See `Role`."""

    def data_left(self, stream: Stream, length: int) -> None:
        """See `Role`."""

    def data_dropped(self, stream: Stream, length: int) -> None:
        """See `Role`."""


class Http2Connection(_QuietRole):
    """See the module. A subclass says what becomes of heads and data."""

    def __init__(self, settings: dict[Setting, int], *, is_server: bool) -> None:
        self.sender: Http2Sender[Stream] = Http2Sender(settings, self, self, is_server=is_server)
        self.receiver: Http2Receiver[Stream] = Http2Receiver(
            settings, self, self.sender, is_server=is_server
        )
        self.failure = ""
        """How the peer broke the protocol; the output then ends with GOAWAY."""

    def receive(self, data: bytes) -> None:
        """Take what has arrived, all of it."""
        self.receiver.receive(data)
        while self.receiver.has_more:
            self.receiver.receive(b"")

    def take_output(self) -> bytes:
        """Return what is to be written now."""
        out, self.sender.out = self.sender.out, []
        self.sender.out_bytes = 0
        return b"".join(out)

    def new_stream(self, stream_id: int) -> Stream:
        """Open a stream with the windows of the moment."""
        stream = Stream(stream_id, self.sender.peer_window, self.receiver.windows.stream_window)
        self.sender.streams[stream_id] = stream
        return stream

    def decode(self, stream_id: int, block: bytes) -> list[Pair]:
        """Decode a header block. Raises the errors that end the connection or the stream."""
        try:
            return self.receiver.decoder.decode(block)
        except hpack.HeaderBlockError as error:
            raise Http2ConnectionError(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        except hpack.HeaderListTooLargeError as error:
            raise Http2StreamError(stream_id, ErrorCode.ENHANCE_YOUR_CALM) from error

    def next_own_stream(self) -> int:
        """See `Role`: a server opens none."""
        return FIRST_SERVER_STREAM

    def stream_error(self, error: Http2StreamError) -> None:
        """See `Role`."""
        self.sender.reset(error.stream_id, error.code)

    def failed(self, code: ErrorCode, text: str) -> None:
        """See `Role`."""
        self.failure = f"{code.name}: {text}"
