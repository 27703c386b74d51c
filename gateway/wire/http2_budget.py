"""How many frames that are no use to anybody a peer may send, and the errors that it may cause.

One account per connection: what a frame costs is taken from it, each second puts some back, and so
does what the peer gives a reason for: a request that was served, bytes that were sent to it. So a
client that acknowledges each DATA frame, or measures the way with a PING per response, never runs
out of it. What the reasons are worth is added up only when the account is empty.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol, get_args

from gateway.wire import http2
from gateway.wire.http2 import ErrorCode, Http2ConnectionError

Kind = Literal[
    "closed_stream",
    "continuation",
    "empty_data",
    "goaway",
    "header_list",
    "ping",
    "ping_ack",
    "priority",
    "rst_stream",
    "settings",
    "stream_error",
    "tiny_data",
    "unknown",
    "window_update",
]
KINDS: Final[tuple[str, ...]] = get_args(Kind)

_CLIENT_BURST: Final = 2_000
_CLIENT_PER_SECOND: Final = 1_000
_BACKEND_BURST: Final = 10_000
_BACKEND_PER_SECOND: Final = 5_000
"""A backend is trusted more: one connection of it carries the requests of all senders."""
_PER_REQUEST: Final = 4
"""A WINDOW_UPDATE for stream and connection, a PING, and an RST_STREAM behind an early response."""
_BYTES_PER_FRAME: Final = 128
"""Of what was sent: two WINDOW_UPDATEs for each DATA frame of 256 bytes."""
TINY_BYTES: Final = 16
"""DATA with fewer is of no use unless it ends a body: its frame is most of what is sent."""
RESET_COST: Final = 2
"""Of a stream that the client opens only to reset it, or to make this side reset it."""


class SendWindow(Protocol):
    """Whose connection window tells how much was sent."""

    send_window: int


class FrameBudget:
    """See the module. `sender` is the sending half of the connection."""

    __slots__ = ("_burst", "_earned", "_left", "_per_second", "_sender", "granted", "served")

    def __init__(self, sender: SendWindow, *, is_server: bool) -> None:
        self._sender = sender
        self._burst = _CLIENT_BURST if is_server else _BACKEND_BURST
        self._per_second = _CLIENT_PER_SECOND if is_server else _BACKEND_PER_SECOND
        self._left = self._burst
        self._earned = 0
        """What requests and sent bytes have put into the account so far."""
        self.served = 0
        """Requests that were answered; whoever answers counts them."""
        self.granted = 0
        """Bytes by which the peer has opened the connection's window."""

    def spend(self, kind: Kind, cost: int = 1) -> None:
        """Take the cost of a frame. Raises `Http2ConnectionError` where there is nothing left."""
        self._left -= cost
        if self._left < 0:
            self._add_earned()
            if self._left < 0:
                raise Http2ConnectionError(
                    ErrorCode.ENHANCE_YOUR_CALM, f"too many frames of no use: {kind}", kind
                )

    def refill(self) -> None:
        """Put back what a second is worth; called once a second."""
        self._left = min(self._burst, self._left + self._per_second)

    def _add_earned(self) -> None:
        sent = http2.DEFAULT_WINDOW + self.granted - self._sender.send_window
        earned = self.served * _PER_REQUEST + sent // _BYTES_PER_FRAME
        self._left = min(self._burst, self._left + earned - self._earned)
        self._earned = earned
