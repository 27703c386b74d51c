"""Where it is kept how much keys have used of their quotas: sums by key and period.

A period is a day or a month of UTC, written `2026-11-30` or `2026-11`. Keys are named by hashes of
their ids (`quota_layout.owner_of`), 14 bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol


class QuotaUse(NamedTuple):
    """What a key has sent. What is added may be negative: less came than was announced."""

    requests: int = 0
    bytes: int = 0

    def plus(self, other: QuotaUse) -> QuotaUse:
        """Return the sum of both."""
        return QuotaUse(self.requests + other.requests, self.bytes + other.bytes)


Totals = Mapping[tuple[bytes, str], QuotaUse]
"""(key, period) → the sum; a missing one is 0."""


class QuotaStore(Protocol):
    """Where sums are kept, beyond a restart."""

    async def add(
        self, used: Mapping[bytes, QuotaUse], asked: Collection[bytes], periods: Collection[str]
    ) -> Totals:
        """Add what keys have used to each of the periods, then return the sums of `asked` in them.

        Raises `StoreError`; then nothing was added, or an acknowledgement was lost.
        """

    async def close(self) -> None:
        """Let go of files and connections."""
