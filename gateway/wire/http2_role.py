"""What one HTTP/2 connection is for: what its two halves tell the side of the caller, or of the
backend.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, TypeVar

from mypy_extensions import mypyc_attr

from gateway.wire.http2 import ErrorCode, Http2StreamError, Stream

StreamT_contra = TypeVar("StreamT_contra", bound=Stream, contravariant=True)


@mypyc_attr(allow_interpreted_subclasses=True)
class Role(Generic[StreamT_contra]):
    """See the module. Implementations may leave out these docstrings."""

    __slots__ = ()

    @abstractmethod
    def headers_received(
        self, stream_id: int, stream: StreamT_contra | None, block: bytes, ended: bool
    ) -> None:
        """A complete header block. The role must decode it, whatever it then does: it may change
        the decoder's state.
        """

    @abstractmethod
    def data_received(self, stream: StreamT_contra, chunk: bytes, ended: bool) -> None:
        """Body bytes for an open stream. The role returns their credit with `grant`."""

    @abstractmethod
    def data_left(self, stream: StreamT_contra, length: int) -> None:
        """Queued bytes have been sent."""

    @abstractmethod
    def data_dropped(self, stream: StreamT_contra, length: int) -> None:
        """Queued bytes will never be sent."""

    @abstractmethod
    def reset_received(self, stream: StreamT_contra, code: int) -> None:
        """The peer reset a stream, which is forgotten already."""

    @abstractmethod
    def stream_error(self, error: Http2StreamError) -> None:
        """The peer broke the rules on one stream: it must be reset."""

    @abstractmethod
    def next_own_stream(self) -> int:
        """Return the id of the next stream that this side opens: larger ones are idle."""

    @abstractmethod
    def goaway_received(self, last_stream: int, code: int) -> None:
        """The peer takes no new streams; those above `last_stream` were not processed."""

    @abstractmethod
    def settings_changed(self) -> None:
        """The peer's SETTINGS were applied."""

    @abstractmethod
    def ping_answered(self, payload: bytes) -> None:
        """Our PING came back."""

    @abstractmethod
    def failed(self, code: ErrorCode, text: str) -> None:
        """The connection is over; the output holds GOAWAY."""
