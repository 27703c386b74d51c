"""Per-key limits (`limits.per_key`, and a key's own, which win): requests and bytes per second as
token buckets, requests at once as a count.

Each worker holds its share, so that a host stays within about 10 % of the limit while connections
are spread evenly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.outcome import REFUSALS, Refusal
from gateway.settings import PerKey

if TYPE_CHECKING:
    from gateway.dataplane.ending import Ending
    from gateway.model import KeyLimits

_BURST_S: Final = 1.0
_IDLE_S: Final = 60.0


@dataclass(slots=True)
class _Account:
    """What one key has left of its limits."""

    limits: PerKey
    own: KeyLimits | None
    """The key's own limits, which went into `limits`."""
    requests: float
    bytes: float
    filled_at: float
    open: int = 0


class Quotas:
    """All keys' accounts of this worker. `clock` gives monotonic seconds."""

    def __init__(self, limits: PerKey, clock: Callable[[], float] = time.monotonic) -> None:
        self.has_default = bool(limits.requests or limits.bytes or limits.concurrent)
        """Whether a key without limits of its own is limited, too."""
        self._limits = limits
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._cleaned_at = clock()

    def admit(self, key_id: str, exchange: Ending, own: KeyLimits | None = None) -> Refusal | None:
        """Take a request off the key's account, or return the refusal. A body's bytes are taken
        when it is `done`: a key may overdraw by one burst, and pays it back before its next
        request. `own` are the key's own limits; other ones than before begin with full buckets.
        """
        account = self._filled(key_id, own, self._clock())
        limits = account.limits
        if (
            (limits.concurrent and account.open >= limits.concurrent)
            or (limits.requests and account.requests < 1)
            or (limits.bytes and account.bytes <= 0)
        ):
            return REFUSALS["QUOTA"]
        account.requests -= 1
        account.open += 1
        exchange.is_counted = True
        return None

    def done(self, key_id: str, exchange: Ending) -> None:
        """Give back the request's place and take its bytes."""
        account = self._accounts.get(key_id)
        if account is not None and exchange.is_counted:
            account.open -= 1
            account.bytes -= exchange.request_bytes

    def _filled(self, key_id: str, own: KeyLimits | None, now: float) -> _Account:
        account = self._accounts.get(key_id)
        if account is None or account.own != own:
            if now - self._cleaned_at > _IDLE_S:
                self._clean(now)
            limits = self._limits if own is None else self._limits_of(own)
            is_open = 0 if account is None else account.open
            account = self._accounts[key_id] = _Account(
                limits, own, _burst(limits.requests), _burst(limits.bytes), now, is_open
            )
        limits = account.limits
        passed = now - account.filled_at
        account.filled_at = now
        account.requests = min(_burst(limits.requests), account.requests + passed * limits.requests)
        account.bytes = min(_burst(limits.bytes), account.bytes + passed * limits.bytes)
        return account

    def _limits_of(self, own: KeyLimits) -> PerKey:
        """Give this worker's share of a key's own limits; where it has none, the default."""
        default, workers = self._limits, self._limits.workers
        return PerKey(
            default.requests if own.requests is None else own.requests / workers,
            default.bytes if own.bytes is None else own.bytes / workers,
            default.concurrent if own.concurrent is None else -(-own.concurrent // workers),
        )

    def _clean(self, now: float) -> None:
        """Forget keys that were idle long enough to be full again."""
        self._cleaned_at = now
        for key_id in [
            key_id
            for key_id, account in self._accounts.items()
            if not account.open
            and (idle_s := now - account.filled_at) > _IDLE_S
            # Without a limit nobody pays back.
            and (not account.limits.bytes or account.bytes + idle_s * account.limits.bytes > 0)
        ]:
            del self._accounts[key_id]


def _burst(per_second: float) -> float:
    return max(1.0, per_second * _BURST_S)
