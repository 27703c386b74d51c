"""Per-key limits (`limits.per_key`): requests and bytes per second as token buckets, requests at
once as a count.

Each worker holds its share, so that a host stays within about 10 % of the limit while connections
are spread evenly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.outcome import REFUSALS, Refusal

if TYPE_CHECKING:
    from gateway.dataplane.ending import Ending
    from gateway.settings import PerKey

_BURST_S: Final = 1.0
_IDLE_S: Final = 60.0


@dataclass(slots=True)
class _Account:
    """What one key has left."""

    requests: float
    bytes: float
    filled_at: float
    open: int = 0


class Quotas:
    """All keys' accounts of this worker. `clock` gives monotonic seconds."""

    def __init__(self, limits: PerKey, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._cleaned_at = clock()

    def admit(self, key_id: str, exchange: Ending) -> Refusal | None:
        """Take a request off the key's account, or return the refusal. A body's bytes are taken
        when it is `done`: a key may overdraw by one
        burst, and pays it back before its next request.
        """
        now = self._clock()
        account = self._filled(key_id, now)
        limits = self._limits
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

    def _filled(self, key_id: str, now: float) -> _Account:
        limits = self._limits
        account = self._accounts.get(key_id)
        if account is None:
            if now - self._cleaned_at > _IDLE_S:
                self._clean(now)
            account = self._accounts[key_id] = _Account(
                max(1.0, limits.requests * _BURST_S), max(1.0, limits.bytes * _BURST_S), now
            )
        passed = now - account.filled_at
        account.filled_at = now
        account.requests = min(
            max(1.0, limits.requests * _BURST_S), account.requests + passed * limits.requests
        )
        account.bytes = min(
            max(1.0, limits.bytes * _BURST_S), account.bytes + passed * limits.bytes
        )
        return account

    def _clean(self, now: float) -> None:
        """Forget keys that were idle long enough to be full again."""
        self._cleaned_at = now
        for key_id in [
            key_id
            for key_id, account in self._accounts.items()
            if not account.open and now - account.filled_at > _IDLE_S and account.bytes > 0
        ]:
            del self._accounts[key_id]
