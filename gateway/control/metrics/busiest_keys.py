"""Per-key traffic: series for the 1,000 busiest keys, one sum for all others.

Counters must never go down, so what a key sent while it had no series of its own stays in `other`,
and a key that gets a series starts at 0. An election each minute decides by recent traffic which
keys have a series, with some inertia, so that series do not flap. Memory is bounded: at most
`CANDIDATES` keys without a series are remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from gateway.channel import Usage

BUSIEST: Final = 1_000
CANDIDATES: Final = 10_000
OTHER: Final = "other"
"""The `key_id` of all keys without a series of their own."""
ELECTION_S: Final = 60.0
INERTIA: Final = 2.0
"""How many times busier a newcomer must be than the key whose series it takes."""
_DECAY: Final = 0.5


@dataclass(slots=True)
class KeyTotals:
    """Requests and bytes of request bodies, by outcome."""

    requests: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    def add(self, usage: Usage) -> None:
        """Add what a worker reported."""
        outcome = usage.outcome
        self.requests[outcome] = self.requests.get(outcome, 0) + usage.requests
        self.bytes[outcome] = self.bytes.get(outcome, 0) + usage.bytes


class BusiestKeys:
    """The traffic of all keys since the start. `run` must run beside it."""

    def __init__(self, busiest: int = BUSIEST, candidates: int = CANDIDATES) -> None:
        self._busiest = busiest
        self._candidates = candidates
        self.keys: dict[str, KeyTotals] = {}
        """Key id → its traffic since it got its series."""
        self.other = KeyTotals()
        self._recent: dict[str, float] = {}
        """Key id → requests, older ones counting less: what elections go by."""

    def add(self, usages: Iterable[Usage]) -> None:
        """Add a worker's report."""
        for usage in usages:
            self._note(usage)
            traffic = self.keys.get(usage.key_id)
            if traffic is None and len(self.keys) < self._busiest:
                traffic = self.keys[usage.key_id] = KeyTotals()
            (self.other if traffic is None else traffic).add(usage)

    async def run(self) -> None:
        """Elect every `ELECTION_S` seconds, for ever."""
        while True:
            await asyncio.sleep(ELECTION_S)
            self.elect()

    def elect(self) -> None:
        """Move the series of keys that went quiet to busier ones."""
        recent = self._recent
        rivals = sorted((key for key in recent if key not in self.keys), key=recent.__getitem__)
        holders = sorted(self.keys, key=lambda key: recent.get(key, 0.0))
        for holder in holders:
            if not rivals or recent[rivals[-1]] <= INERTIA * recent.get(holder, 0.0):
                break
            del self.keys[holder]
            self.keys[rivals.pop()] = KeyTotals()
        self._recent = {key: value * _DECAY for key, value in recent.items() if value > _DECAY}

    def _note(self, usage: Usage) -> None:
        recent = self._recent
        known = recent.get(usage.key_id)
        if known is None and len(recent) >= self._busiest + self._candidates:
            return  # the next election makes room
        recent[usage.key_id] = (known or 0.0) + usage.requests
