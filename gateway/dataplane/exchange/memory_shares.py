"""Who may begin a request while much of the worker's memory is held.

Three quarters of `limits.buffer_memory` are for whoever comes. The rest is kept for senders that
hold little: one whose bodies wait, or who takes no answers, cannot have all the others refused.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from gateway.dataplane.core.context import WorkerContext

_SHARE: Final = 4
"""A sender may begin while it holds no more than this part of the reserve."""


class MemoryShares:
    """What each sender holds, counted anew at most once in a tick, and only near the limit."""

    __slots__ = ("_context", "_counted_at", "_held", "_most")

    def __init__(self, context: WorkerContext) -> None:
        budget = context.budget
        self._context = context
        self._held: defaultdict[str, int] = defaultdict(int)
        self._counted_at = -1.0
        self._most = (budget.limit - budget.near) // _SHARE

    def may_begin(self, sender: str) -> bool:
        """Whether one more request of `sender` may begin, although `Budget.near` is reached."""
        context = self._context
        if context.budget.used >= context.budget.limit:
            return False
        if self._counted_at != context.tick:
            self._counted_at = context.tick
            self._recount()
        return self._held.get(sender, 0) <= self._most

    def _recount(self) -> None:
        held = self._held
        held.clear()
        for connection in self._context.connections:
            for sender, length in connection.holdings():
                held[sender] += length
