"""What one HTTP/2 connection may receive: the windows that it gives the peer (RFC 9113 §5.2, §6.9).

A stream's credit is returned only through `grant`, when its bytes have left this process. The
connection's credit is returned on receipt, so that one waiting stream does not stop the others.
"""

from __future__ import annotations

from typing import Final, Generic

from gateway.wire import http2
from gateway.wire.http2 import ErrorCode, Http2ConnectionError, Http2StreamError, Setting
from gateway.wire.http2_sender import Http2Sender, StreamT

_MAX_STREAM_WINDOW: Final = 1024 * 1024
_MAX_INITIAL_WINDOW: Final = 256 * 1024
"""A stream that is refused from its head may bring no more than this."""
_CONNECTION_WINDOW: Final = 1024 * 1024
"""What a connection begins with. Its credit is returned on receipt, so it bounds no memory; with a
smaller window, a request of 30 kB would cost a WINDOW_UPDATE, which is a write of its own.
"""
_MAX_CONNECTION_WINDOW: Final = 4 * 1024 * 1024


class ReceiveWindows(Generic[StreamT]):
    """The windows of one connection and of its streams."""

    __slots__ = ("_sender", "credit", "receive_window", "stream_window", "window")

    def __init__(self, settings: dict[Setting, int], sender: Http2Sender[StreamT]) -> None:
        self.window = _CONNECTION_WINDOW
        self.receive_window = _CONNECTION_WINDOW
        """What the peer may still send on the connection."""
        self.credit = 0
        """What has come on the connection and was not returned yet."""
        self.stream_window = settings.get(Setting.INITIAL_WINDOW_SIZE, http2.DEFAULT_WINDOW)
        """The window of a new stream."""
        self._sender = sender
        more = _CONNECTION_WINDOW - http2.DEFAULT_WINDOW
        sender.send(http2.frame(http2.WINDOW_UPDATE, 0, http2.NO_STREAM, more.to_bytes(4, "big")))

    def count(self, stream: StreamT | None, stream_id: int, length: int) -> None:
        """Take received bytes off the windows. Raises the errors of `fail`."""
        self.receive_window -= length
        if stream is not None:
            stream.receive_window -= length
        if self.receive_window < 0 or (stream is not None and stream.receive_window < 0):
            self.fail(stream_id)
        self.credit += length
        if self.credit >= self.window >> 1:
            self.grant_connection()

    def fail(self, stream_id: int) -> None:
        """Raise the error of a peer that has sent more than a window allows."""
        if self.receive_window < 0:
            raise Http2ConnectionError(
                ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window"
            )
        raise Http2StreamError(stream_id, ErrorCode.FLOW_CONTROL_ERROR)

    def grant(self, stream: StreamT, length: int, *, may_grow: bool = False) -> None:
        """Return a stream's credit: `length` bytes of it have left this process.

        `may_grow`: the next hop keeps up, the window may double.
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
                self.credit += (stream.window << 1) - self.window
                self.window = stream.window << 1
        stream.receive_window += credit
        stream.credit = 0
        self._sender.send(
            http2.frame(http2.WINDOW_UPDATE, 0, stream.id_bytes, credit.to_bytes(4, "big"))
        )

    def _announce_window(self, window: int) -> None:
        """Let further streams begin with a window that has proved useful (RFC 9113 §6.9.2).

        It counts for all open streams, too.
        """
        more = window - self.stream_window
        self.stream_window = window
        for stream in self._sender.streams.values():
            stream.receive_window += more
        self._sender.send(http2.settings_frame({Setting.INITIAL_WINDOW_SIZE: window}))

    def grant_connection(self) -> None:
        """Return the connection's credit."""
        self._sender.send(
            http2.frame(http2.WINDOW_UPDATE, 0, http2.NO_STREAM, self.credit.to_bytes(4, "big"))
        )
        self.receive_window += self.credit
        self.credit = 0
