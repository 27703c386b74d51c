"""The table of keys' limits that control and its workers share: where each number stands.

The table is memory that control makes and every worker of the host maps. All numbers are native
64-bit floats, aligned: one is read or written at once, so nobody sees half of one.

First comes the table's head, then for each row its owner, then the `ROWS` rows, one for each
limited key in use. A row has

- a head: when somebody last decided with it; the key's limits and quotas, which workers write; what
  of the limits this host may use (`limits.scope: fleet`), and until when a quota is used up, which
  control writes;
- blocks with a number for each column, which is one worker's: requests that it has counted so far,
  bytes, its requests that are open, and those that it refused because of the limits. Only that
  worker writes them. All but the open ones only ever grow, from one worker to the next that gets
  the column and from one key to the next that gets the row, so that nothing is lost with a worker
  and nothing has to be set back;
- for requests and for bytes a record of the last second, which all workers write (`RECORD_*`).
"""

from __future__ import annotations

import hashlib
from typing import Final

CELL_FORMAT: Final = "d"
"""One number, as `struct` and `memoryview.cast` name it."""
CELL_BYTES: Final = 8

ROWS: Final = 8_192
TABLE_HEAD_CELLS: Final = 8
COLUMNS_USED: Final = 0
"""In the table's head: how many columns have ever had a worker. Workers read only these."""
DEFAULT_SHARE: Final = 1
"""In the table's head: this host's share of the limits of a key for which no share stands in its
row, 0 < share <= 1; 0 = all of it.
"""

OWNERS_AT: Final = TABLE_HEAD_CELLS
OWNER_CELLS: Final = 2
"""Whose a row is: a hash of 104 bits in two numbers; the first is 0 where it is nobody's."""
ROWS_AT: Final = OWNERS_AT + ROWS * OWNER_CELLS

USED_AT: Final = 0
"""In a row: the slot of time in which somebody last decided with it."""
LIMITS_AT: Final = 1
"""In a row: the key's limits, in the order of `LIMITED`; 0 = none."""
LIMITED: Final = ("requests", "bytes", "concurrent")
"""What can be limited, as the fields of `settings.PerKeyLimits` are called."""
SHARES_AT: Final = LIMITS_AT + len(LIMITED)
"""In a row: this host's share of each of them, 0 < share <= 1; 0 = `DEFAULT_SHARE`."""
QUOTAS_AT: Final = SHARES_AT + len(LIMITED)
"""In a row: the key's quotas, in the order of `QUOTAS`; 0 = none."""
QUOTAS: Final = ("requests_per_day", "bytes_per_day", "requests_per_month", "bytes_per_month")
"""As the fields of `settings.PerKeyLimits` are called."""
SPENT_UNTIL: Final = QUOTAS_AT + len(QUOTAS)
"""In a row: the slot of time in which a quota that is used up ends; control writes it."""
ROW_HEAD_CELLS: Final = SPENT_UNTIL + 1

COUNTED_REQUESTS: Final = 0
COUNTED_BYTES: Final = 1
OPEN_REQUESTS: Final = 2
REFUSED_REQUESTS: Final = 3
BLOCKS: Final = 4

SLOTS_PER_S: Final = 20
"""Time is counted in slots of 50 ms, from the same beginning for all processes of a host."""
RECORD_SLOTS: Final = SLOTS_PER_S + 1
"""A second, and the slot that has begun: what was counted earlier is forgotten."""
RECORD_LIMIT: Final = 0
"""In a record: the key's limit that it was last decided by."""
RECORD_SHARE: Final = 1
"""In a record: what of that limit was this host's."""
RECORD_LATEST: Final = 2
"""In a record: where in it the latest entry begins."""
RECORD_HEAD_CELLS: Final = 3
ENTRY_SLOT: Final = 0
"""In a record's entry: the slot of time, written last."""
ENTRY_COUNT: Final = 1
"""What all workers had counted when somebody first decided in that slot."""
ENTRY_LEVEL: Final = 2
"""What a bucket that gains the limit in a second held then; below 0 = still to be paid back."""
ENTRY_CEILING: Final = 3
"""The count at which the key has used up its limit in that slot."""
ENTRY_CELLS: Final = 4
RECORD_CELLS: Final = RECORD_HEAD_CELLS + RECORD_SLOTS * ENTRY_CELLS


_OWNER_BITS: Final = 52


def owner_of(key_id: str) -> tuple[float, float]:
    """Return what stands in the row of a key: two numbers that a float holds exactly."""
    digest = int.from_bytes(hashlib.blake2b(key_id.encode(), digest_size=13).digest(), "big")
    return float((digest >> _OWNER_BITS) | 1), float(digest & ((1 << _OWNER_BITS) - 1))


def block_at(block: int, columns: int) -> int:
    """Return where in a row a block begins, such as `OPEN_REQUESTS`."""
    return ROW_HEAD_CELLS + block * columns


def records_at(columns: int) -> int:
    """Return where in a row the record of requests begins; that of bytes follows."""
    return block_at(BLOCKS, columns)


def row_cells(columns: int) -> int:
    """Return the size of a row, in cells."""
    return records_at(columns) + 2 * RECORD_CELLS


def table_bytes(columns: int) -> int:
    """Return the size of the table; only pages with rows in use take memory."""
    return (ROWS_AT + ROWS * row_cells(columns)) * CELL_BYTES
