"""How long to wait before something that died is started again.

A pure rule over an injected clock: at once the first time, then 1, 2, 4 … 30 s, and from the start
again once it has lived for a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FIRST_S: Final = 1.0
LONGEST_S: Final = 30.0
STEADY_S: Final = 60.0
"""A life of this length says that the cause has gone."""


class Backoff:
    """The waits of one thing that is restarted. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next_s = 0.0
        self._started: float | None = None

    def started(self) -> None:
        """Note that a new life begins."""
        self._started = self._clock()

    def delay_s(self) -> float:
        """Say how many seconds to wait after the life that just ended."""
        if self._started is not None and self._clock() - self._started >= STEADY_S:
            self._next_s = 0.0
        delay = self._next_s
        self._next_s = min(LONGEST_S, max(FIRST_S, delay * 2))
        return delay
