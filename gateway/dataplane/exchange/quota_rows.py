"""The rows in which the use of limited keys is counted: those that all workers of a host share, or
one of a worker's own. Where each number stands is `gateway.quota_layout`'s, what follows from the
numbers `quotas`'s.

A worker writes the counts of its own column and reads those of all. A row is given to a key under
a lock, which ends with the process that holds it; nothing else waits.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import struct
from typing import Final

from gateway.quota_layout import (
    CELL_BYTES,
    CELL_FORMAT,
    COLUMNS_USED,
    COUNTED_BYTES,
    COUNTED_REQUESTS,
    DEFAULT_SHARE,
    ENTRY_CEILING,
    ENTRY_CELLS,
    ENTRY_COUNT,
    ENTRY_LEVEL,
    ENTRY_SLOT,
    LIMITED,
    LIMITS_AT,
    OPEN_REQUESTS,
    OWNER_CELLS,
    OWNERS_AT,
    QUOTAS_AT,
    RECORD_CELLS,
    RECORD_HEAD_CELLS,
    RECORD_LATEST,
    RECORD_LIMIT,
    RECORD_SHARE,
    RECORD_SLOTS,
    REFUSED_REQUESTS,
    ROWS,
    SHARES_AT,
    SLOTS_PER_S,
    SPENT_UNTIL,
    USED_AT,
    block_at,
    records_at,
    row_cells,
    table_bytes,
)
from gateway.settings import PerKeyLimits, QuotaPlace

PROBES: Final = 16
"""Rows, one after the other, of which a key can have one."""
QUIET_SLOTS: Final = 4 * SLOTS_PER_S
"""A row that nobody decided with for so long can be given to another key, if nothing of it is open
and nothing is to be paid back.
"""
TOLERANCE: Final = 0.1
"""By how much of its limit a key may exceed it in a second, if it has got less before."""
NO_ROW: Final = -1
LOCKED: Final = -2
_PAUSE_SLOTS: Final = 2 * SLOTS_PER_S
"""A key that sends nothing for so long has not got less than its limit: it did not want more."""
_LOCK_TRIES: Final = 1_000
"""About 2 ms; the lock is held for some 50 µs."""
_UNLIMITED: Final = float("inf")


class QuotaRows:
    """Rows of one table, of which this worker writes one column."""

    __slots__ = (
        "_columns",
        "_fd",
        "_row_cells",
        "_rows",
        "_rows_at",
        "block",
        "buffer",
        "bytes_at",
        "cells",
        "column",
        "open_at",
        "records_at",
        "refused_at",
        "requests_at",
        "used",
    )

    def __init__(
        self, buffer: mmap.mmap | bytearray, columns: int, column: int, rows: int, fd: int
    ) -> None:
        """Use `shared` or `private`."""
        self._columns = columns
        self._fd = fd
        self._rows = rows
        self._rows_at = OWNERS_AT + rows * OWNER_CELLS
        self._row_cells = row_cells(columns)
        self.buffer = buffer
        self.cells = memoryview(buffer).cast("B").cast(CELL_FORMAT)
        """All numbers of the table."""
        self.column = column
        """This worker's place in each block."""
        self.requests_at = block_at(COUNTED_REQUESTS, columns)
        """Where in a row the block begins, and so on."""
        self.bytes_at = block_at(COUNTED_BYTES, columns)
        self.open_at = block_at(OPEN_REQUESTS, columns)
        self.refused_at = block_at(REFUSED_REQUESTS, columns)
        self.records_at = records_at(columns)
        self.used = 0.0
        self.block = struct.Struct("")
        """Reads a block, as many columns as have ever been in use. See `see_columns`."""
        self.see_columns()

    @classmethod
    def shared(cls, place: QuotaPlace) -> QuotaRows:
        """Map the host's table. Raises `OSError`, `ValueError`: it is no such table."""
        buffer = mmap.mmap(place.fd, table_bytes(place.columns))
        return cls(buffer, place.columns, place.column, ROWS, place.fd)

    @classmethod
    def private(cls) -> QuotaRows:
        """Make one row that nobody else sees."""
        buffer = bytearray((OWNERS_AT + OWNER_CELLS + row_cells(1)) * CELL_BYTES)
        struct.pack_into(f"@{CELL_FORMAT}", buffer, COLUMNS_USED * CELL_BYTES, 1.0)
        return cls(buffer, 1, 0, 1, -1)

    def see_columns(self) -> None:
        """Learn how many columns there are. A worker that gets a new one needs longer to start than
        a slot of time lasts, so it is enough to do so in each slot.
        """
        if self.cells[COLUMNS_USED] != self.used:
            self.used = self.cells[COLUMNS_USED]
            self.block = struct.Struct(f"@{int(self.used)}{CELL_FORMAT}")

    def total(self, at: int) -> float:
        """Return the sum of a block, which begins at this cell."""
        total: float = sum(self.block.unpack_from(self.buffer, at * CELL_BYTES))
        return total

    # Whose row

    def find(self, owner: tuple[float, float], slot: int) -> int:
        """Return the position of a key's row, which it gets if it has none. `NO_ROW` where none is
        free, `LOCKED` where another process takes too long.
        """
        row = self._look_up(owner)
        if row >= 0:
            return row
        if not self._lock():
            return LOCKED
        try:
            row = self._look_up(owner)
            return row if row >= 0 else self._give(owner, slot)
        finally:
            self._unlock()

    def is_owner(self, row: int, owner: tuple[float, float]) -> bool:
        """Whether a row is this key's."""
        cells = self.cells
        at = OWNERS_AT + (row - self._rows_at) // self._row_cells * OWNER_CELLS
        return cells[at] == owner[0] and cells[at + 1] == owner[1]

    def _candidates(self, owner: tuple[float, float]) -> range:
        """Return the numbers of the rows of which the key can have one."""
        first = int(owner[0]) % max(1, self._rows - PROBES)
        return range(first, first + min(PROBES, self._rows))

    def _look_up(self, owner: tuple[float, float]) -> int:
        cells = self.cells
        for number in self._candidates(owner):
            at = OWNERS_AT + number * OWNER_CELLS
            if cells[at] == owner[0] and cells[at + 1] == owner[1]:
                return self._rows_at + number * self._row_cells
        return NO_ROW

    def _give(self, owner: tuple[float, float], slot: int) -> int:
        cells = self.cells
        for number in self._candidates(owner):
            at = OWNERS_AT + number * OWNER_CELLS
            row = self._rows_at + number * self._row_cells
            if not cells[at] or self.is_quiet(row, slot):
                for record in (row + self.records_at, row + self.records_at + RECORD_CELLS):
                    cells[record + RECORD_LIMIT] = 0.0
                for limited in range(len(LIMITED)):
                    cells[row + SHARES_AT + limited] = 0.0
                cells[row + SPENT_UNTIL] = 0.0
                cells[row + USED_AT] = slot
                cells[at] = 0.0  # nobody finds half an owner
                cells[at + 1] = owner[1]
                cells[at] = owner[0]
                return row
        return NO_ROW

    def is_quiet(self, row: int, slot: int) -> bool:
        """Whether a row holds nothing that matters any more."""
        if slot - self.cells[row + USED_AT] < QUIET_SLOTS or slot < self.cells[row + SPENT_UNTIL]:
            return False
        if self.total(row + self.open_at) > 0:
            return False
        record = row + self.records_at
        return self._is_paid(record, slot, self.total(row + self.requests_at)) and self._is_paid(
            record + RECORD_CELLS, slot, self.total(row + self.bytes_at)
        )

    def _is_paid(self, record: int, slot: int, count: float) -> bool:
        if not self.cells[record + RECORD_LIMIT]:
            return True
        limit = self.cells[record + RECORD_SHARE]
        return self._level(record, slot, count, limit) > 0

    # What of the limits is this host's

    def note_limits(self, row: int, limits: PerKeyLimits) -> None:
        """Write the key's limits and quotas where control reads them."""
        cells, at = self.cells, row + LIMITS_AT
        cells[at] = limits.requests
        cells[at + 1] = limits.bytes
        cells[at + 2] = float(limits.concurrent)
        at = row + QUOTAS_AT
        cells[at] = limits.requests_per_day
        cells[at + 1] = limits.bytes_per_day
        cells[at + 2] = limits.requests_per_month
        cells[at + 3] = limits.bytes_per_month

    def share(self, row: int, limited: int) -> float:
        """Return this host's share of a key's limit, 0 < share <= 1. `limited`: its place in
        `LIMITED`.
        """
        share = self.cells[row + SHARES_AT + limited]
        return share if share > 0.0 else self.default_share()

    def default_share(self) -> float:
        """Return the share of keys for which none stands in their rows."""
        share = self.cells[DEFAULT_SHARE]
        return share if share > 0.0 else 1.0

    def _lock(self) -> bool:
        """Get the table's lock; not for long, because a process that is stopped may hold it."""
        if self._fd < 0:
            return True
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.sched_yield()
            else:
                return True
        return False

    def _unlock(self) -> None:
        if self._fd >= 0:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    # The last second

    def ceiling(self, record: int, slot: int, count: float, whole: float, share: float) -> float:
        """Return the count at which the key has used up its limit, in this slot of time.

        `whole` is the key's limit, of which this host has a `share`: the `limit` that holds here.

        It is the least of two: `limit` above what had been counted a second ago, and what a bucket
        holds, in which what was too much is still missing. A key that goes on sending and has got
        less than its limit, because a second ends with a slot, gets what is missing, rounded.
        Whoever comes first in a slot records the result; if several do, they differ by
        what they have decided on at the same moment.
        """
        cells = self.cells
        if not whole:
            cells[record + RECORD_LIMIT] = 0.0
            return _UNLIMITED
        limit = whole * share
        at = record + RECORD_HEAD_CELLS + slot % RECORD_SLOTS * ENTRY_CELLS
        begun = cells[at + ENTRY_COUNT] if cells[at + ENTRY_SLOT] == slot else count
        if cells[record + RECORD_LIMIT] != whole:
            # Another limit, or another key: there is nothing to pay back.
            cells[record + RECORD_LIMIT] = whole
            level = limit
        elif cells[at + ENTRY_SLOT] == slot:
            return cells[at + ENTRY_CEILING]
        else:
            level = self._level(record, slot, count, limit)
        cells[record + RECORD_SHARE] = limit
        window = limit + max(0.0, math.floor(level - limit + 0.5))
        ceiling = min(self._count_a_second_ago(record, slot, begun) + window, count + level)
        cells[at + ENTRY_COUNT] = begun
        cells[at + ENTRY_LEVEL] = level + count - begun
        cells[at + ENTRY_CEILING] = ceiling
        cells[at + ENTRY_SLOT] = slot
        cells[record + RECORD_LATEST] = at - record
        return ceiling

    def _count_a_second_ago(self, record: int, slot: int, count: float) -> float:
        """Return what had been counted at the beginning of the second that ends now: the first
        entry of that second, since nobody counts who has not made one.
        """
        cells, entries = self.cells, record + RECORD_HEAD_CELLS
        if cells[record + int(cells[record + RECORD_LATEST]) + ENTRY_SLOT] < slot - SLOTS_PER_S:
            return count
        for earlier in range(slot - SLOTS_PER_S, slot):
            at = entries + earlier % RECORD_SLOTS * ENTRY_CELLS
            if cells[at + ENTRY_SLOT] == earlier:
                return cells[at + ENTRY_COUNT]
        return count

    def _level(self, record: int, slot: int, count: float, limit: float) -> float:
        """Return what the bucket holds now, from the latest entry."""
        cells = self.cells
        latest = record + int(cells[record + RECORD_LATEST])
        # Not negative, though another worker may be a moment ahead.
        passed = max(slot - cells[latest + ENTRY_SLOT], 0.0)
        spent = count - cells[latest + ENTRY_COUNT]
        level = cells[latest + ENTRY_LEVEL] - spent + passed * limit / SLOTS_PER_S
        return min(level, limit if passed > _PAUSE_SLOTS else limit + max(1.0, limit * TOLERANCE))
