"""Stores that are away: their keys are decided on for `max_stale`, unknown keys may exist.

While a remote store is away its known keys are served, later no longer decided on; a key that is
not known may exist, so it is no definite no (`KeyDelta.complete`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from gateway.keys.following.follower import StoreFollower
from gateway.keys.following.registry import Registry
from gateway.keys.record import KeyDelta

AGE_S: Final = 1.0
"""Time between two looks at how long stores have been away."""


class Staleness:
    """Watches how long stores are away, and reports (`on_delta`) what workers must know of it."""

    def __init__(
        self,
        followers: Sequence[StoreFollower],
        registry: Registry,
        max_stale_s: float,
        on_delta: Callable[[KeyDelta], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._followers = followers
        self._registry = registry
        self._max_stale_ms = round(max_stale_s * 1000)
        self._on_delta = on_delta
        self._now_ms = now_ms

    def check_completeness(self) -> None:
        """Look whether all stores are up and none is cut off: then unknown keys exist nowhere."""
        remote = [each.status for each in self._followers if each.store.feed.is_remote]
        is_complete = all(status.up and not status.cut_off for status in remote)
        delta = self._registry.set_complete(is_complete=is_complete)
        if delta is not None:
            self._on_delta(delta)

    async def check_ages(self) -> None:
        """Stop deciding on keys whose store was away for too long, or begin again."""
        for follower in self._followers:
            status = follower.status
            age_ms = self._now_ms() - status.last_sync_ms
            is_away = follower.store.feed.is_remote and not status.up
            is_over = is_away and age_ms > self._max_stale_ms
            if is_over == status.suspended:
                continue
            status.suspended = is_over
            for delta in self._registry.suspend(follower.number, is_suspended=is_over):
                self._on_delta(delta)
                await asyncio.sleep(0)

    async def run(self) -> None:
        """Check ages for ever."""
        while True:
            await self.check_ages()
            await asyncio.sleep(AGE_S)
