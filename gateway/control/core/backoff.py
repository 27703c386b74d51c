"""How long to wait before a worker or a task that ended is started again.

At once the first time, then after 1, 2, 4 … 30 s, and at once again after a life of a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FIRST_S: Final = 1.0
LONGEST_S: Final = 30.0
STEADY_S: Final = 60.0
"""After a life of this length the cause is taken to be gone."""


class Backoff:
    """The waits of one worker or task. `clock` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.deaths = 0
        """Lives in a row that ended before they were steady."""
        self._next_s = 0.0
        self._started: float | None = None

    def started(self) -> None:
        """Note that a new life begins."""
        self._started = self._clock()

    def delay_s(self) -> float:
        """Return how many seconds to wait after the life that just ended."""
        if self._started is not None and self._clock() - self._started >= STEADY_S:
            self._next_s = 0.0
            self.deaths = 0
        self.deaths += 1
        delay = self._next_s
        self._next_s = min(LONGEST_S, max(FIRST_S, delay * 2))
        return delay
