"""Whether this gateway is alive and ready, with reasons.

Ready = keys are loaded, a worker accepts, and it is not draining. Stores and backends are told in
detail but do not gate: were they to, an outage behind the gateway would turn a retryable answer
into a refused connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

LIVE_GRACE_S: Final = 120.0
"""How long no worker may accept before a restart of the whole is worth trying."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is the case at this moment."""

    keys_loaded: bool
    accepting: int
    wanted: int
    stores: list[dict[str, Any]]
    backends: list[dict[str, Any]]


class Health:
    """Answers of `/livez` and `/readyz`."""

    def __init__(
        self, facts: Callable[[], Facts], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.is_draining = False
        self._facts = facts
        self._clock = clock
        self._none_since: float | None = clock()

    def note_accepting(self, workers: int) -> None:
        """Take note of how many workers accept connections now."""
        if workers:
            self._none_since = None
        elif self._none_since is None:
            self._none_since = self._clock()

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Say whether to send traffic here, and all that there is to know."""
        facts = self._facts()
        reasons = []
        if not facts.keys_loaded:
            reasons.append("the keys are not loaded yet")
        if not facts.accepting:
            reasons.append(f"no worker accepts connections (0 of {facts.wanted})")
        if self.is_draining:
            reasons.append("the gateway is draining: it was told to stop")
        return not reasons, {
            "status": "not ready" if reasons else "ready",
            "reasons": reasons,
            "keys": {"loaded": facts.keys_loaded},
            "workers": {"accepting": facts.accepting, "wanted": facts.wanted},
            "draining": self.is_draining,
            "stores": facts.stores,
            "backends": facts.backends,
        }

    def live(self) -> tuple[bool, dict[str, Any]]:
        """Say whether a restart would not help: control answers, and a worker accepts or will."""
        since = self._none_since
        if since is None or self.is_draining or self._clock() - since <= LIVE_GRACE_S:
            return True, {"status": "live"}
        reason = f"no worker has accepted connections for {LIVE_GRACE_S:.0f} s"
        return False, {"status": "not live", "reasons": [reason]}
