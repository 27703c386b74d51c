"""Keys that are in no snapshot: what a remote authority said of them, and questions about others.
Tokens of identity providers, too.

Control asks the authority, or checks the token; a request waits here for the answer, and only that
request: its body is held back by flow control. The key itself is read again from the request's
head, where it stands as long as the request lives, and is kept nowhere.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, NamedTuple

from gateway import metrics
from gateway.channel import LookedUp, Lookup, Up
from gateway.dataplane.auth.keyring import NOT_HERE, Keyring
from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.credential import Credential
from gateway.dataplane.core.heads import RequestHead
from gateway.dataplane.core.memo import Memo
from gateway.dataplane.core.query_key import key_values_in
from gateway.dataplane.core.seams import VerdictWaiter
from gateway.model import Denied, Principal, Undecided, Verdict, digest_of
from gateway.settings import AuthoritySettings

MAX_ASKED: Final = 10_000
"""Keys that a worker waits for at once; requests with others are undecided."""
_UNDECIDED: Final = Undecided()


class _Allowed(NamedTuple):
    """A key that an authority allowed. Times are monotonic seconds."""

    principal: Principal
    source: str
    """The `source` label of a request that finds it here."""
    fresh_until: float
    refresh_at: float


class _Refused(NamedTuple):
    """A key or a token that was denied."""

    until: float
    """Monotonic seconds."""
    refusal: str
    """Why, of a token; empty for a key."""


_NOT_REFUSED: Final = _Refused(0.0, "")


class _Waiting(NamedTuple):
    """A request that waits for the verdict on its key."""

    waiter: VerdictWaiter
    credential: Credential
    signal_bit: int


class _Asked:
    """A key that control was asked about."""

    __slots__ = ("at", "waiting")

    def __init__(self, at: float) -> None:
        self.at = at
        self.waiting: list[_Waiting] = []


class KeyLookups:
    """What a worker knows of an authority's keys. `send` passes a message to control, or returns
    False: then nobody is asked.
    """

    def __init__(
        self,
        context: WorkerContext,
        keyring: Keyring,
        settings: AuthoritySettings,
        send: Callable[[Up], bool],
    ) -> None:
        self._context = context
        self._keyring = keyring
        self._wait_s = settings.wait_s
        self._send = send
        self._allowed: Memo[bytes, _Allowed] = Memo(settings.cache_size)
        self._denied: Memo[bytes, _Refused] = Memo(settings.negative_cache_size)
        self._asked: dict[bytes, _Asked] = {}
        self._max_asked = MAX_ASKED

    def decide(
        self, waiter: VerdictWaiter, head: RequestHead, credential: Credential, signal_bit: int
    ) -> None:
        """Have a request decided, now or later, that has a token or a key of no snapshot."""
        digest = credential.digest
        if digest is None:  # the keyring has decided on those
            return
        now = time.monotonic()
        allowed = self._allowed.kept.get(digest)
        if allowed is not None and now < allowed.fresh_until:
            self._count_hit(allowed)
            if now >= allowed.refresh_at and digest not in self._asked:
                self._ask(head, digest, "refresh", now, is_token=credential.is_token)
            if credential.is_token:
                self._keyring.accept_token(digest, _until(allowed, now))
            waiter.decided(_may_send(allowed.principal, signal_bit), allowed.source)
            return
        refused = self._denied.kept.get(digest, _NOT_REFUSED)
        if now < refused.until:
            self._context.counters.count(metrics.KEY_CACHE_HITS, "negative")
            waiter.decided(self._no(credential, refused.refusal), "cache")
            return
        asked = self._asked.get(digest) or self._ask(
            head, digest, "unknown", now, is_token=credential.is_token
        )
        if asked is None:
            waiter.decided(_UNDECIDED, "authority")
        else:
            asked.waiting.append(_Waiting(waiter, credential, signal_bit))

    def doubt(self, head: RequestHead) -> None:
        """Ask again about a key that was allowed and that the backend refused."""
        for key in keys_in(head):
            digest = digest_of(key)
            if digest in self._allowed.kept and digest not in self._asked:
                self._ask(head, digest, "doubt", time.monotonic())
                return

    def answer(self, looked_up: LookedUp) -> None:
        """Take control's answer, and let the requests go on that waited for it."""
        now = time.monotonic()
        digest = looked_up.digest
        asked = self._asked.pop(digest, None)
        verdict = self._remember(looked_up, now)
        if asked is None:
            return
        if len(asked.waiting) > 1 and verdict is not _UNDECIDED:
            kind = "negative" if isinstance(verdict, Denied) else "positive"
            joined = len(asked.waiting) - 1
            self._context.counters.plain[metrics.KEY_CACHE_COALESCED.name, (kind,)] += joined
        for waiting in asked.waiting:
            self._go_on(waiting, verdict, looked_up.source)

    def forget(self, digests: Iterable[bytes]) -> None:
        """Forget verdicts that no longer hold."""
        for digest in digests:
            self._allowed.forget(digest)
            self._denied.forget(digest)
            self._keyring.forget_token(digest)

    def sweep(self, now: float) -> None:
        """Let requests go whose question control has not answered in time."""
        before = now - self._wait_s
        for digest in [digest for digest, asked in self._asked.items() if asked.at < before]:
            for waiting in self._asked.pop(digest).waiting:
                self._go_on(waiting, _UNDECIDED, "authority")

    def _ask(
        self,
        head: RequestHead,
        digest: bytes,
        why: Literal["unknown", "refresh", "doubt"],
        now: float,
        *,
        is_token: bool = False,
    ) -> _Asked | None:
        """Ask control; None where it cannot be asked."""
        if len(self._asked) >= self._max_asked:
            return None
        key = next((key for key in keys_in(head) if digest_of(key) == digest), None)
        if key is None or not self._send(Lookup(digest, key, why, is_token)):
            return None
        asked = self._asked[digest] = _Asked(now)
        return asked

    def _remember(self, looked_up: LookedUp, now: float) -> Verdict:
        digest, principal = looked_up.digest, looked_up.principal
        if principal is not None:
            self._denied.forget(digest)
            source = "stale" if looked_up.source == "stale" else "cache"
            until = now + looked_up.fresh_s
            refresh_at = now + looked_up.refresh_s if looked_up.refresh_s else until
            self._allowed.add(digest, _Allowed(principal, source, until, refresh_at))
            return principal
        if looked_up.verdict == "denied":
            self._allowed.forget(digest)
            self._denied.add(digest, _Refused(now + looked_up.fresh_s, looked_up.refusal))
            return Denied(looked_up.refusal)
        return _UNDECIDED

    def _go_on(self, waiting: _Waiting, verdict: Verdict, source: str) -> None:
        """Let a request go on; whatever happens to it, the others do too."""
        waiter, credential, signal_bit = waiting
        if waiter.is_over:
            return
        try:
            # A snapshot that came meanwhile counts first.
            known = self._keyring.decide(credential, signal_bit, time.time_ns() // 1_000_000)
            if known is not NOT_HERE:
                waiter.decided(known, "keyring")
            elif isinstance(verdict, Denied):
                waiter.decided(self._no(credential, verdict.refusal), source)
            elif isinstance(verdict, Principal):
                waiter.decided(_may_send(verdict, signal_bit), source)
            else:
                waiter.decided(verdict, source)
        except Exception:  # noqa: BLE001 - a bug must not cost other requests
            self._context.report_bug("exchange")
            waiter.failed()

    def _no(self, credential: Credential, refusal: str) -> Verdict:
        """Deny a token for its reason, and a key that the authority does not know, unless a
        snapshot may lack it.
        """
        if refusal:
            return Denied(refusal)
        if not self._keyring.is_complete:
            return _UNDECIDED
        return Denied(credential.if_unknown)

    def _count_hit(self, allowed: _Allowed) -> None:
        metric = metrics.KEY_CACHE_STALE if allowed.source == "stale" else metrics.KEY_CACHE_HITS
        self._context.counters.count(metric, "positive")


def _until(allowed: _Allowed, now: float) -> Principal:
    """Return a token's principal with the time at which it is to be asked about again."""
    left_ms = int((allowed.fresh_until - now) * 1_000)
    return allowed.principal._replace(expires_at_ms=time.time_ns() // 1_000_000 + left_ms)


def _may_send(principal: Principal, signal_bit: int) -> Verdict:
    """Return the verdict on one signal of a key or a token that is allowed."""
    if principal.signals & signal_bit:
        return principal
    return Denied("SIGNAL_NOT_ALLOWED", principal)


def keys_in(head: RequestHead) -> Iterator[bytes]:
    """Yield everything in a head that could be a key, whatever its carrier: the caller knows the
    right one by its digest.
    """
    for _, value in head.credential_pairs:
        whole = value.strip(b" \t")
        rest = whole.partition(b" ")[2].lstrip(b" ")
        yield whole
        yield rest
        try:
            yield base64.b64decode(rest, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            continue
    if head.query is not None:
        yield from key_values_in(head.query)
