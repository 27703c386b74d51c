"""Traffic by tenant: by the values that keys have for one configured label, as many as are allowed.

A value that came first keeps its series as long as the gateway runs: counters never go down, and
no label of a key makes series without end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway import metrics
from gateway.channel import Report
from gateway.control.metrics.metric_totals import MetricTotals
from gateway.control.workers.worker_handle import WorkerHandle, WorkerObserver
from gateway.keys.tenancy import Tenancy


class TenantSettings(Protocol):
    """What `metrics` in the configuration says of tenants."""

    @property
    def tenant_label(self) -> str | None:
        """The label whose values are tenants; None = nothing is counted by tenant."""

    @property
    def max_tenants(self) -> int:
        """The most values with series of their own."""


class TenantTraffic(WorkerObserver):
    """Adds what workers report to `totals`. `settings` returns those in force, `tenancy` whose
    data a sender sends, by what workers call it.
    """

    def __init__(
        self,
        settings: Callable[[], TenantSettings],
        tenancy: Callable[[str], Tenancy | None],
        totals: MetricTotals,
    ) -> None:
        self._settings = settings
        self._tenancy_of = tenancy
        self._totals = totals
        self._tenants: set[str] = set()
        """Those that have series."""

    def worker_reported(self, worker: WorkerHandle, report: Report) -> None:  # noqa: ARG002 - an observer's
        """Count a report (`WorkerObserver`)."""
        settings = self._settings()
        if settings.tenant_label is None:
            return
        for usage in report.usage:
            tenant = self._tenant(usage.key_id, settings.tenant_label, settings.max_tenants)
            labels = tenant, usage.outcome
            self._totals.count(metrics.TENANT_REQUESTS, labels, usage.requests)
            self._totals.count(metrics.TENANT_BYTES, labels, usage.bytes)

    def _tenant(self, key_id: str, label: str, most: int) -> str:
        tenancy = self._tenancy_of(key_id)
        value = dict(tenancy.labels).get(label) if tenancy is not None else None
        if value is None:
            return metrics.NO_TENANT
        if value not in self._tenants:
            if len(self._tenants) >= most:
                return metrics.OTHER_TENANT
            self._tenants.add(value)
        return value
