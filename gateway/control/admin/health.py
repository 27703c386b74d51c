"""Whether this gateway is alive and ready, with reasons.

Ready = keys are loaded, a worker accepts, and the gateway is not draining. The state of stores and
backends is shown but does not count: otherwise an outage behind the gateway would turn a retryable
answer into a refused connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from gateway.control.workers.worker_handle import WorkerObserver

LIVE_GRACE_S: Final = 120.0
"""How long no worker may accept before a restart of the gateway is worth trying."""


@dataclass(frozen=True, slots=True)
class GatewayState:
    """The state that health answers depend on, at one moment."""

    keys_loaded: bool
    accepting: int
    wanted: int
    stores: list[dict[str, Any]]
    backends: list[dict[str, Any]]


class Health(WorkerObserver):
    """The answers of `/livez` and `/readyz`."""

    def __init__(
        self, read_state: Callable[[], GatewayState], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.is_draining = False
        self._read_state = read_state
        self._clock = clock
        self._none_since: float | None = clock()

    def worker_changed(self, worker: object) -> None:  # noqa: ARG002 - an observer's
        """Take note of whether any worker accepts connections now (`WorkerObserver`)."""
        if self._read_state().accepting:
            self._none_since = None
        elif self._none_since is None:
            self._none_since = self._clock()

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Return whether to send traffic here, and the details."""
        state = self._read_state()
        reasons = []
        if not state.keys_loaded:
            reasons.append("the keys are not loaded yet")
        if not state.accepting:
            reasons.append(f"no worker accepts connections (0 of {state.wanted})")
        if self.is_draining:
            reasons.append("the gateway is draining and will stop")
        return not reasons, {
            "status": "not ready" if reasons else "ready",
            "reasons": reasons,
            "keys": {"loaded": state.keys_loaded},
            "workers": {"accepting": state.accepting, "wanted": state.wanted},
            "draining": self.is_draining,
            "stores": state.stores,
            "backends": state.backends,
        }

    def live(self) -> tuple[bool, dict[str, Any]]:
        """Return False, with reasons, when no worker has accepted for too long: restart it."""
        since = self._none_since
        if since is None or self.is_draining or self._clock() - since <= LIVE_GRACE_S:
            return True, {"status": "live"}
        reason = f"no worker has accepted connections for {LIVE_GRACE_S:.0f} s"
        return False, {"status": "not live", "reasons": [reason]}
