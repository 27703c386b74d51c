"""How control reads the tables of keys' limits, and writes what of them is this host's."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from gateway.quota_layout import (
    CELL_BYTES,
    COLUMNS_USED,
    COUNTED_BYTES,
    COUNTED_REQUESTS,
    DEFAULT_SHARE,
    LIMITED,
    LIMITS_AT,
    OPEN_REQUESTS,
    OWNER_CELLS,
    OWNERS_AT,
    QUOTAS,
    QUOTAS_AT,
    REFUSED_REQUESTS,
    ROWS,
    ROWS_AT,
    SHARES_AT,
    SPENT_UNTIL,
    USED_AT,
    block_at,
    row_cells,
)

_ROWS_PER_READ: Final = 512


class RowUse(NamedTuple):
    """What stands in one key's row. Sums only grow, whosever the row was before."""

    number: int
    owner: tuple[float, float]
    limits: tuple[float, float, float]
    quotas: tuple[float, ...]
    """By the order of `quota_layout.QUOTAS`."""
    requests: float
    bytes: float
    open: float
    refused: float


class QuotaView:
    """One table, as control sees it: its number, descriptor and columns, all that stands in it."""

    def __init__(self, number: int, fd: int, columns: int, cells: memoryview[float]) -> None:
        self.number: Final = number
        """The table's."""
        self._fd = fd
        self._columns = columns
        self._cells = cells
        self._row_cells = row_cells(columns)

    def rows(self, used_since: float, also: Collection[int] = ()) -> Iterator[RowUse]:
        """Yield the rows with which somebody has decided in this slot of time, or later, and those
        that have open requests, or whose numbers are in `also`.
        """
        cells = self._cells
        for number in self._owned():
            at = ROWS_AT + number * self._row_cells
            is_open = self._total(at, OPEN_REQUESTS) > 0
            if cells[at + USED_AT] < used_since and not is_open and number not in also:
                continue
            owner = OWNERS_AT + number * OWNER_CELLS
            limits = cells[at + LIMITS_AT : at + LIMITS_AT + len(LIMITED)].tolist()
            yield RowUse(
                number,
                (cells[owner], cells[owner + 1]),
                (limits[0], limits[1], limits[2]),
                tuple(cells[at + QUOTAS_AT : at + QUOTAS_AT + len(QUOTAS)].tolist()),
                self._total(at, COUNTED_REQUESTS),
                self._total(at, COUNTED_BYTES),
                self._total(at, OPEN_REQUESTS),
                self._total(at, REFUSED_REQUESTS),
            )

    def set_default(self, share: float) -> None:
        """Set this host's share of the limits of keys for which none stands in their rows."""
        if self._cells[DEFAULT_SHARE] != share:
            self._cells[DEFAULT_SHARE] = share

    def set_shares(self, row: RowUse, shares: tuple[float, float, float]) -> None:
        """Set this host's share of a key's limits, unless the row is another key's by now."""
        cells = self._cells
        if self._is_owner(row):
            at = ROWS_AT + row.number * self._row_cells + SHARES_AT
            for place, share in enumerate(shares):
                cells[at + place] = share

    def set_spent(self, row: RowUse, until_slot: float) -> None:
        """Set the slot of time in which a key's spent quota ends; 0 = none is spent."""
        cells = self._cells
        at = ROWS_AT + row.number * self._row_cells + SPENT_UNTIL
        if self._is_owner(row) and cells[at] != until_slot:
            cells[at] = until_slot

    def _is_owner(self, row: RowUse) -> bool:
        owner = OWNERS_AT + row.number * OWNER_CELLS
        return (self._cells[owner], self._cells[owner + 1]) == row.owner

    def _total(self, row: int, block: int) -> float:
        at = row + block_at(block, self._columns)
        used = int(self._cells[COLUMNS_USED])
        return sum(self._cells[at : at + used].tolist())

    def _owned(self) -> Iterator[int]:
        """Yield the numbers of rows that have an owner; where nobody ever had one, nothing is
        read: reading would give it memory.
        """
        for first in range(0, ROWS, _ROWS_PER_READ):
            at = OWNERS_AT + first * OWNER_CELLS
            end = at + _ROWS_PER_READ * OWNER_CELLS
            if self._is_hole(at * CELL_BYTES, end * CELL_BYTES):
                continue
            owners = self._cells[at:end:OWNER_CELLS].tolist()
            yield from (first + place for place, owner in enumerate(owners) if owner)

    def _is_hole(self, begin: int, end: int) -> bool:
        try:
            return os.lseek(self._fd, begin, os.SEEK_DATA) >= end
        except OSError:  # ENXIO: nothing but holes from here on
            return True
