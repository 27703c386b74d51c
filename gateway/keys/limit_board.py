"""Where gateways that share their keys' limits tell each other what they need (`limits.scope`).

What a report says is its writer's and reader's business (`control.limits.reports`). Here stands
what a board is, and the one that a gateway keeps in its own memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

FRESH_S: Final = 5.0
"""A gateway that has written nothing for so long has no part in the limits any more."""
MOST_GATEWAYS: Final = 1_000
"""Gateways that one board in memory knows at once."""


class LimitBoard(Protocol):
    """What all gateways that share a store can write and read."""

    async def exchange(self, name: str, report: bytes) -> Mapping[str, bytes]:
        """Write this gateway's report; return those of the others that are `FRESH_S` old at most.

        `name` is this gateway's among them. Raises `StoreError`.
        """

    async def leave(self, name: str) -> None:
        """Take the report away. Raises `StoreError`."""

    async def close(self) -> None:
        """Let go of connections."""


class MemoryBoard:
    """A board for this gateway and for those that follow its keys."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reports: dict[str, tuple[float, bytes]] = {}

    async def exchange(self, name: str, report: bytes) -> Mapping[str, bytes]:
        """See `LimitBoard`."""
        now = self._clock()
        self._reports.pop(name, None)
        self._reports[name] = (now, report)
        for other, (written, _) in list(self._reports.items()):
            if now - written > FRESH_S or len(self._reports) > MOST_GATEWAYS:
                del self._reports[other]
        return {other: found for other, (_, found) in self._reports.items() if other != name}

    async def leave(self, name: str) -> None:
        """See `LimitBoard`."""
        self._reports.pop(name, None)

    async def close(self) -> None:
        """See `LimitBoard`: there is nothing."""
