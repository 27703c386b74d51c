"""What is said of tokens: each is checked once, and remembered by its digest until it expires.

Both caches are bounded, and so is how many tokens a second are checked: beyond it they are
undecided, never denied. When an issuer's keys change, what was said because of a key that is gone,
or of one that was missing, is forgotten, here and in the workers (`on_change`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from cachetools import TLRUCache

from gateway.keys.jwt.issuer import CannotTellError, Issuer
from gateway.keys.jwt.issuer_keys import IssuerKey
from gateway.keys.jwt.token import (
    Accepted,
    Fault,
    Token,
    TokenError,
    check_claims,
    read_token,
    valid_from,
)
from gateway.keys.tenancy import Tenancy
from gateway.model import Principal

MAX_S: Final = 3_600.0
"""A token is checked anew after so many seconds, though it is valid for longer: workers may hold a
verdict that is no longer remembered here, and that a change of keys does not reach.
"""


class TokenLimits(NamedTuple):
    """Sizes are tokens, the time is seconds, the rate is per second (0 = unlimited)."""

    size: int
    negative_size: int
    negative_ttl_s: float
    rate: float


class TokenVerdict(NamedTuple):
    """What is known of a token now. Neither principal nor refusal: nobody can tell."""

    principal: Principal | None = None
    refusal: str = ""
    """The reason in `outcome.REFUSALS`."""
    fresh_s: float = 0.0
    """For how long it holds, in seconds."""
    is_cached: bool = False
    tenancy: Tenancy | None = None
    """Whose data the sender sends; `principal` has no tenant, which depends on workers' settings.
    """


UNDECIDED: Final = TokenVerdict()


class TokenObserver(Protocol):
    """What counts what happens. `kind` is positive or negative."""

    def hit(self, kind: str) -> None:
        """A cache had the answer."""

    def miss(self, kind: str) -> None:
        """A cache did not have it."""

    def coalesced(self, kind: str) -> None:
        """A check joined one that was under way."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A verdict that is remembered. Times are of the clock."""

    verdict: TokenVerdict
    until: float
    issuer: str = ""
    thumbprint: str = ""
    """Of the key that has signed it; empty where none is known that has."""


class TokenVerdicts:
    """Verdicts on tokens of several issuers."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        limits: TokenLimits,
        observer: TokenObserver,
        on_change: Callable[[list[bytes]], None],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuers = {issuer.rules.url: issuer for issuer in issuers}
        self._limits = limits
        self._observer = observer
        self._on_change = on_change
        self._clock = clock
        self._wall_clock = wall_clock
        self._positive: TLRUCache[bytes, _Known] = TLRUCache(
            limits.size, lambda _, known, __: known.until, clock
        )
        self._negative: TLRUCache[bytes, _Known] = TLRUCache(
            limits.negative_size, lambda _, known, __: known.until, clock
        )
        self._left = max(1.0, limits.rate)
        self._filled_at = clock()
        self._checking: dict[bytes, asyncio.Task[TokenVerdict]] = {}

    def entries(self) -> dict[str, int]:
        """Count what is remembered, by kind."""
        return {"positive": int(self._positive.currsize), "negative": int(self._negative.currsize)}

    def look_up(self, digest: bytes, text: str) -> TokenVerdict | Awaitable[TokenVerdict]:
        """Return the verdict on a token, at once unless an issuer must be asked for its keys."""
        for kind, cache in (("positive", self._positive), ("negative", self._negative)):
            known = cache.get(digest)
            if known is not None:
                self._observer.hit(kind)
                fresh_s = known.until - self._clock()
                return known.verdict._replace(fresh_s=fresh_s, is_cached=True)
        checking = self._checking.get(digest)
        if checking is not None:
            return self._join(checking)
        self._observer.miss("positive")
        self._observer.miss("negative")
        if not self._take():
            return UNDECIDED
        return self._check(digest, text)

    def keys_changed(self, issuer: Issuer) -> None:
        """Forget what no longer holds, because an issuer has other keys."""
        keys, url = issuer.keys, issuer.rules.url
        thumbprints = keys.thumbprints if keys is not None else frozenset()
        gone = [
            (cache, digest)
            for cache in (self._positive, self._negative)
            for digest, known in list(cache.items())
            if known.issuer == url and known.thumbprint not in thumbprints
        ]
        for cache, digest in gone:
            cache.pop(digest, None)
        if gone:
            self._on_change([digest for _, digest in gone])

    async def close(self) -> None:
        """Check no more."""
        checking = list(self._checking.values())
        for task in checking:
            task.cancel()
        await asyncio.gather(*checking, return_exceptions=True)

    def _check(self, digest: bytes, text: str) -> TokenVerdict | Awaitable[TokenVerdict]:
        issuer: Issuer | None = None
        try:
            token = read_token(text)
            issuer = self._issuers.get(token.issuer)
            if issuer is None:
                raise TokenError(Fault.ISSUER)  # noqa: TRY301 - one place turns refusals into verdicts
            if token.algorithm not in issuer.rules.algorithms:
                raise TokenError(Fault.ALGORITHM)  # noqa: TRY301 - as above
            signer = issuer.signer_of(token)
            if signer is not None:
                return self._checked(digest, token, issuer, signer)
        except TokenError as error:
            return self._deny(digest, error.fault)
        checking = asyncio.create_task(self._ask(digest, token, issuer))
        self._checking[digest] = checking
        checking.add_done_callback(lambda _: self._checking.pop(digest, None))
        return asyncio.shield(checking)

    async def _ask(self, digest: bytes, token: Token, issuer: Issuer) -> TokenVerdict:
        """Check a token that no key here has signed."""
        try:
            signer = await issuer.find_signer(token, digest)
        except CannotTellError:
            return UNDECIDED
        except TokenError as error:
            return self._deny(digest, error.fault, issuer)
        return self._checked(digest, token, issuer, signer)

    async def _join(self, checking: asyncio.Task[TokenVerdict]) -> TokenVerdict:
        verdict = await asyncio.shield(checking)
        if verdict is not UNDECIDED:
            self._observer.coalesced("negative" if verdict.refusal else "positive")
        return verdict

    def _checked(
        self, digest: bytes, token: Token, issuer: Issuer, signer: IssuerKey
    ) -> TokenVerdict:
        now = self._wall_clock()
        try:
            accepted = check_claims(token, issuer.rules, signer, now)
        except TokenError as error:
            ttl_s = self._limits.negative_ttl_s
            if error.fault is Fault.NOT_YET_VALID:
                ttl_s = min(ttl_s, valid_from(token, issuer.rules) - now)
            return self._deny(digest, error.fault, issuer, signer.thumbprint, ttl_s)
        return self._allow(digest, accepted, issuer, accepted.until - now)

    def _allow(
        self, digest: bytes, accepted: Accepted, issuer: Issuer, left_s: float
    ) -> TokenVerdict:
        fresh_s = min(left_s, MAX_S)
        verdict = TokenVerdict(accepted.principal, fresh_s=fresh_s, tenancy=accepted.tenancy)
        until = self._clock() + verdict.fresh_s
        self._positive[digest] = _Known(verdict, until, issuer.rules.url, accepted.thumbprint)
        return verdict

    def _deny(
        self,
        digest: bytes,
        fault: Fault,
        issuer: Issuer | None = None,
        thumbprint: str = "",
        ttl_s: float | None = None,
    ) -> TokenVerdict:
        verdict = TokenVerdict(
            refusal=fault.value, fresh_s=self._limits.negative_ttl_s if ttl_s is None else ttl_s
        )
        url = issuer.rules.url if issuer is not None else ""
        until = self._clock() + verdict.fresh_s
        self._negative[digest] = _Known(verdict, until, url, thumbprint)
        return verdict

    def _take(self) -> bool:
        """Take one of this second's checks, if there is one left."""
        rate, now = self._limits.rate, self._clock()
        if not rate:
            return True
        self._left = min(max(1.0, rate), self._left + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
