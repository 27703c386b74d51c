"""How long a client's HTTP/2 connection lasts, and how its end is announced (RFC 9113 §6.8)."""

from __future__ import annotations

from typing import Final

from gateway import metrics
from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.http2.server_stream import ServerStream
from gateway.dataplane.http2.transport import Http2Transport
from gateway.wire.http2 import MAX_STREAM_ID, ErrorCode

_DRAIN_PING: Final = b"drain..."
_DRAIN_PING_S: Final = 1.0
"""A client that has not answered the drain's PING by then gets the final GOAWAY all the same."""


class ServerLifetime:
    """One connection's deadlines, and its drain: first GOAWAY, PING, final GOAWAY, close."""

    __slots__ = (
        "_context",
        "_drained_at",
        "_ends_at",
        "_idle_since",
        "_is_draining",
        "_opened_at",
        "_transport",
        "_unfinished",
        "_unfinished_since",
        "is_over",
    )

    def __init__(self, context: WorkerContext, transport: Http2Transport[ServerStream]) -> None:
        self._context = context
        self._transport = transport
        self._opened_at = self._idle_since = context.now()
        self._ends_at = self._opened_at + context.connection_age_limit()
        self._is_draining = False
        self._drained_at = 0.0
        self.is_over = False
        """Whether the final GOAWAY has been sent: no new stream is processed."""
        self._unfinished = 0
        """The frame or header block that was under way at the last sweep, and since when."""
        self._unfinished_since = 0.0

    def stream_ended(self) -> None:
        """A stream was forgotten: note idleness, finish a drain."""
        if not self._transport.sender.streams:
            self._idle_since = self._context.tick
            if self.is_over:
                self._transport.close()

    def sweep(self, now: float) -> None:
        """Enforce header, idle and age limits; called once a second."""
        limits = self._context.limits
        transport = self._transport
        last_used = max(transport.last_received, self._idle_since)
        if self._is_head_late(now, limits.header_timeout_s):
            self._context.counters.count(metrics.CONNECTIONS_REFUSED, "slow_head")
            transport.receiver.fail(ErrorCode.PROTOCOL_ERROR, "no complete header block in time")
        elif now > self._ends_at or (
            not transport.sender.streams and now - last_used > limits.idle_timeout_s
        ):
            self.start_drain()
        if self._is_draining and not self.is_over and now - self._drained_at > _DRAIN_PING_S:
            self._finish_drain()

    def _is_head_late(self, now: float, timeout_s: float) -> bool:
        """Whether SETTINGS, a header block, or the rest of a frame should have come by now.

        A block has to be complete in time, from the first byte of its first frame on, and so has
        every other frame; of DATA only the next bytes must come.
        """
        receiver, last_received = self._transport.receiver, self._transport.last_received
        if not receiver.settings_seen:
            return now - self._opened_at > timeout_s
        unfinished = receiver.unfinished
        if unfinished != self._unfinished:
            self._unfinished = unfinished
            self._unfinished_since = min(now, last_received)
        if not unfinished:
            return False
        since = last_received if receiver.is_within_data else self._unfinished_since
        return now - since > timeout_s

    def start_drain(self) -> None:
        """Announce the end: first without a limit, then, when the client has seen that, with the
        last stream that is processed.

        The PING goes first, in the same write: the `h2` library, and so httpx, takes anything
        behind a GOAWAY for an error.
        """
        if self._is_draining:
            return
        self._is_draining = True
        self._drained_at = self._context.tick
        sender = self._transport.sender
        sender.ping(_DRAIN_PING)
        sender.goaway(MAX_STREAM_ID, ErrorCode.NO_ERROR)

    def ping_answered(self, payload: bytes) -> None:
        """The client has seen the first GOAWAY."""
        if payload == _DRAIN_PING and self._is_draining and not self.is_over:
            self._finish_drain()

    def _finish_drain(self) -> None:
        self.is_over = True
        transport = self._transport
        transport.sender.goaway(transport.receiver.control.highest_peer_stream, ErrorCode.NO_ERROR)
        self.stream_ended()
