"""Keys that are in no snapshot: what a remote authority said of them, and questions about others.

Control asks the authority; a request waits here for what it says, and only that request: its body
is held back by flow control. The key itself is read again from the request's head, where it stands
as long as the request lives, and kept nowhere.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

from gateway import metrics
from gateway.channel import LookedUp, Lookup, Up
from gateway.dataplane.intake_credentials import key_values_in
from gateway.dataplane.keyring import NOT_HERE
from gateway.model import Denied, Principal, Undecided, Verdict, digest_of
from gateway.outcome import REFUSALS

if TYPE_CHECKING:
    from gateway.dataplane.credentials import Credential
    from gateway.dataplane.exchange import Exchange
    from gateway.dataplane.heads import RequestHead
    from gateway.dataplane.plane import DataPlane
    from gateway.dataplane.routes import Route
    from gateway.settings import Authority

MAX_ASKED: Final = 10_000
"""Keys that a worker waits for at once; requests with others are undecided."""
_EVICTED_AT_ONCE: Final = 100
_UNKNOWN: Final = Denied("KEY_UNKNOWN")
_MISTYPED: Final = Denied("KEY_TYPO")
_UNDECIDED: Final = Undecided()
_Kept = TypeVar("_Kept")


class _Allowed(NamedTuple):
    """A key that an authority allowed. Times are monotonic seconds."""

    principal: Principal
    source: str
    """Whence a request has it that finds it here."""
    fresh_until: float
    refresh_at: float


class _Waiting(NamedTuple):
    """A request that waits for the verdict on its key."""

    exchange: Exchange
    route: Route
    credential: Credential


class _Asked:
    """A key that control was asked about."""

    __slots__ = ("at", "waiting")

    def __init__(self, at: float) -> None:
        self.at = at
        self.waiting: list[_Waiting] = []


class Lookups:
    """What a worker knows of an authority's keys. `send` passes a message to control, or returns
    False: then nobody is asked.
    """

    def __init__(self, plane: DataPlane, settings: Authority) -> None:
        self.send: Callable[[Up], bool] = lambda _: False
        self._plane = plane
        self._settings = settings
        self._allowed: dict[bytes, _Allowed] = {}
        self._denied: dict[bytes, float] = {}
        """Digest → until when the denial holds."""
        self._asked: dict[bytes, _Asked] = {}

    def decide(self, exchange: Exchange, route: Route, credential: Credential) -> None:
        """Have a request decided, now or later, whose key is in no snapshot."""
        digest = credential.digest
        if digest is None:  # the keyring has decided on those
            return
        now = time.monotonic()
        allowed = self._allowed.get(digest)
        if allowed is not None and now < allowed.fresh_until:
            self._count_hit(allowed)
            if now >= allowed.refresh_at and digest not in self._asked:
                self._ask(exchange.head, digest, "refresh", now)
            exchange.decided(route, credential, allowed.principal, allowed.source)
            return
        if now < self._denied.get(digest, 0.0):
            self._plane.counters.count(metrics.KEY_CACHE_HITS, "negative")
            exchange.decided(route, credential, self._no(credential), "cache")
            return
        asked = self._asked.get(digest) or self._ask(exchange.head, digest, "unknown", now)
        if asked is None:
            exchange.decided(route, credential, _UNDECIDED, "authority")
        else:
            asked.waiting.append(_Waiting(exchange, route, credential))

    def doubt(self, head: RequestHead) -> None:
        """Ask again about a key that was allowed and that the backend refused."""
        for key in keys_in(head):
            digest = digest_of(key)
            if digest in self._allowed and digest not in self._asked:
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
            kind = "negative" if verdict is _UNKNOWN else "positive"
            joined = len(asked.waiting) - 1
            self._plane.counters.plain[metrics.KEY_CACHE_COALESCED.name, (kind,)] += joined
        for waiting in asked.waiting:
            self._go_on(waiting, verdict, looked_up.source)

    def forget(self, digests: Iterable[bytes]) -> None:
        """Forget verdicts that no longer hold."""
        for digest in digests:
            self._allowed.pop(digest, None)
            self._denied.pop(digest, None)

    def remembered(self) -> int:
        """Count the verdicts that are remembered."""
        return len(self._allowed) + len(self._denied)

    def sweep(self, now: float) -> None:
        """Let requests go whose question control has not answered in time."""
        before = now - self._settings.wait_s
        for digest in [digest for digest, asked in self._asked.items() if asked.at < before]:
            for waiting in self._asked.pop(digest).waiting:
                self._go_on(waiting, _UNDECIDED, "authority")

    def _ask(
        self,
        head: RequestHead,
        digest: bytes,
        why: Literal["unknown", "refresh", "doubt"],
        now: float,
    ) -> _Asked | None:
        """Ask control; None where it cannot be asked."""
        if len(self._asked) >= MAX_ASKED:
            return None
        key = next((key for key in keys_in(head) if digest_of(key) == digest), None)
        if key is None or not self.send(Lookup(digest, key, why)):
            return None
        asked = self._asked[digest] = _Asked(now)
        return asked

    def _remember(self, looked_up: LookedUp, now: float) -> Verdict:
        digest, principal = looked_up.digest, looked_up.principal
        if principal is not None:
            self._denied.pop(digest, None)
            source = "stale" if looked_up.source == "stale" else "cache"
            until = now + looked_up.fresh_s
            refresh_at = now + looked_up.refresh_s if looked_up.refresh_s else until
            allowed = _Allowed(principal, source, until, refresh_at)
            _keep(self._allowed, digest, allowed, self._settings.cache_size)
            return principal
        if looked_up.verdict == "denied":
            self._allowed.pop(digest, None)
            until = now + looked_up.fresh_s
            _keep(self._denied, digest, until, self._settings.negative_cache_size)
            return _UNKNOWN
        return _UNDECIDED

    def _go_on(self, waiting: _Waiting, verdict: Verdict, source: str) -> None:
        """Let a request go on; whatever happens to it, the others do too."""
        exchange, route, credential = waiting
        if exchange.is_over:
            return
        try:
            # A snapshot that came meanwhile counts first.
            known = self._plane.keyring.decide(
                credential, route.signal_bit, time.time_ns() // 1_000_000
            )
            if known is not NOT_HERE:
                exchange.decided(route, credential, known, "keyring")
            elif verdict is _UNKNOWN:
                exchange.decided(route, credential, self._no(credential), source)
            else:
                exchange.decided(route, credential, verdict, source)
        except Exception:  # noqa: BLE001 - a bug must not cost other requests
            self._plane.report_bug("exchange")
            if not exchange.is_over:
                exchange.refuse(REFUSALS["INTERNAL"])

    def _no(self, credential: Credential) -> Verdict:
        """Deny a key that the authority does not know, unless a snapshot may lack it."""
        if not self._plane.keyring.is_complete:
            return _UNDECIDED
        return _MISTYPED if credential.is_mistyped else _UNKNOWN

    def _count_hit(self, allowed: _Allowed) -> None:
        metric = metrics.KEY_CACHE_STALE if allowed.source == "stale" else metrics.KEY_CACHE_HITS
        self._plane.counters.count(metric, "positive")


def _keep(kept: MutableMapping[bytes, _Kept], digest: bytes, value: _Kept, size: int) -> None:
    """Remember the newest `size`."""
    kept.pop(digest, None)
    if len(kept) >= size:
        for old in list(islice(kept, min(_EVICTED_AT_ONCE, size))):
            del kept[old]
    kept[digest] = value


def keys_in(head: RequestHead) -> Iterator[bytes]:
    """Give everything in a head that could be a key, whichever its carrier: what is wanted is known
    by its digest.
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
