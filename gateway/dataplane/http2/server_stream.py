"""The caller's side of one request over HTTP/2: its stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.dataplane.core.budget import Budget
from gateway.dataplane.core.certificates import ClientCertificate
from gateway.dataplane.core.heads import FieldSection
from gateway.dataplane.core.replies import Reply
from gateway.dataplane.exchange.exchange import Exchange
from gateway.wire import hpack
from gateway.wire.http2 import ErrorCode, Stream
from gateway.wire.http2_budget import FrameBudget
from gateway.wire.http2_sender import Http2Sender
from gateway.wire.http2_windows import ReceiveWindows

STREAM_BYTES: Final = 4 * 1024
"""What an open request takes besides its body: its stream, exchange, record and a usual head."""
_USUAL_BLOCK: Final = 1_024
_USUAL_FIELDS: Final = 32
_FIELD_BYTES: Final = 160
"""What a field takes besides its name and value: a tuple, two objects, a place in a list."""
WAITING_REPLIES: Final = 100
"""Answers of the gateway's own that may wait on one connection for the caller's window."""
_CONTINUE: Final = hpack.encode_field(b":status", b"100")
_BODILESS: Final = (b"GET", b"HEAD", b"OPTIONS")
_LATE_FRAMES: Final = 4
"""A body that is refused may come in several frames before the client sees that: as good a reason
for so many requests' control frames.
"""


class StreamConnection:
    """What the streams of one connection use of it."""

    __slots__ = (
        "budget",
        "certificate",
        "frames",
        "peer",
        "sender",
        "stream_ended",
        "waiting_replies",
        "windows",
    )

    def __init__(
        self,
        sender: Http2Sender[ServerStream],
        windows: ReceiveWindows[ServerStream],
        budget: Budget,
        peer: str,
        frames: FrameBudget,
        stream_ended: Callable[[], None],
        certificate: ClientCertificate | None,
    ) -> None:
        self.sender = sender
        self.windows = windows
        self.budget = budget
        self.peer = peer
        self.certificate = certificate
        self.waiting_replies = 0
        """Answers of the gateway's own that wait for the caller's window."""
        self.frames = frames
        self.stream_ended = stream_ended
        """Called when a stream was forgotten."""


class ServerStream(Stream):
    """One request of the caller (`seams.Downstream`)."""

    __deletable__ = ("exchange",)
    __slots__ = (
        "_charged",
        "_connection",
        "_is_waiting",
        "_trailers",
        "certificate",
        "exchange",
        "peer",
        "received",
    )

    exchange: Exchange

    def __init__(self, stream_id: int, connection: StreamConnection) -> None:
        Stream.__init__(
            self, stream_id, connection.sender.peer_window, connection.windows.stream_window
        )
        self.peer = connection.peer
        self.certificate = connection.certificate
        self.received = 0
        """Body bytes that have come."""
        self._connection = connection
        self._charged = 0
        self._is_waiting = False
        """Whether a reply waits for the caller's window."""
        self._trailers: FieldSection | None = None
        """Trailers that wait until the queued data has left."""

    def charge(self, block_bytes: int, fields: int) -> None:
        """Charge what the request takes until `part`: its head came as `block_bytes`."""
        cost = STREAM_BYTES
        if block_bytes > _USUAL_BLOCK or fields > _USUAL_FIELDS:
            # Decoded, a block is at most 1.6 times as long, and what goes on is kept beside it.
            cost += 3 * block_bytes + _FIELD_BYTES * fields
        self._charged = cost
        self._connection.budget.used += cost

    @property
    def held(self) -> int:
        """Bytes that are held for the request."""
        return self._charged + self.queued + self.exchange.body.held

    def send_head(self, section: FieldSection, ended: bool) -> None:
        """See `Downstream`."""
        self._connection.sender.send_headers(self, section.h2 or section.encoded_h2(), ended=ended)
        if ended:
            self._close()

    def send_body(self, chunk: bytes, ended: bool) -> int:
        """See `Downstream`: as much as the caller's window allows is sent now."""
        connection = self._connection
        queued = connection.sender.send_data(self, chunk, ended)
        if queued:
            connection.budget.charge(queued)
        if self.local_ended:
            self._close()
        return queued

    def send_answer(
        self, section: FieldSection, body: bytes, trailers: FieldSection | None = None
    ) -> None:
        """See `Downstream`."""
        self._connection.sender.send_headers(self, section.h2 or section.encoded_h2(), ended=False)
        if trailers is None:
            self.send_body(body, True)
        else:
            self.send_body(body, False)
            self.send_trailers(trailers)

    def send_trailers(self, section: FieldSection) -> None:
        """See `Downstream`: they go out behind what is queued."""
        if self.queue:
            self._trailers = section
            return
        self._connection.sender.send_headers(self, section.h2 or section.encoded_h2(), ended=True)
        self._close()

    def send_reply(self, reply: Reply) -> None:
        """See `Downstream`."""
        if reply.body and self.exchange.head.method != b"HEAD":
            self.send_answer(reply.section, reply.body)
            if self.queue:
                self._wait()
        else:
            self.send_head(reply.section, True)

    def _wait(self) -> None:
        """Wait for the caller's window, unless too many do: without a key nobody may have more
        held.
        """
        connection = self._connection
        self._is_waiting = True
        connection.waiting_replies += 1
        if connection.waiting_replies > WAITING_REPLIES:
            self.end(ErrorCode.REFUSED_STREAM)

    def withhold(self) -> None:
        """See `Downstream`: the request was not processed, so the caller sends it again."""
        self.end(ErrorCode.REFUSED_STREAM)

    def break_off(self, trailers: FieldSection | None) -> None:
        """See `Downstream`."""
        if self.queue:
            self.end(ErrorCode.CANCEL)
        elif trailers is not None:
            self.send_trailers(trailers)
        else:
            self.end(ErrorCode.INTERNAL_ERROR)

    def grant(self, length: int, keeps_up: bool) -> None:
        """See `Downstream`."""
        connection = self._connection
        may_grow = keeps_up and not connection.budget.is_near
        connection.windows.grant(self, length, may_grow=may_grow)

    def accept_body(self) -> None:
        """See `Downstream` (RFC 9110 §10.1.1)."""
        self._connection.sender.send_headers(self, _CONTINUE, ended=False)

    def queue_left(self) -> None:
        """All queued answer bytes have gone: what waited behind them follows."""
        trailers, self._trailers = self._trailers, None
        if trailers is not None:
            self.send_trailers(trailers)
        elif self.local_ended:
            self._close()

    def end(self, code: ErrorCode) -> None:
        """Reset the stream and forget it, with all that waits to be sent."""
        self._connection.sender.reset(self.id, code)
        self.part()
        self._connection.stream_ended()

    def _close(self) -> None:
        """The answer is complete: forget the stream; stop a body that is still coming (RFC 9113
        §8.1).
        """
        connection = self._connection
        connection.frames.served += 1
        if self.remote_ended:
            connection.sender.forget(self)
        else:
            self._stop_body()
        self.part()
        connection.stream_ended()

    def _stop_body(self) -> None:
        """Reset the stream; where no body is to be expected, only if there comes one."""
        head = self.exchange.head
        left = head.content_length - self.received if head.content_length >= 0 else -1
        if head.method in _BODILESS and left <= 0:
            self._connection.sender.leave_unended(self, left)
        else:
            self._connection.sender.reset(self.id, ErrorCode.NO_ERROR, left)
            self._connection.frames.served += _LATE_FRAMES

    def part(self) -> None:
        """Let go of the exchange: the two would keep each other, and what they hold, until the
        next full collection.
        """
        self._trailers = None
        connection = self._connection
        if self._is_waiting:
            connection.waiting_replies -= 1
        connection.budget.release(self._charged)
        del self.exchange
