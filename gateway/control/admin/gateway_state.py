"""Reads the state of this gateway, for its health, from the parts that know it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gateway import metrics
from gateway.control.admin.health import GatewayState
from gateway.control.core.current_config import CurrentConfig
from gateway.control.metrics.metric_totals import MetricTotals
from gateway.control.workers.key_distribution import KeyDistribution
from gateway.control.workers.worker_set import WorkerSet
from gateway.keys.following.status import StoreStatus
from gateway.keys.service import KeyService


class StateReader:
    """Reads the state. `statuses` returns that of each key store and authority."""

    def __init__(
        self,
        config: CurrentConfig,
        keys: KeyService,
        distribution: KeyDistribution,
        workers: WorkerSet,
        statuses: Callable[[], Sequence[StoreStatus]],
        totals: MetricTotals,
    ) -> None:
        self._config = config
        self._keys = keys
        self._distribution = distribution
        self._workers = workers
        self._statuses = statuses
        self._totals = totals

    def read(self) -> GatewayState:
        """Return the state at this moment."""
        up = self._totals.gauges(metrics.BACKEND_UP)
        return GatewayState(
            keys_loaded=self._distribution.is_started and self._keys.is_loaded,
            accepting=self._workers.accepting(),
            wanted=self._workers.wanted,
            stores=[store_detail(status) for status in self._statuses()],
            backends=[
                {"backend": name, "address": address, "up": is_up(up.get((name, address)))}
                for name, addresses in self._config.backends()
                for address in addresses
            ],
        )


def store_detail(status: StoreStatus) -> dict[str, Any]:
    """Describe a key store for `/readyz`."""
    return {
        "store": status.name,
        "location": status.location,
        "up": status.up,
        "last_sync_ms": status.last_sync_ms,
        "revision": status.revision,
        "loaded": status.loaded,
        "read_only": status.read_only,
        "cut_off": status.cut_off,
        "suspended": status.suspended,
        "error": status.error,
    }


def is_up(value: float | None) -> bool | None:
    """Return whether a backend's address is up; None before the first connection."""
    return None if value is None else value > 0
