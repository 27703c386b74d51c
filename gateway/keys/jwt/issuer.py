"""An issuer's keys in memory: fetched, fetched again, and kept while the issuer is away.

"No" and "cannot tell" are never confused. A key that is not here may have been made a moment ago,
even under a name that another one had: only a set that was asked for after a token came can say
that none of the issuer's keys has signed it. Until then, and while the issuer is away, nobody can
tell. Fetches are bounded: one at a time, `AGAIN_S` apart, whatever tokens come.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Final

from cachetools import TTLCache

from gateway.keys.jwt.issuer_client import FetchResult, IssuerClient, IssuerError
from gateway.keys.jwt.issuer_keys import IssuerKey, KeySet, KeySetError, parse_key_set
from gateway.keys.jwt.token import Fault, IssuerRules, Token, TokenError, signer_of

AGAIN_S: Final = 5.0
"""Least time between two fetches, in seconds."""
MAX_PAUSE_S: Final = 60.0
"""Most time between two fetches while they fail."""
JITTER: Final = 0.1
_MISSED: Final = 1_000
_MISSED_S: Final = 60.0


class CannotTellError(Exception):
    """Nobody can tell now which key has signed a token."""


class Issuer:
    """One issuer. Made inside the event loop; `run` must run beside it.

    `on_fetch` gets how many seconds each fetch took, and None where it brought keys, else the
    error. `on_keys` is called when the keys are others than before.
    """

    def __init__(
        self,
        rules: IssuerRules,
        client: IssuerClient,
        *,
        refresh_s: float,
        max_stale_s: float,
        on_fetch: Callable[[float, IssuerError | None], None] = lambda *_: None,
        on_keys: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = rules
        self.client = client
        self.content = b""
        """The key set as it was last sent; empty before."""
        self._refresh_s = refresh_s
        self.max_age_s = refresh_s * (1 + JITTER) + AGAIN_S + max_stale_s
        """How old the keys may be: until they should be here anew, and `max_stale_s` beyond."""
        self._on_fetch = on_fetch
        self._on_keys = on_keys
        self._clock = clock
        self._keys: KeySet | None = None
        self._known_at = 0.0
        """When the fetch began that brought the keys."""
        self._tried_at = -AGAIN_S
        self._failures = 0
        self._fetching: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._begun = 0
        """How many fetches have begun."""
        self._known_by = 0
        """Which of them brought the keys."""
        self._missed: TTLCache[bytes, int] = TTLCache(_MISSED, _MISSED_S, clock)
        """Digest of a token that no key here has signed → fetches begun when it came first."""

    @property
    def keys(self) -> KeySet | None:
        """The keys; None where there are none, or none that are young enough."""
        if self._keys is None or self._clock() - self._known_at > self.max_age_s:
            return None
        return self._keys

    @property
    def age_s(self) -> float:
        """How old the keys are, in seconds."""
        return self._clock() - self._known_at

    def restore(self, content: bytes, age_s: float) -> None:
        """Use keys that were fetched `age_s` seconds ago, before this start; wrong ones are not."""
        with contextlib.suppress(KeySetError):
            self._keys = parse_key_set(content, self.rules.algorithms)
            self.content = content
            self._known_at = self._clock() - max(0.0, age_s)

    def signer_of(self, token: Token) -> IssuerKey | None:
        """Return the key here that has signed a token, without asking."""
        return signer_of(token, self._named_by(token))

    async def find_signer(self, token: Token, digest: bytes) -> IssuerKey:
        """Return the key that has signed a token, asking the issuer where it is needed.

        `digest` is the token's. Raises `TokenError` where there is no such key, `CannotTellError`.
        """
        begun_before = self._missed.setdefault(digest, self._begun)
        if self._clock() - self._tried_at >= AGAIN_S or self._fetching is not None:
            await self.refresh()
        signer = self.signer_of(token)
        if signer is not None:
            return signer
        if self.keys is None or self._known_by <= begun_before:
            self._wanted.set()
            raise CannotTellError
        raise TokenError(Fault.SIGNATURE if self._named_by(token) else Fault.KEY)

    def _named_by(self, token: Token) -> list[IssuerKey]:
        keys = self.keys
        return [] if keys is None else keys.find(token.kid, token.algorithm)

    async def refresh(self) -> None:
        """Fetch the keys, or join a fetch that is under way. What comes of it is reported."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())
            self._fetching.add_done_callback(self._fetched)
        await asyncio.shield(self._fetching)

    async def run(self) -> None:
        """Fetch again and again: every `refresh_s`, sooner while it fails or a key is missed."""
        while True:
            if self._clock() - self._tried_at >= AGAIN_S or self._fetching is not None:
                self._wanted.clear()
                await self.refresh()
            await asyncio.sleep(AGAIN_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s() - AGAIN_S):
                    await self._wanted.wait()

    async def close(self) -> None:
        """End a fetch that is under way, and close the connections."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        await self.client.close()

    def _pause_s(self) -> float:
        pause_s = self._refresh_s
        if self._failures:
            pause_s = min(AGAIN_S * 2 ** min(self._failures - 1, 8), MAX_PAUSE_S, pause_s)
        spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
        return max(AGAIN_S, pause_s * spread)

    def _fetched(self, _: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        began = self._tried_at = self._clock()
        self._begun += 1
        number = self._begun
        try:
            content = await self.client.fetch()
            keys = _parse(content, self.rules)
        except IssuerError as error:
            self._failures += 1
            self._on_fetch(self._clock() - began, error)
            return
        before, self._keys = self._keys, keys
        self._known_at, self._known_by, self._failures = began, number, 0
        self.content = content
        self._on_fetch(self._clock() - began, None)
        if before is None or before.thumbprints != keys.thumbprints:
            self._on_keys()


def _parse(content: bytes, rules: IssuerRules) -> KeySet:
    try:
        return parse_key_set(content, rules.algorithms)
    except KeySetError as error:
        msg = f"{rules.url}: its keys cannot be used: {error}"
        raise IssuerError(FetchResult.UNEXPECTED, msg) from None
