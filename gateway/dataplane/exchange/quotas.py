"""Per-key limits (`limits.per_key`, and a key's own, which win): requests and bytes in a second,
requests at once. They hold for the whole host, however a key's connections lie on the workers; with
`limits.scope: fleet` the host has a share of them, which control writes beside the counts.

All workers count in one table (`quota_rows`). Nobody waits for a lock to decide: a worker writes
only its own counts and reads those of all. It first looks whether there is room, then counts its
request, and where the room is narrow looks again: of several that do so at once, nobody has missed
all the others, so that not one too many is admitted. It takes back what is over.

A key that finds no row in the table gets a row of the worker's own, and this worker's share of its
limits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from gateway import metrics
from gateway.dataplane.core.counters import Counters
from gateway.dataplane.exchange.quota_rows import LOCKED, NO_ROW, QuotaRows
from gateway.model import KeyLimits
from gateway.outcome import REFUSALS, Refusal, quota_spent
from gateway.quota_layout import (
    CELL_BYTES,
    RECORD_CELLS,
    SLOTS_PER_S,
    SPENT_UNTIL,
    USED_AT,
    owner_of,
)
from gateway.settings import PerKeyLimits

_IDLE_SLOTS: Final = 60 * SLOTS_PER_S
_RETRY_SLOTS: Final = 5 * SLOTS_PER_S
_UNLIMITED: Final = float("inf")
_ROUNDING: Final = 1e-6
"""A share of 3 of 10 requests at once is 3, though 10 times 0.3 may be a little less."""
_CROWDED: Final = (
    "more keys with limits are in use at once than have room in the table that the workers share: "
    "for the others each worker uses its own share of their limits"
)

_log = structlog.get_logger("gateway.worker")


class _Account:
    """Where one key's use is counted, and what this worker has learned in this slot of time."""

    __slots__ = (
        "bytes_at",
        "bytes_ceiling",
        "concurrent",
        "counts_bytes",
        "is_private",
        "limits",
        "my_bytes",
        "my_open",
        "my_refused",
        "my_requests",
        "next_try",
        "open_at",
        "own",
        "owner",
        "requests_at",
        "requests_ceiling",
        "row",
        "rows",
        "slot",
        "spent_until",
    )

    def __init__(
        self,
        owner: tuple[float, float],
        own: KeyLimits | None,
        limits: PerKeyLimits,
        rows: QuotaRows,
        row: int,
        next_try: int,
    ) -> None:
        self.owner = owner
        self.own = own
        """The key's own limits, which went into `limits`."""
        self.limits = limits
        self.rows = rows
        self.row = row
        self.is_private = next_try > 0
        """Whether `rows` is this worker's own, and `limits` its share."""
        self.next_try = next_try
        """The slot of time in which to look for a shared row again; 0 = this is one."""
        self.requests_at = (row + rows.requests_at) * CELL_BYTES
        """Where the block begins, in bytes, and so on."""
        self.bytes_at = (row + rows.bytes_at) * CELL_BYTES
        self.open_at = (row + rows.open_at) * CELL_BYTES
        self.my_requests = row + rows.requests_at + rows.column
        """Where this worker counts, in cells, and so on."""
        self.my_bytes = row + rows.bytes_at + rows.column
        self.my_open = row + rows.open_at + rows.column
        self.my_refused = row + rows.refused_at + rows.column
        self.counts_bytes = bool(limits.bytes or limits.bytes_per_day or limits.bytes_per_month)
        self.slot = -1
        self.spent_until = 0
        """The slot of time in which a quota ends that the key has used up."""
        self.requests_ceiling = _UNLIMITED
        self.bytes_ceiling = _UNLIMITED
        self.concurrent = 0.0
        """How many requests at once are this host's."""

    def room(self) -> float:
        """Return how many requests more are within the limits; 0 or less = none."""
        limits, rows = self.limits, self.rows
        read, buffer = rows.block.unpack_from, rows.buffer
        room = _UNLIMITED
        if limits.requests:
            room = self.requests_ceiling - sum(read(buffer, self.requests_at))
        if limits.concurrent:
            places = self.concurrent - sum(read(buffer, self.open_at))
            room = min(room, places)
        if limits.bytes and sum(read(buffer, self.bytes_at)) >= self.bytes_ceiling:
            return -1.0
        return room

    def count(self, requests: float) -> None:
        """Count requests of this worker, or take them back where negative."""
        cells = self.rows.cells
        cells[self.my_open] += requests
        cells[self.my_requests] += requests


class Lease:
    """A request's place within its key's limits, from its admission to its end."""

    __slots__ = ("_bytes", "_bytes_at", "_cells", "_open_at")

    def __init__(
        self, cells: memoryview[float], open_at: int, bytes_at: int, counted_bytes: int
    ) -> None:
        """`open_at` and `bytes_at` are where this worker counts for the key; `bytes_at` is -1 where
        bytes are not limited.
        """
        self._cells = cells
        self._open_at = open_at
        self._bytes_at = bytes_at
        self._bytes = counted_bytes

    def receive(self, request_bytes: int) -> None:
        """Count the request's bytes so far, as far as they were not declared."""
        if self._bytes_at >= 0 and request_bytes > self._bytes:
            self._cells[self._bytes_at] += request_bytes - self._bytes
            self._bytes = request_bytes

    def end(self, request_bytes: int) -> None:
        """Return the place; `request_bytes` are what has come in the end. Called once."""
        self._cells[self._open_at] -= 1.0
        if self._bytes_at >= 0 and request_bytes != self._bytes:
            self._cells[self._bytes_at] += request_bytes - self._bytes


class Quotas:
    """What this worker knows of all keys with limits.

    `rows` is the table that it shares with the host's other workers. `clock` returns monotonic
    seconds, the same for all of them.
    """

    __slots__ = (
        "_accounts",
        "_clock",
        "_counters",
        "_fence",
        "_idle_checked",
        "_limits",
        "_rows",
        "_was_crowded",
        "has_default",
    )

    def __init__(
        self,
        limits: PerKeyLimits,
        rows: QuotaRows | None,
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.has_default = any(
            (
                limits.requests,
                limits.bytes,
                limits.concurrent,
                limits.requests_per_day,
                limits.bytes_per_day,
                limits.requests_per_month,
                limits.bytes_per_month,
            )
        )
        """Whether a key without limits of its own is limited, too."""
        self._limits = limits
        self._rows = rows
        self._counters = counters
        self._was_crowded = False
        self._clock = clock
        self._fence = threading.Lock()
        """Nobody else uses it: getting it makes the processor finish what was written before."""
        self._accounts: dict[str, _Account] = {}
        self._idle_checked = int(clock() * SLOTS_PER_S)

    def admit(
        self, key_id: str, own: KeyLimits | None = None, declared_bytes: int = 0
    ) -> Lease | None:
        """Count a request of the key; None where the key has used up its limits.

        `declared_bytes` are counted at once, others as they come: a key may exceed its bytes by the
        last request of a second, and pays that back before its next. `own` are its own limits.
        """
        account = self._accounts.get(key_id)
        slot = int(self._clock() * SLOTS_PER_S)
        if account is None or (account.own is not own and account.own != own):
            account = self._open(key_id, own, slot)
        if slot != account.slot:
            account = self._look(account, key_id, slot)
        if account.spent_until > slot:
            return None
        if account.is_private and self._rows is not None:
            self._counters.count(metrics.LIMITS_DIVIDED)
        room = account.room()
        cells = account.rows.cells
        if room <= 0:
            cells[account.my_refused] += 1.0
            return None
        account.count(1.0)
        if room <= account.rows.used and self._is_over(account):
            cells[account.my_refused] += 1.0
            return None
        if not account.counts_bytes:
            return Lease(cells, account.my_open, -1, 0)
        if declared_bytes > 0:
            cells[account.my_bytes] += declared_bytes
        return Lease(cells, account.my_open, account.my_bytes, max(declared_bytes, 0))

    def refusal(self, key_id: str) -> Refusal:
        """Return why the key's last request was not admitted."""
        account = self._accounts.get(key_id)
        if account is None or account.spent_until <= account.slot:
            return REFUSALS["QUOTA"]
        return quota_spent((account.spent_until - account.slot) // SLOTS_PER_S)

    def _is_over(self, account: _Account) -> bool:
        """Look again, because others may decide at this moment; take back what is over."""
        self._fence.acquire()
        self._fence.release()
        if account.room() > -1:
            return False
        account.count(-1.0)
        return True

    def _open(self, key_id: str, own: KeyLimits | None, slot: int) -> _Account:
        """Find the key's row, and note it with its limits."""
        if slot - self._idle_checked > _IDLE_SLOTS:
            self._forget_idle(slot)
        before = self._accounts.get(key_id)
        owner = owner_of(key_id) if before is None else before.owner
        limits = self._limits if own is None else self._with_default(own)
        rows, next_try = self._rows, 0
        row = NO_ROW if rows is None else rows.find(owner, slot)
        if rows is None or row < 0:
            next_try = slot + (1 if row == LOCKED else _RETRY_SLOTS)
            if row == NO_ROW and rows is not None and not self._was_crowded:
                self._was_crowded = True
                _log.warning(_CROWDED, key_id=key_id)
            rows = before.rows if before is not None and before.is_private else QuotaRows.private()
            row = rows.find(owner, slot)
            limits = _share(limits)
        else:
            rows.note_limits(row, limits)
        account = self._accounts[key_id] = _Account(owner, own, limits, rows, row, next_try)
        return account

    def _look(self, account: _Account, key_id: str, slot: int) -> _Account:
        """Learn what the key may count in this slot of time, in the row that it has now."""
        if not account.rows.is_owner(account.row, account.owner) or (
            account.is_private and slot >= account.next_try
        ):
            account = self._open(key_id, account.own, slot)
        account.slot = slot
        rows, row, limits = account.rows, account.row, account.limits
        rows.see_columns()
        rows.cells[row + USED_AT] = slot
        account.spent_until = int(rows.cells[row + SPENT_UNTIL])
        default = 1.0 if self._rows is None else self._rows.default_share()
        shares = [default] * 3 if account.is_private else [rows.share(row, of) for of in range(3)]
        account.concurrent = max(1.0, float(int(limits.concurrent * shares[2] + _ROUNDING)))
        record = row + rows.records_at
        count = rows.total(row + rows.requests_at) if limits.requests else 0.0
        account.requests_ceiling = rows.ceiling(record, slot, count, limits.requests, shares[0])
        count = rows.total(row + rows.bytes_at) if limits.bytes else 0.0
        record += RECORD_CELLS
        account.bytes_ceiling = rows.ceiling(record, slot, count, limits.bytes, shares[1])
        return account

    def _with_default(self, own: KeyLimits) -> PerKeyLimits:
        """Return a key's own limits; where it has none, the default."""
        default = self._limits
        return PerKeyLimits(
            default.requests if own.requests is None else own.requests,
            default.bytes if own.bytes is None else own.bytes,
            default.concurrent if own.concurrent is None else own.concurrent,
            _own(own.requests_per_day, default.requests_per_day),
            _own(own.bytes_per_day, default.bytes_per_day),
            _own(own.requests_per_month, default.requests_per_month),
            _own(own.bytes_per_month, default.bytes_per_month),
            default.workers,
        )

    def _forget_idle(self, slot: int) -> None:
        """Forget keys that were idle. What they used stands in their rows; a row of the worker's
        own is kept until it does not matter any more.
        """
        self._idle_checked = slot
        for key_id, account in list(self._accounts.items()):
            if slot - account.slot > _IDLE_SLOTS and (
                not account.is_private or account.rows.is_quiet(account.row, slot)
            ):
                del self._accounts[key_id]


def _share(limits: PerKeyLimits) -> PerKeyLimits:
    """Return one worker's part of a host's limits; a limit stays at least one request."""
    workers = limits.workers
    return PerKeyLimits(
        limits.requests / workers,
        limits.bytes / workers,
        -(-limits.concurrent // workers),
        workers=workers,
    )


def _own(own: int | None, default: float) -> float:
    return default if own is None else own
