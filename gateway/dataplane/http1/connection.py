"""A client's HTTP/1.1 connection apart from its requests: its phase, what it holds, its ends.

A connection is in one phase. What arrives in `HEAD` is a head, in `BODY` a body, in `DRAIN` the
small rest of a body that was refused, after which comes a head again; in `LINGER` everything is
thrown away, by `core.lingering` as soon as the answer has gone out. In `ANSWER` the request is
complete: what follows it waits as bytes, and the socket is not read, so that at most one read of
pipelined requests is held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway import metrics
from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.read_gate import ReadGate
from gateway.dataplane.core.seams import ServerConnection
from gateway.dataplane.http1.output import Output

# Plain numbers: in CPython 3.11 a look-up of an enum's member costs 0.3 µs, and a request has many.
HEAD: Final = 0
BODY: Final = 1
ANSWER: Final = 2
DRAIN: Final = 3
LINGER: Final = 4
CLOSED: Final = 5


def _nothing() -> None:
    pass


class ConnectionState:
    """See the module. `go_on` takes up what was pipelined, when its turn has come; `owner` is the
    connection, and `peer` who is at its other end.
    """

    __slots__ = (
        "_context",
        "_ends_at",
        "_go_on",
        "_owner",
        "client",
        "gate",
        "has_eof",
        "held",
        "is_aged",
        "is_ending",
        "left",
        "out",
        "phase",
        "since",
    )

    def __init__(
        self,
        context: WorkerContext,
        owner: ServerConnection,
        peer: str,
        go_on: Callable[[], None],
    ) -> None:
        self._context = context
        self._go_on = go_on
        self._owner: ServerConnection | None = owner
        self.client = context.client_of(peer)
        """Who takes turns with others."""
        self.out = Output(context.budget)
        self.gate = ReadGate(context.budget, context.backlog, self.client)
        self.phase: int = HEAD
        self.since = context.tick
        """When the phase began; with a part of a head, when its first byte came."""
        self._ends_at = context.tick + context.connection_age_limit()
        self.is_aged = False
        """Whether the connection has reached its age: the next answer announces its end."""
        self.is_ending = False
        """Whether the connection ends after the answer under way, which has said
        `Connection: close` unless its head went out before.
        """
        self.has_eof = False
        """Whether the client has closed its half."""
        self.held = b""
        """The beginning of a head, or pipelined requests."""
        self.left = 0
        """Bytes of the body, or of what may be thrown away, that are still to come."""

    def begin(self, transport: asyncio.Transport) -> None:
        """Take the transport over."""
        self.out.begin(transport)
        self.gate.begin(transport)

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a request has come, and nothing of an answer is left to send."""
        return self.phase == HEAD and not self.held and not self.out.is_paused

    def hold(self, data: bytes) -> None:
        """Hold bytes until there is more, or until their turn has come."""
        self.held += data
        self._context.budget.charge(len(data))

    def take_held(self) -> bytes:
        """Return what is held, and hold it no longer."""
        held, self.held = self.held, b""
        self._context.budget.release(len(held))
        return held

    def throw_away(self, at: int, end: int) -> int:
        """Read over what nobody wants; return the position behind it."""
        stop = min(at + self.left, end)
        self.left -= stop - at
        if not self.left:
            if self.phase == DRAIN:
                self.await_head()
            else:
                self.close()
        return stop

    def await_head(self) -> None:
        """The next thing to come is a head."""
        self.phase = HEAD
        self.since = self._context.tick
        if self.is_ending or self.has_eof:
            self.close()
        elif self.held:
            self._context.loop.call_soon(self._go_on)

    # Ends

    def linger(self) -> None:
        """Half-close, then read and throw away what still comes.

        A client that writes its whole body before it reads would otherwise see a broken pipe, not
        the answer: closing with unread bytes makes the kernel send RST, which overtakes it.
        """
        transport = self.out.transport
        if transport is None:
            return
        self.take_held()
        if self.has_eof:
            self.close()
            return
        self.phase = LINGER
        self.since = self._context.tick
        self.left = self._context.limits.linger_bytes
        transport.write_eof()
        if not self.leave():
            self.gate.open()

    def leave(self) -> bool:
        """Leave a lingering connection to those that need no more than their socket; return False
        where an answer has to go out first.
        """
        owner, transport, context = self._owner, self.out.transport, self._context
        if owner is None or transport is None or self.out.is_paused:
            return False
        ends_at = self.since + context.limits.linger_timeout_s
        if not context.lingering.take(owner, transport, self.client, ends_at, self.left):
            return False
        self.phase = CLOSED
        return True

    def close(self) -> None:
        """Close after what was written has gone out."""
        self.phase = CLOSED
        self.since = self._context.tick
        if self.out.transport is not None:
            self.out.transport.close()

    def reset(self) -> None:
        """Close at once, so that nobody takes what was sent for complete."""
        self.phase = CLOSED
        self.out.reset()

    def lost(self) -> None:
        """The transport is gone: let go of everything."""
        self.phase = CLOSED
        self._go_on = _nothing  # else the connection and its parts would keep each other
        self._owner = None
        self.out.drop()
        self.take_held()
        self.gate.end()

    # Time

    def sweep(self, now: float) -> None:
        """Note that the connection has reached its age. It is not closed for that: a request may be
        on its way, and a client that sends no more is found by `limits.idle_timeout`.
        """
        if now > self._ends_at:
            self.is_aged = True

    def sweep_idle(self, now: float) -> None:
        """End what has lasted too long while no exchange is open."""
        if now - self.since <= self._patience_s():
            return
        if self.out.is_paused or self.phase != HEAD:
            self.reset()
            return
        if self.held:
            self._context.counters.count(metrics.CONNECTIONS_REFUSED, "slow_head")
        self.close()

    def _patience_s(self) -> float:
        """Return for how long the connection may stay as it is, without an exchange."""
        limits = self._context.limits
        if self.phase == LINGER:
            return limits.linger_timeout_s
        if self.phase != HEAD or self.out.is_paused:
            return limits.stall_timeout_s
        if self.held:
            return limits.header_timeout_s
        if self.is_ending:
            return 0.0
        return self._context.idle_grace() if self._context.is_draining else limits.idle_timeout_s

    def start_drain(self) -> None:
        """Let an idle connection stay for the grace, in which its next answer announces the end."""
        if self.is_idle:
            self.since = self._context.now()
