"""What peers have sent beyond what one turn of the loop does for each: done later, piece by piece.

However many connections have more to be worked off, a turn does one piece for all of them together,
and clients take turns. So a turn's length does not grow with what has arrived, and whoever sends
one request at a time never waits behind those who send thousands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.dataplane.core.client_queue import ClientQueue

LARGE_READ_BYTES: Final = 8 * 1024
"""A read of less is a request or two, and is not counted."""
READ_COST: Final = 32 * 1024
"""A large read takes as long as so many bytes more."""
TURN_BYTES: Final = 1024 * 1024
"""What large reads of one turn may bring and cost, by whichever connections; those that come then
are small.
"""


class Backlog:
    """The pieces that wait, in order. A piece is a bounded amount of work, and may add the next."""

    __slots__ = (
        "_first",
        "_is_noted",
        "_is_scheduled",
        "_loop",
        "_pieces",
        "_read",
        "_was_sated",
        "is_sated",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pieces: ClientQueue[Callable[[], None]] = ClientQueue()
        self._is_scheduled = False
        self._is_noted = False
        """Whether the end of this turn will be noted."""
        self._read = 0
        """Bytes that large reads have brought and cost in the present turn."""
        self.is_sated = False
        """Whether that is enough: let what is read in this turn be little."""
        self._was_sated = False
        """Whether the turn before had enough: those that read much have to wait for each other."""
        self._first: list[Callable[[], None]] = []
        """What comes before the next piece."""

    def __len__(self) -> int:
        """Count the pieces that wait."""
        return len(self._pieces)

    @property
    def is_busy(self) -> bool:
        """Whether pieces wait: those who come now do less at a time, so that a turn stays short."""
        return self._is_scheduled

    def add(self, client: str, piece: Callable[[], None]) -> None:
        """Have a piece of a client's done in a later turn. It must not raise, and must not mind
        being late.
        """
        self._pieces.add(client, piece)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._do_one)

    def note_read(self, length: int) -> bool:
        """Note that a large read has brought so much; return whether its connection may be read on
        in this turn, and in the next one without waiting for it.
        """
        if not self._is_noted:
            self._is_noted = True
            self._loop.call_soon(self._next_turn)
        self._read += length + READ_COST
        self.is_sated = self._read >= TURN_BYTES
        return not (self.is_sated or self._was_sated)

    def _next_turn(self) -> None:
        self._is_noted = self._was_sated = self.is_sated
        self._read = 0
        self.is_sated = False
        if self._is_noted:
            self._loop.call_soon(self._next_turn)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Have something called at the end of this turn: it does not wait behind a piece."""
        if self._is_scheduled:
            self._first.append(callback)
        else:
            self._loop.call_soon(callback)

    def finish(self) -> None:
        """Do all pieces now, also those that they add: there will be no more turns."""
        while self._pieces:
            self._pieces.pop()()

    def _do_one(self) -> None:
        first, self._first = self._first, []
        for callback in first:
            callback()
        piece = self._pieces.pop() if self._pieces else None  # `finish` may have done all
        self._is_scheduled = bool(self._pieces or self._first)
        if self._is_scheduled:
            self._loop.call_soon(self._do_one)
        if piece is not None:
            piece()
