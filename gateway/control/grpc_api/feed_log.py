"""What has changed lately, for those who follow the keys: which digests, since which revision."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from typing import Final

from gateway.keys.record import KeyDelta

MOST_DIGESTS: Final = 200_000
"""What is remembered; who is further behind reads everything again."""


class FeedLog:
    """The log of one run of the gateway, from `revision` of its own count on."""

    def __init__(self, revision: int, most_digests: int = MOST_DIGESTS) -> None:
        self.history: Final = secrets.token_hex(16)
        self.revision = revision
        """Of the newest change."""
        self._since = revision
        """What changed after it is remembered."""
        self._most_digests = most_digests
        self._changes: deque[tuple[int, list[bytes]]] = deque()
        self._digests = 0
        self._followers: set[asyncio.Event] = set()

    def note(self, delta: KeyDelta) -> None:
        """Take note of a change (a subscriber of `KeyService`)."""
        digests = [digest for digest, _ in delta.upserts] + delta.removals
        self._changes.append((delta.revision, digests))
        self._digests += len(digests)
        while self._digests > self._most_digests:
            self._since, dropped = self._changes.popleft()
            self._digests -= len(dropped)
        self.revision = delta.revision
        for follower in self._followers:
            follower.set()

    def after(self, position: int) -> list[bytes] | None:
        """Return what changed after a revision; None where that is not known (any more)."""
        if not self._since <= position <= self.revision:
            return None
        newest: list[list[bytes]] = []
        for revision, digests in reversed(self._changes):
            if revision <= position:
                break
            newest.append(digests)
        return list(dict.fromkeys(digest for digests in reversed(newest) for digest in digests))

    def follow(self) -> asyncio.Event:
        """Return an event that each change sets, until `leave`."""
        event = asyncio.Event()
        self._followers.add(event)
        return event

    def leave(self, event: asyncio.Event) -> None:
        """Set the event no more."""
        self._followers.discard(event)

    @property
    def followers(self) -> int:
        """How many follow now."""
        return len(self._followers)
