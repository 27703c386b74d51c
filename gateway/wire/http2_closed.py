"""What stands in for the role and the outlet of an HTTP/2 connection that is closed.

A connection's parts refer to each other. When it is closed they let go, or each closed connection
would wait for a garbage collection.
"""

from __future__ import annotations

from typing import Final

from gateway.wire.http2 import MAX_STREAM_ID, ErrorCode, Http2StreamError, Stream
from gateway.wire.http2_role import Role


class ClosedRole(Role[Stream]):
    """Takes no note of anything any more."""

    __slots__ = ()

    def next_own_stream(self) -> int:
        """See `Role`."""
        return MAX_STREAM_ID

    def headers_received(
        self, stream_id: int, stream: Stream | None, block: bytes, ended: bool
    ) -> None:
        """See `Role`."""

    def data_received(self, stream: Stream, chunk: bytes, ended: bool) -> None:
        """See `Role`."""

    def data_left(self, stream: Stream, length: int) -> None:
        """See `Role`."""

    def data_dropped(self, stream: Stream, length: int) -> None:
        """See `Role`."""

    def reset_received(self, stream: Stream, code: int) -> None:
        """See `Role`."""

    def stream_error(self, error: Http2StreamError) -> None:
        """See `Role`."""

    def goaway_received(self, last_stream: int, code: int) -> None:
        """See `Role`."""

    def settings_changed(self) -> None:
        """See `Role`."""

    def ping_answered(self, payload: bytes) -> None:
        """See `Role`."""

    def failed(self, code: ErrorCode, text: str) -> None:
        """See `Role`."""


class ClosedOutlet:
    """Writes nothing any more (`http2_sender.Outlet`)."""

    __slots__ = ()

    def output_pending(self) -> None:
        """See `Outlet`."""

    def flush(self) -> None:
        """See `Outlet`."""


CLOSED: Final = ClosedRole()
CLOSED_OUTLET: Final = ClosedOutlet()
