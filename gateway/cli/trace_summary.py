"""What `gateway trace` says at its end: how many requests it has shown, and what became of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from gateway.config.units import duration_text

_ACCEPTED = "accepted"


class TraceSummary:
    """Counts requests by result; those that were refused also by the verdict on their key."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._results: Counter[str] = Counter()
        self._left_out = 0

    def add(self, result: str, outcome: str) -> None:
        """Count a request that was shown."""
        is_refusal = outcome not in {"", "allowed"} and result != _ACCEPTED
        self._results[f"{result} ({outcome})" if is_refusal else result] += 1

    def leave_out(self, number: int) -> None:
        """Count requests that were not shown."""
        self._left_out += number

    def text(self) -> str:
        """Return the sum in words."""
        total = self._results.total()
        seconds = max(1, round(self._clock() - self._began))
        head = f"{total} request{'s' * (total != 1)} in {duration_text(seconds)}"
        parts = [f"{count} {name}" for name, count in self._results.most_common()]
        if self._left_out:
            parts.append(f"{self._left_out} more left out")
        return f"{head}: {', '.join(parts)}" if parts else f"no requests in {head.split(' in ')[1]}"
