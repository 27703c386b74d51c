"""The tables of keys' limits that control shares with its workers: made, columns given and freed.

One table serves all workers of the host, also while a reload replaces them, so that limits hold
meanwhile. Control writes a column only when its worker has ended: the requests that were open are
not any more. What they counted stays.
"""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
from collections.abc import Iterator
from typing import Final

import msgspec
import structlog

from gateway.control.workers.quota_view import QuotaView
from gateway.control.workers.worker_handle import WorkerHandle, WorkerObserver
from gateway.quota_layout import (
    CELL_BYTES,
    CELL_FORMAT,
    COLUMNS_USED,
    OPEN_REQUESTS,
    ROWS,
    ROWS_AT,
    block_at,
    row_cells,
    table_bytes,
)
from gateway.settings import QuotaPlace, WorkerSettings

GENERATIONS: Final = 3
"""Columns for each worker: a reload starts its successor while its predecessor may still drain."""

_NUMBERS: Final = itertools.count()
CONTROLS: Final = 1
"""And a column for control, which decides for other proxies. It takes one only if it does."""

_log = structlog.get_logger("gateway.control")


class QuotaTable:
    """One table, for up to `workers` workers and those that they replace, and for control."""

    def __init__(self, workers: int) -> None:
        self.number = next(_NUMBERS)
        """Tells it from all other tables."""
        self.workers = workers
        self.columns = GENERATIONS * workers + CONTROLS
        size = table_bytes(self.columns)
        self.fd = os.memfd_create("gateway-limits", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        # A worker with a bug could otherwise truncate the file, and SIGBUS would end all processes.
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._map = mmap.mmap(self.fd, size)
        self.cells = memoryview(self._map).cast(CELL_FORMAT)
        """All numbers of the table."""
        self._free = list(range(self.columns))
        self._row_cells = row_cells(self.columns)

    @property
    def is_idle(self) -> bool:
        """Whether no worker has a column."""
        return len(self._free) == self.columns

    def take(self) -> QuotaPlace | None:
        """Give away the first free column; None if there is none."""
        if not self._free:
            return None
        column = self._free.pop(0)
        self.cells[COLUMNS_USED] = max(self.cells[COLUMNS_USED], column + 1.0)
        return QuotaPlace(self.fd, self.columns, column)

    def free(self, column: int) -> None:
        """Take back the column of a worker that has ended, with the requests it had open."""
        at = ROWS_AT + block_at(OPEN_REQUESTS, self.columns) + column
        for first, last in self._rows_in_use():
            begin, end = (at + row * self._row_cells for row in (first, last))
            zeros = memoryview(bytes((last - first) * CELL_BYTES)).cast(CELL_FORMAT)
            self.cells[begin : end : self._row_cells] = zeros
        self._free = sorted([*self._free, column])

    def _rows_in_use(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of rows that may be in use: reading the others would give them memory."""
        head, size = ROWS_AT * CELL_BYTES, self._row_cells * CELL_BYTES
        at, end = head, table_bytes(self.columns)
        while at < end:
            try:
                start = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but holes from here on
                return
            at = os.lseek(self.fd, start, os.SEEK_HOLE)
            first = max(0, (start - head) // size)
            yield first, min(ROWS, max(first, -(-(at - head) // size)))

    def close(self) -> None:
        """Release the table; workers that still run keep theirs."""
        self.cells.release()
        self._map.close()
        os.close(self.fd)


class QuotaTables(WorkerObserver):
    """The table in use, and those before it that still have workers.

    A table has columns for a number of workers: when a reload has more, there is a new one, and
    until the old workers have ended both count for themselves.
    """

    def __init__(self) -> None:
        self._tables: list[QuotaTable] = []
        self._places: dict[WorkerHandle, QuotaPlace] = {}
        self._own: QuotaPlace | None = None

    def prepare(self, workers: int) -> None:
        """Have a table for so many workers."""
        if not self._tables or self._tables[-1].workers < workers:
            self._tables.append(QuotaTable(workers))
            if self._own is not None:
                self._free(self._own)
                self._own = None

    def own_place(self) -> QuotaPlace | None:
        """Return control's own column in the table in use; None before there is one.

        It is the same object until another table is in use.
        """
        if self._own is None and self._tables:
            self._own = self._tables[-1].take()
        return self._own

    def views(self) -> list[QuotaView]:
        """Return all tables that have workers, to read what is used of limits."""
        return [QuotaView(each.number, each.fd, each.columns, each.cells) for each in self._tables]

    def place(self, settings: WorkerSettings) -> WorkerSettings:
        """Give a worker that is to be started a column."""
        place = self._tables[-1].take()
        if place is None:
            _log.warning(
                "many workers are ending: a new one uses its share of keys' limits only",
                worker=settings.index,
            )
        return msgspec.structs.replace(settings, quotas=place)

    def started(self, worker: WorkerHandle, settings: WorkerSettings) -> None:
        """Remember whose column it is."""
        if settings.quotas is not None:
            self._places[worker] = settings.quotas
            self.worker_changed(worker)  # it may have ended already

    def not_started(self, settings: WorkerSettings) -> None:
        """Take the column of a worker back that could not be started."""
        if settings.quotas is not None:
            self._free(settings.quotas)

    def worker_changed(self, worker: WorkerHandle) -> None:
        """Free the column of a worker whose process has ended (`WorkerObserver`)."""
        if worker.exit_code is None or worker not in self._places:
            return
        self._free(self._places.pop(worker))

    def _free(self, place: QuotaPlace) -> None:
        for table in list(self._tables):
            if table.fd == place.fd:
                table.free(place.column)
                if table.is_idle and table is not self._tables[-1]:
                    self._tables.remove(table)
                    table.close()

    def close(self) -> None:
        """Release all tables."""
        for table in self._tables:
            table.close()
        self._tables.clear()
        self._places.clear()
        self._own = None
