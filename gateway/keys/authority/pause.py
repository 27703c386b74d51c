"""When an authority that fails again and again is left in peace for a while."""

from __future__ import annotations

import time
from collections.abc import Callable


class PauseAfterFailures:
    """A pause of `pause_s` seconds after `failures` in a row.

    After the pause the first success ends it for good; another failure begins the next one at once.
    `clock` returns monotonic seconds.
    """

    def __init__(
        self, failures: int, pause_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = failures
        self._pause_s = pause_s
        self._clock = clock
        self._in_a_row = 0
        self._ends_at = clock()

    @property
    def is_on(self) -> bool:
        """Whether nothing is to be asked now."""
        return self._clock() < self._ends_at

    def failed(self) -> None:
        """Count a failure. One of a question that was asked before the pause makes it longer."""
        self._in_a_row += 1
        if self._in_a_row >= self._most:
            self._ends_at = self._clock() + self._pause_s

    def succeeded(self) -> None:
        """Forget the failures, and end the pause."""
        self._in_a_row = 0
        self._ends_at = self._clock()
