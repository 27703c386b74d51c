"""Both halves of an HTTP/2 connection without a transport: bytes go in, bytes come out.

`Connection` is the role of what stands in `gateway.wire`; tests override what they want to see.
"""

from __future__ import annotations

from typing import ClassVar

from gateway.wire import hpack, http2
from gateway.wire.http2 import ErrorCode, Http2StreamError, Setting, Stream
from gateway.wire.http2_receiver import Http2Receiver
from gateway.wire.http2_role import Role
from gateway.wire.http2_sender import Http2Sender


class Connection(Role[Stream]):
    """One end of a connection; a server's, unless a subclass says otherwise."""

    is_server: ClassVar[bool] = True

    def __init__(self, settings: dict[Setting, int]) -> None:
        self.sender: Http2Sender[Stream] = Http2Sender(
            settings, self, self, is_server=self.is_server
        )
        self.receiver: Http2Receiver[Stream] = Http2Receiver(
            settings, self, self.sender, is_server=self.is_server
        )
        self.streams = self.sender.streams

    @property
    def decoder(self) -> hpack.BlockDecoder:
        return self.receiver.decoder

    @property
    def is_failed(self) -> bool:
        return self.receiver.is_failed

    @property
    def send_window(self) -> int:
        return self.sender.send_window

    def new_stream(self, stream_id: int) -> Stream:
        """Open a stream with the windows of the moment."""
        windows = self.receiver.windows
        stream = Stream(stream_id, self.sender.peer_window, windows.stream_window)
        self.streams[stream_id] = stream
        return stream

    def peer_opened(self, stream_id: int) -> Stream:
        """Open a stream that the peer has begun."""
        control = self.receiver.control
        control.highest_peer_stream = max(control.highest_peer_stream, stream_id)
        return self.new_stream(stream_id)

    def receive(self, data: bytes) -> None:
        """Receive bytes, over as many turns as they take."""
        self.receiver.receive(data)
        while self.receiver.has_more:
            self.receiver.receive(b"")

    def take_output(self) -> list[bytes]:
        """Return what is to be written, in order, and begin anew."""
        out, self.sender.out = self.sender.out, []
        self.sender.out_bytes = 0
        return out

    # wire.Outlet

    def output_pending(self) -> None:
        """Leave it until `take_output`."""

    def flush(self) -> None:
        """Leave it until `take_output`."""

    # wire.Role

    def next_own_stream(self) -> int:
        return http2.FIRST_SERVER_STREAM

    def headers_received(
        self, stream_id: int, stream: Stream | None, block: bytes, ended: bool
    ) -> None:
        self.decoder.decode(block)

    def data_received(self, stream: Stream, chunk: bytes, ended: bool) -> None:
        """Return no credit."""

    def data_left(self, stream: Stream, length: int) -> None:
        """Take no note."""

    def data_dropped(self, stream: Stream, length: int) -> None:
        """Take no note."""

    def reset_received(self, stream: Stream, code: int) -> None:
        """Take no note."""

    def stream_error(self, error: Http2StreamError) -> None:
        self.sender.reset(error.stream_id, error.code)

    def goaway_received(self, last_stream: int, code: int) -> None:
        """Take no note."""

    def settings_changed(self) -> None:
        """Take no note."""

    def ping_answered(self, payload: bytes) -> None:
        """Take no note."""

    def failed(self, code: ErrorCode, text: str) -> None:
        """Take no note."""
