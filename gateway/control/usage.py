"""Per-key traffic: series for the 1,000 busiest keys, one sum for all others.

Counters must never go down, so what a key sent while it had no series of its own stays in `other`
for ever, and a key that gets a series starts at 0. Which keys have one is decided again each minute
by recent traffic, with some inertia, so that series do not come and go. Memory is bounded: of at
most `CANDIDATES` keys without a series is anything remembered. What outlives the process (when a
key was last used) is kept by the key service, not here.
"""

from __future__ import annotations

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
class Traffic:
    """Requests and bytes of request bodies, by outcome."""

    requests: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    def add(self, usage: Usage) -> None:
        """Add what a worker reported."""
        outcome = usage.outcome
        self.requests[outcome] = self.requests.get(outcome, 0) + usage.requests
        self.bytes[outcome] = self.bytes.get(outcome, 0) + usage.bytes


class KeyTraffic:
    """The traffic of all keys since the start."""

    def __init__(self, busiest: int = BUSIEST, candidates: int = CANDIDATES) -> None:
        self._busiest = busiest
        self._candidates = candidates
        self.keys: dict[str, Traffic] = {}
        """Key id → its traffic since it has a series."""
        self.other = Traffic()
        self._recent: dict[str, float] = {}
        """Key id → requests, older ones counting less: what elections go by."""

    def add(self, usages: Iterable[Usage]) -> None:
        """Add a worker's report."""
        for usage in usages:
            self._note(usage)
            traffic = self.keys.get(usage.key_id)
            if traffic is None and len(self.keys) < self._busiest:
                traffic = self.keys[usage.key_id] = Traffic()
            (self.other if traffic is None else traffic).add(usage)

    def elect(self) -> None:
        """Give the series of keys that went quiet to busier ones. Called every `ELECTION_S`."""
        recent = self._recent
        rivals = sorted((key for key in recent if key not in self.keys), key=recent.__getitem__)
        holders = sorted(self.keys, key=lambda key: recent.get(key, 0.0))
        for holder in holders:
            if not rivals or recent[rivals[-1]] <= INERTIA * recent.get(holder, 0.0):
                break
            del self.keys[holder]
            self.keys[rivals.pop()] = Traffic()
        self._recent = {key: value * _DECAY for key, value in recent.items() if value > _DECAY}

    def _note(self, usage: Usage) -> None:
        recent = self._recent
        known = recent.get(usage.key_id)
        if known is None and len(recent) >= self._busiest + self._candidates:
            return  # the next election makes room
        recent[usage.key_id] = (known or 0.0) + usage.requests
