"""Accepted connections of one of control's own addresses, before anything is done for them.

Each takes the loop half a millisecond. So one is begun in a turn of the loop, and clients take
turns: whoever opens many delays nobody else. One that only takes the place of another one of its
own client is in no hurry, and waits until others have had time.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

MOST_WAITING: Final = 256
"""Beyond these the client with the most loses its oldest, unanswered."""
REST_S: Final = 0.002
"""How long a client's next one waits when one has taken the place of another one of its own."""


class Newcomers:
    """`begin` begins a client's connection, and returns whether the client rests then; `on_lost`
    is called for each that is closed because there are too many.
    """

    def __init__(
        self, begin: Callable[[str, socket.socket], bool], on_lost: Callable[[], None]
    ) -> None:
        self._begin = begin
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._waiting: OrderedDict[str, deque[socket.socket]] = OrderedDict()
        self._count = 0
        self._resting: dict[str, asyncio.TimerHandle] = {}
        self._is_due = False

    def __len__(self) -> int:
        """Count those that wait."""
        return self._count

    def add(self, client: str, sock: socket.socket) -> None:
        """Have a connection wait for its client's turn."""
        if self._count >= MOST_WAITING:
            crowded = max(self._waiting, key=lambda each: len(self._waiting[each]))
            self._take(crowded).close()
            self._on_lost()
        self._waiting.setdefault(client, deque()).append(sock)
        self._count += 1
        self._schedule()

    def close(self) -> None:
        """Close all that wait."""
        while self._waiting:
            self._take(next(iter(self._waiting))).close()
        for timer in self._resting.values():
            timer.cancel()
        self._resting.clear()

    def _take(self, client: str) -> socket.socket:
        """Take a client's oldest; the others are behind those of other clients."""
        socks = self._waiting[client]
        sock = socks.popleft()
        self._count -= 1
        if socks:
            self._waiting.move_to_end(client)
        else:
            del self._waiting[client]
        return sock

    def _schedule(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._begin_one)

    def _begin_one(self) -> None:
        self._is_due = False
        client = next((each for each in self._waiting if each not in self._resting), None)
        if client is None:
            return
        if self._begin(client, self._take(client)):
            self._resting[client] = self._loop.call_later(REST_S, self._rested, client)
        if self._waiting:
            self._schedule()

    def _rested(self, client: str) -> None:
        del self._resting[client]
        self._schedule()
