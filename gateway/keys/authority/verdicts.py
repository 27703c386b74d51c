"""What remote authorities have said about keys, and what to say while they say nothing.

"No" and "cannot tell" are never confused: a known key is served stale while its authority cannot be
reached, up to `max_stale_s`, and an unknown one is undecided. Keys are held by their digests only.
All is bounded: both caches, the questions about unknown keys per second, one question per key.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from cachetools import TLRUCache

from gateway.keys.authority.client import AuthorityError

JITTER: Final = 0.1
REFRESH_AT: Final = 0.75
"""Part of a verdict's time after which it is asked for again while it is used."""
RETRY_S: Final = 5.0
"""After how long the authority is tried again while its verdict is used beyond its time."""
DOUBT_S: Final = 5.0
"""A verdict younger than this is not doubted: the backend may refuse for reasons of its own."""

_STEP: Final = 5_000
"""Keys that are listed in one turn of the event loop."""

Why = Literal["unknown", "refresh", "doubt"]


class KeyVerdict(NamedTuple):
    """What is known of a key now. Times are seconds from now."""

    verdict: Literal["allowed", "denied", "undecided"]
    source: Literal["cache", "stale", "authority"]
    fresh_s: float = 0.0
    """For how long it holds without asking again."""
    refresh_s: float = 0.0
    """After how long it should be asked for again while it is used."""


UNDECIDED: Final = KeyVerdict("undecided", "authority")


class VerdictSource(Protocol):
    """What can be asked about keys."""

    async def ask(self, key: str) -> bool:
        """Return whether a key is good. Raises `AuthorityError`."""


class CacheObserver(Protocol):
    """What counts what happens. `kind` is positive or negative."""

    def hit(self, kind: str) -> None:
        """A cache had the answer."""

    def miss(self, kind: str) -> None:
        """A cache did not have it."""

    def stale(self, kind: str) -> None:
        """An answer was used beyond its time."""

    def coalesced(self, kind: str) -> None:
        """A question joined one that was under way."""


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """Sizes are keys, times seconds, the rate is per second (0 = unlimited)."""

    size: int
    ttl_s: float
    negative_size: int
    negative_ttl_s: float
    max_stale_s: float
    unknown_rate: float


@dataclass(frozen=True, slots=True)
class _Confirmed:
    """A key that an authority has said yes to. Times are of the clock."""

    at: float
    fresh_until: float
    refresh_at: float
    stale_until: float


class _Bucket:
    """Questions about unknown keys: at most `rate` a second, a second's worth at once."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._left = max(1.0, rate)
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Take one, if there is one left."""
        if not self._rate:
            return True
        self._left += (now - self._filled_at) * self._rate
        self._left = min(max(1.0, self._rate), self._left)
        self._filled_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Verdicts:
    """Verdicts on all keys that are in no snapshot.

    `authorities` are asked in order until one says yes. `on_change` gets each key (its digest)
    about which the opposite was said before.
    """

    def __init__(
        self,
        authorities: Sequence[VerdictSource],
        limits: CacheLimits,
        observer: CacheObserver,
        on_change: Callable[[bytes], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._authorities = authorities
        self._limits = limits
        self._observer = observer
        self._on_change = on_change
        self._clock = clock
        self._positive: TLRUCache[bytes, _Confirmed] = TLRUCache(
            limits.size, lambda _, known, __: known.stale_until, clock
        )
        self._negative: TLRUCache[bytes, float] = TLRUCache(
            limits.negative_size, lambda _, until, __: until, clock
        )
        self._bucket = _Bucket(limits.unknown_rate, clock())
        self._asking: dict[bytes, asyncio.Task[KeyVerdict]] = {}

    def entries(self) -> dict[str, int]:
        """Count what is remembered, by kind."""
        return {"positive": int(self._positive.currsize), "negative": int(self._negative.currsize)}

    def known(self, digest: bytes, why: Why) -> KeyVerdict | None:
        """Return what is known without asking; None where an authority must be asked."""
        now = self._clock()
        known = self._positive.get(digest)
        if known is not None:
            good_until = {
                "unknown": known.fresh_until,
                "refresh": known.refresh_at,
                "doubt": min(known.at + DOUBT_S, known.fresh_until),
            }[why]
            if now < good_until:
                self._observer.hit("positive")
                return _fresh(known, now, "cache")
            return None
        until = self._negative.get(digest)
        if until is None:
            return None
        self._observer.hit("negative")
        return KeyVerdict("denied", "cache", until - now)

    def look_up(self, digest: bytes, key: str, why: Why) -> KeyVerdict | Awaitable[KeyVerdict]:
        """Return what is known of a key, or ask. It comes at once where nothing is asked."""
        answer = self.known(digest, why)
        if answer is not None:
            return answer
        asking = self._asking.get(digest)
        if asking is not None:
            return self._join(asking)
        self._observer.miss("positive")
        self._observer.miss("negative")
        if digest not in self._positive and not self._bucket.take(self._clock()):
            return UNDECIDED
        asking = self._asking[digest] = asyncio.create_task(self._ask(digest, key))
        asking.add_done_callback(lambda _: self._asking.pop(digest, None))
        return asyncio.shield(asking)

    def restore(self, digest: bytes, age_s: float) -> None:
        """Know a key that was confirmed `age_s` seconds ago, before this start.

        It is to be asked for before it is used, unless nobody can be asked.
        """
        now = self._clock()
        stale_until = now - max(0.0, age_s) + self._limits.max_stale_s
        if now < stale_until:
            self._positive[digest] = _Confirmed(now - max(0.0, age_s), now, now, stale_until)

    async def confirmed(self) -> list[tuple[bytes, float]]:
        """List the keys that are known to be good, each with its age in seconds, in short steps."""
        ages: list[tuple[bytes, float]] = []
        for position, digest in enumerate(list(self._positive)):
            known = self._positive.get(digest)
            if known is not None:
                ages.append((digest, self._clock() - known.at))
            if position % _STEP == _STEP - 1:
                await asyncio.sleep(0)
        return ages

    async def close(self) -> None:
        """Ask no more."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _join(self, asking: asyncio.Task[KeyVerdict]) -> KeyVerdict:
        answer = await asyncio.shield(asking)
        if answer.verdict != "undecided":
            self._observer.coalesced("positive" if answer.verdict == "allowed" else "negative")
        return answer

    async def _ask(self, digest: bytes, key: str) -> KeyVerdict:
        is_good = await self._ask_all(key)
        now = self._clock()
        if is_good is None:
            return self._without_answer(digest, now)
        if is_good:
            return self._confirm(digest, now)
        return self._deny(digest, now)

    async def _ask_all(self, key: str) -> bool | None:
        """Ask in order; None when none says yes, and one cannot tell."""
        is_certain = True
        for authority in self._authorities:
            try:
                if await authority.ask(key):
                    return True
            except AuthorityError:
                is_certain = False
        return False if is_certain else None

    def _confirm(self, digest: bytes, now: float) -> KeyVerdict:
        ttl_s = _jittered(self._limits.ttl_s)
        known = _Confirmed(
            at=now,
            fresh_until=now + ttl_s,
            refresh_at=now + ttl_s * REFRESH_AT,
            stale_until=now + max(ttl_s, self._limits.max_stale_s),
        )
        if self._negative.pop(digest, None) is not None:
            self._on_change(digest)
        self._positive[digest] = known
        return _fresh(known, now, "authority")

    def _deny(self, digest: bytes, now: float) -> KeyVerdict:
        ttl_s = _jittered(self._limits.negative_ttl_s)
        if self._positive.pop(digest, None) is not None:
            self._on_change(digest)
        self._negative[digest] = now + ttl_s
        return KeyVerdict("denied", "authority", ttl_s)

    def _without_answer(self, digest: bytes, now: float) -> KeyVerdict:
        """Serve a known key all the same; another one is undecided."""
        known = self._positive.get(digest)
        if known is None:
            return UNDECIDED
        if now < known.fresh_until:
            left = known.fresh_until - now
            return KeyVerdict("allowed", "cache", left, min(left, RETRY_S))
        self._observer.stale("positive")
        return KeyVerdict("allowed", "stale", min(2 * RETRY_S, known.stale_until - now), RETRY_S)


def _jittered(seconds: float) -> float:
    """Spread what began together."""
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret


def _fresh(known: _Confirmed, now: float, source: Literal["cache", "authority"]) -> KeyVerdict:
    return KeyVerdict("allowed", source, known.fresh_until - now, max(0.0, known.refresh_at - now))
