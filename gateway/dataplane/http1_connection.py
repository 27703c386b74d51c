"""A client's HTTP/1.1 connection apart from its requests: when it is read, what it holds, its ends.

A connection is in one phase. What arrives in `HEAD` is a head, in `BODY` a body, in `DRAIN` the
small rest of a body that was refused, after which comes a head again; in `LINGER` everything is
thrown away. In `ANSWER` the request is complete: what follows it waits as bytes, and the socket is
not read, so that at most one read of pipelined requests is held.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from gateway.dataplane.http1_output import Output

if TYPE_CHECKING:
    from gateway.dataplane.plane import DataPlane

# Plain numbers: in CPython 3.11 a look-up of an enum's member costs 0.3 µs, and a request has many.
HEAD: Final = 0
BODY: Final = 1
ANSWER: Final = 2
DRAIN: Final = 3
LINGER: Final = 4
CLOSED: Final = 5

PAUSED_FLOW: Final = 1
"""The socket is not read: the backend takes the body slower than the caller sends it."""
PAUSED_PIPELINE: Final = 2
"""The socket is not read: the next request has to wait for its turn."""
PAUSED_BUDGET: Final = 4
"""The socket is not read: the worker holds as much as it may."""

WINDOW_BYTES: Final = 64 * 1024
"""Body bytes that may wait for the backend before the socket is read no more."""


class Http1Connection(asyncio.BufferedProtocol):
    """See the module. Over TLS too: the worker's own TLS transport can half-close."""

    __slots__ = (
        "_ends_at",
        "_has_eof",
        "_held",
        "_is_ending",
        "_left",
        "_out",
        "_pauses",
        "_phase",
        "_since",
        "_small_view",
        "_ungranted",
        "opened_at",
        "peer",
        "plane",
    )

    def __init__(self, plane: DataPlane, peer: str) -> None:
        self.plane = plane
        self.peer = peer
        self.opened_at = plane.tick
        self._small_view = plane.receive_view[:WINDOW_BYTES]
        self._out = Output(plane.budget)
        self._phase: int = HEAD
        self._since = plane.tick
        """When the phase began; with a part of a head, when its first byte came."""
        self._ends_at = plane.tick + plane.connection_age_limit()
        self._is_ending = False
        """Whether the next answer says `Connection: close`."""
        self._has_eof = False
        self._pauses = 0
        self._held = b""
        """The beginning of a head, or pipelined requests."""
        self._left = 0
        """Bytes of the body, or of what may be thrown away, that are still to come."""
        self._ungranted = 0
        """Body bytes that have come and not left for the backend."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (asyncio)."""
        self._out.begin(cast("asyncio.Transport", transport))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the worker's one buffer (asyncio): what it gets is forwarded or copied at once.

        All of it only while the backend keeps up with a body: what it does not take must be held.
        """
        if self._phase == BODY and not self._ungranted:
            return self.plane.receive_view
        return self._small_view

    def pause_writing(self) -> None:
        """The client does not read (asyncio)."""
        self._out.pause()

    # Whether the socket is read

    def _control_reading(self) -> None:
        if self._ungranted > WINDOW_BYTES:
            self._pause(PAUSED_FLOW)
        budget = self.plane.budget
        if budget.used >= budget.limit:
            self._pause(PAUSED_BUDGET)
            budget.wait(self, self._has_room)

    def _pause(self, reason: int) -> None:
        transport = self._out.transport
        if not self._pauses and transport is not None:
            transport.pause_reading()
        self._pauses |= reason

    def _resume(self, reasons: int) -> None:
        if self._pauses & reasons:
            self._pauses &= ~reasons
            transport = self._out.transport
            if not self._pauses and transport is not None:
                transport.resume_reading()

    def _has_room(self) -> None:
        self._resume(PAUSED_BUDGET)

    def grant(self, length: int, keeps_up: bool) -> None:
        """See `Downstream`."""
        left = self._ungranted - length
        self._ungranted = max(0, left)
        if self._pauses and left <= WINDOW_BYTES // 2:
            self._resume(PAUSED_FLOW)

    # What is held, and what is thrown away

    def _hold(self, data: bytes) -> None:
        self._held += data
        self.plane.budget.charge(len(data))

    def _let_go_of_held(self) -> None:
        self.plane.budget.release(len(self._held))
        self._held = b""

    def _throw_away(self, at: int, end: int) -> int:
        """Read over what nobody wants; return the position behind it."""
        stop = min(at + self._left, end)
        self._left -= stop - at
        if not self._left:
            if self._phase == DRAIN:
                self._await_head()
            else:
                self.close()
        return stop

    def _await_head(self) -> None:
        """The next thing to come is a head."""
        self._phase = HEAD
        self._since = self.plane.tick
        if self._is_ending or self._has_eof:
            self.close()
        elif self._held:
            self.plane.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Take up what was pipelined, when its turn has come."""
        raise NotImplementedError

    # Ends

    def _linger(self) -> None:
        """Half-close, then read and throw away what still comes.

        A client that writes its whole body before it reads would otherwise see a broken pipe, not
        the answer: closing with unread bytes makes the kernel send RST, which overtakes it.
        """
        transport = self._out.transport
        if transport is None:
            return
        self._let_go_of_held()
        if self._has_eof:
            self.close()
            return
        self._phase = LINGER
        self._since = self.plane.tick
        self._left = self.plane.settings.limits.linger_bytes
        transport.write_eof()
        self.plane.budget.forget(self)
        self._resume(PAUSED_FLOW | PAUSED_PIPELINE | PAUSED_BUDGET)

    def close(self) -> None:
        """Close after what was written has gone out."""
        self._phase = CLOSED
        self._since = self.plane.tick
        if self._out.transport is not None:
            self._out.transport.close()

    def reset(self) -> None:
        """Close at once, so that nobody takes what was sent for complete."""
        self._phase = CLOSED
        self._out.reset()

    def lost(self) -> None:
        """Let go of everything; `connection_lost` calls this first."""
        self._phase = CLOSED
        self._out.drop()
        self._let_go_of_held()
        self.plane.budget.forget(self)

    # Time

    def _sweep_idle(self, now: float) -> None:
        """End what has lasted too long while no exchange is open."""
        if now - self._since <= self._patience():
            return
        if self._out.is_paused or self._phase != HEAD:
            self.reset()
        else:
            self.close()

    def _patience(self) -> float:
        """For how many seconds the connection may stay as it is, without an exchange."""
        limits = self.plane.settings.limits
        if self._phase == LINGER:
            return limits.linger_timeout_s
        if self._phase != HEAD or self._out.is_paused:
            return limits.stall_timeout_s
        if self._held:
            return limits.header_timeout_s
        return 0.0 if self._is_ending else limits.idle_timeout_s

    def start_drain(self) -> None:
        """Close when nothing is under way, else after the answer."""
        self._is_ending = True
        if self._phase == HEAD and not self._held:
            self.close()
