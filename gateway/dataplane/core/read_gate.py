"""Whether a connection is read: it is not while there is a reason against it."""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.dataplane.core.backlog import Backlog
from gateway.dataplane.core.budget import Budget

PAUSED_FLOW: Final = 1
"""The next hop takes the body slower than it comes."""
PAUSED_PIPELINE: Final = 2
"""What came has to wait for its turn."""
PAUSED_BUDGET: Final = 4
"""The worker holds as much as it may."""
PAUSED_UNSENT: Final = 8
"""The peer does not take the answers to its own frames."""
PAUSED_TURN: Final = 16
"""What one turn of the loop may read has been read."""


class ReadGate:
    """The reasons against reading, as bits. `client` is whose turn it has to be to read on."""

    __slots__ = ("_backlog", "_budget", "_client", "_transport", "reasons")

    def __init__(self, budget: Budget, backlog: Backlog, client: str) -> None:
        self.reasons = 0
        self._budget = budget
        self._backlog = backlog
        self._client = client
        self._transport: asyncio.Transport | None = None

    def begin(self, transport: asyncio.Transport) -> None:
        """Control the reading of a transport."""
        self._transport = transport

    def pause(self, reason: int) -> None:
        """Do not read from now on."""
        if not self.reasons and self._transport is not None:
            self._transport.pause_reading()
        self.reasons |= reason

    def resume(self, reasons: int) -> None:
        """Take reasons back; read again when none is left."""
        if self.reasons & reasons:
            self.reasons &= ~reasons
            if not self.reasons and self._transport is not None:
                self._transport.resume_reading()

    def wait_for_room(self, *, holds: bool) -> None:
        """Do not read while the worker holds as much as it may.

        `holds`: what comes here has to wait, so that it is read no more while much is held.
        """
        budget = self._budget
        if budget.used >= (budget.near if holds else budget.limit):
            self.pause(PAUSED_BUDGET)
            budget.wait(self, self._has_room, holds=holds)

    def holds_no_more(self) -> None:
        """What came here has left: read again, unless the worker holds all that it may."""
        if self.reasons & PAUSED_BUDGET and self._budget.used < self._budget.limit:
            self._budget.forget(self)
            self.resume(PAUSED_BUDGET)

    def _has_room(self) -> None:
        """Read on, but not all who have waited at once: what they bring fills the room again."""
        self._backlog.add(self._client, self._read_on)

    def _read_on(self) -> None:
        self.resume(PAUSED_BUDGET)

    def count_read(self, length: int) -> None:
        """Note a large read. When a turn has had its share of them, the next one of this connection
        waits among the pieces of the backlog, so that no number of uploads makes a turn long. The
        event loop itself would read a socket that has more up to 32 times before it serves another.
        """
        if not self._backlog.note_read(length) and not self.reasons:
            self.pause(PAUSED_TURN)
            self._backlog.add(self._client, self._next_turn)

    def _next_turn(self) -> None:
        self.resume(PAUSED_TURN)

    def open(self) -> None:
        """Read, whatever reasons there were: what comes is thrown away."""
        self._budget.forget(self)
        self.resume(self.reasons)

    def end(self) -> None:
        """Let go of the transport."""
        self._budget.forget(self)
        self._transport = None
