"""Lines of a worker's log on their way to control, which exports them."""

from __future__ import annotations

from collections import deque
from typing import Final

from gateway.channel import Logged, LogLine

MAX_HELD: Final = 100
"""Lines between two reports, which are a second apart."""


class HeldLines:
    """See the module. Any thread may log; the event loop's hands over."""

    def __init__(self) -> None:
        self._lines: deque[LogLine] = deque()
        self._dropped = 0

    def take(self, line: LogLine) -> None:
        """Keep a line, unless there are too many."""
        if len(self._lines) >= MAX_HELD:
            self._dropped += 1
        else:
            self._lines.append(line)

    def hand_over(self) -> Logged | None:
        """Return what has been logged since the last call, None if that is nothing."""
        dropped, self._dropped = self._dropped, 0
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        return Logged(lines, dropped) if lines or dropped else None
