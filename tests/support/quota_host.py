"""The limits of keys on a host: several workers' `Quotas` over one shared table, and a clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from gateway.control.workers.quota_tables import QuotaTable
from gateway.dataplane.core.counters import Counters
from gateway.dataplane.exchange.quota_rows import QuotaRows
from gateway.dataplane.exchange.quotas import Quotas
from gateway.settings import PerKeyLimits


class Clock:
    """Monotonic seconds that pass only when told to."""

    now = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Host:
    """Workers that share a table. `workers` are those that live."""

    def __init__(self, table: QuotaTable, limits: PerKeyLimits) -> None:
        self.clock = Clock()
        self.table = table
        self.counters = Counters()
        self._limits = limits
        self._columns: dict[Quotas, int] = {}

    @property
    def workers(self) -> list[Quotas]:
        """All that live."""
        return list(self._columns)

    def start(self) -> Quotas:
        """Start one more worker."""
        place = self.table.take()
        assert place is not None
        limits = msgspec.structs.replace(self._limits, workers=self.table.workers)
        worker = Quotas(limits, QuotaRows.shared(place), self.counters, self.clock)
        self._columns[worker] = place.column
        return worker

    def kill(self, worker: Quotas) -> None:
        """End a worker with all that it has open."""
        self.table.free(self._columns.pop(worker))


@contextmanager
def quota_host(workers: int, limits: PerKeyLimits | None = None) -> Iterator[Host]:
    """Run workers that share a table of keys' limits."""
    table = QuotaTable(workers)
    host = Host(table, limits or PerKeyLimits())
    for _ in range(workers):
        host.start()
    try:
        yield host
    finally:
        table.close()
