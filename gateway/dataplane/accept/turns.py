"""Whose connection is begun next, and whose TLS handshake is computed next.

The loop has one thread: a connection takes a tenth of a millisecond of it before its first byte is
read, and a step of a handshake up to some milliseconds. So clients take turns one by one, however
many connections of one have arrived, and a turn of the loop does only so much of it. Of a handshake
only what has all its bytes here waits for a turn: what a client leaves half-open holds no place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from gateway.dataplane.core.client_queue import ClientQueue

TURN_S: Final = 0.002
"""After so many seconds of computing the loop turns to everything else first,"""
TURN_STEPS: Final = 8
"""and after so many steps: what they begin goes on in later turns, all of it in the same ones."""


class ClientTurns:
    """The steps that wait, by client. A step must not mind being late."""

    __slots__ = ("_clock", "_loop", "_waiting")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._waiting: ClientQueue[Callable[[], None]] = ClientQueue()

    def add(self, client: str, step: Callable[[], None]) -> None:
        """Have a step done in a later turn, behind those of this client that wait already."""
        if not self._waiting:
            self._loop.call_soon(self._do_some)
        self._waiting.add(client, step)

    def _do_some(self) -> None:
        waiting = self._waiting
        ends_at = self._clock() + TURN_S
        for number in range(TURN_STEPS):
            if number and self._clock() >= ends_at:
                break
            step = waiting.pop()
            is_last = not waiting  # else whatever the step adds is not the first that waits
            try:
                step()
            except BaseException:
                if not is_last:
                    self._loop.call_soon(self._do_some)
                raise
            if is_last:
                return
        self._loop.call_soon(self._do_some)
