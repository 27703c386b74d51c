"""What is remembered of requests whose items are estimated: sums of each key and signal, and the
body of a request that was chosen. `item_sampler` chooses.
"""

from __future__ import annotations

from gateway.dataplane.core import chunks
from gateway.dataplane.core.budget import Budget
from gateway.samples import MAX_SAMPLE_BYTES


class Stratum:
    """The requests of one key and signal."""

    __slots__ = (
        "bytes",
        "chosen",
        "every",
        "is_dropped",
        "key_id",
        "requests",
        "seen",
        "skip",
        "weight",
    )

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self.requests = 0
        """Accepted since the last report."""
        self.bytes = 0
        """Of their bodies."""
        self.seen = 0
        """Begun in this period."""
        self.chosen = 0
        """Chosen among those."""
        self.every = 1
        """One in so many is to be chosen."""
        self.skip = 0
        """How many are not, before the next one is."""
        self.weight = 1
        """How many requests that one stands for: `every` when `skip` was drawn."""
        self.is_dropped = False
        """Whether it is known no more, because nothing came for long."""


class TakenBody:
    """The body of a chosen request, as it passes. It is charged to the worker's memory account."""

    __slots__ = ("_budget", "_chunks", "_is_given_up", "_length", "weight")

    def __init__(self, budget: Budget, weight: int) -> None:
        self.weight = weight
        """How many requests it stands for."""
        self._budget = budget
        self._chunks: list[bytes] = []
        self._length = 0
        self._is_given_up = False

    def receive(self, chunk: bytes) -> None:
        """Remember bytes that pass, unless they are too many or memory is short."""
        if self._is_given_up:
            return
        length = len(chunk)
        budget = self._budget
        if self._length + length > MAX_SAMPLE_BYTES or budget.is_near:
            self.release()
            self._is_given_up = True
            return
        chunks.append(self._chunks, chunk)
        self._length += length
        budget.charge(length)

    def take(self) -> bytes | None:
        """Return the whole body; None where it was given up."""
        if self._is_given_up:
            return None
        held = self._chunks
        return held[0] if len(held) == 1 else b"".join(held)

    def release(self) -> None:
        """Let go of it."""
        length, self._length = self._length, 0
        self._chunks = []
        if length:
            self._budget.release(length)
