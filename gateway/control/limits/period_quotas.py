"""Quotas of keys for a day and a month: counted here, about once a second, from what workers count.

What was used is added to a store, so that it outlives a restart: the shared one with
`limits.scope: fleet`, else a file of this host's. For a key that has used up a quota it is written
into its row until when, and workers refuse its requests. While the store is away, what is known is
counted on from.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from gateway import metrics
from gateway.channel import Report
from gateway.control.core.current_config import CurrentConfig
from gateway.control.limits.periods import Periods, periods_at
from gateway.control.limits.reports import owner_key
from gateway.control.workers.quota_tables import QuotaTables
from gateway.control.workers.quota_view import QuotaView, RowUse
from gateway.control.workers.worker_handle import WorkerObserver
from gateway.keys.errors import StoreError
from gateway.keys.quota_store import QuotaStore, QuotaUse
from gateway.quota_layout import QUOTAS, SLOTS_PER_S, owner_of

PERIOD_S: Final = 1.0
IDLE_S: Final = 60.0
MOST_NAMES: Final = 20_000
MOST_SERIES: Final = 1_000
_NOTHING: Final = QuotaUse()

_log = structlog.get_logger("gateway.control")


@dataclass(slots=True)
class _KeyInUse:
    """One key with quotas, in all tables."""

    quotas: tuple[float, ...] = ()
    rows: list[tuple[QuotaView, RowUse]] = field(default_factory=list)


class PeriodQuotas(WorkerObserver):
    """Counts quotas over `tables`. `run` must run beside it.

    `shared` is the store of the fleet, if there is one, `local` this host's. `clock` returns
    monotonic seconds as workers have them, `unix_s` Unix seconds.
    """

    def __init__(
        self,
        config: CurrentConfig,
        tables: QuotaTables,
        shared: QuotaStore | None,
        local: QuotaStore,
        clock: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._tables = tables
        self._shared = shared
        self._local = local
        self._clock = clock
        self._unix_s = unix_s
        self._before: dict[tuple[int, int], RowUse] = {}
        self._open: dict[int, Collection[int]] = {}
        """Table → its rows with open requests."""
        self._ratios: dict[bytes, dict[str, float]] = {}
        """Key in use → what part of each of its quotas is used."""
        self._pending: dict[bytes, QuotaUse] = {}
        """What was used and is not in the store yet."""
        self._totals: dict[tuple[bytes, str], QuotaUse] = {}
        self._names: dict[bytes, str] = {}
        """Key → its id, of keys in use while some have quotas."""
        self._told: dict[bytes, str] = {}
        """Key → the period of which the log has said that its quota is used up."""
        self._problem = ""
        self._is_used = False
        self._turn = asyncio.Lock()

    @property
    def store(self) -> QuotaStore:
        """Where sums are kept, by the present configuration."""
        is_fleet = self._config.config.limits.scope == "fleet"
        return self._shared if is_fleet and self._shared is not None else self._local

    @property
    def for_edges(self) -> QuotaStore:
        """Where gateways that follow this one's keys count."""
        return self._local if self._shared is None else self._shared

    async def run(self) -> None:
        """Count for ever."""
        while True:
            await self.step()
            await asyncio.sleep(PERIOD_S)

    async def step(self) -> None:
        """Count what was used since the last time, and say which quotas are used up."""
        async with self._turn:
            keys = await self._measure()
            self._is_used = bool(keys)
            self._ratios = {key: each for key, each in self._ratios.items() if key in keys}
            if not keys and not self._pending:
                return
            periods = periods_at(self._unix_s())
            await self._add(keys, periods)
            for key, found in keys.items():
                self._judge(key, found, periods)

    def series(self, key_name: Callable[[str], str]) -> dict[str, dict[tuple[str, ...], float]]:
        """Return metric name → labels → value, of the keys that have used most of their quotas.

        `key_name` returns the name of a key id.
        """
        used = (
            (ratio, key_id, quota)
            for key, ratios in self._ratios.items()
            if (key_id := self._names.get(key)) is not None
            for quota, ratio in ratios.items()
        )
        most = heapq.nlargest(MOST_SERIES, used)
        return {
            metrics.KEY_QUOTA_USED.name: {
                (key_id, key_name(key_id), quota): ratio for ratio, key_id, quota in most
            }
        }

    async def close(self) -> None:
        """Release the stores."""
        await self._local.close()
        if self._shared is not None:
            await self._shared.close()

    def worker_reported(self, worker: Hashable, report: Report) -> None:  # noqa: ARG002 - an observer's
        """Learn the ids of keys in use, for the log (`WorkerObserver`)."""
        if not self._is_used:
            return
        if len(self._names) > MOST_NAMES:
            self._names.clear()
        for usage in report.usage:
            self._names[owner_key(owner_of(usage.key_id))] = usage.key_id

    async def _measure(self) -> dict[bytes, _KeyInUse]:
        since = (self._clock() - IDLE_S) * SLOTS_PER_S
        found: dict[bytes, _KeyInUse] = {}
        for view in self._tables.views():
            # What came of requests that have ended since counts, too.
            were_open = self._open.get(view.number, frozenset())
            self._open[view.number] = is_open = set[int]()
            for number, row in enumerate(view.rows(since, were_open)):
                if row.open:
                    is_open.add(row.number)
                if number % 256 == 255:  # noqa: PLR2004 - others are served in between
                    await asyncio.sleep(0)
                before = self._before.get((view.number, row.number))
                self._before[view.number, row.number] = row
                if not any(row.quotas):
                    continue
                key = owner_key(row.owner)
                in_use = found.setdefault(key, _KeyInUse())
                in_use.quotas = row.quotas
                in_use.rows.append((view, row))
                used = QuotaUse(
                    round(row.requests - (before.requests if before else 0.0)),
                    round(row.bytes - (before.bytes if before else 0.0)),
                )
                if used != _NOTHING:
                    self._pending[key] = self._pending.get(key, _NOTHING).plus(used)
        return found

    async def _add(self, keys: Mapping[bytes, _KeyInUse], periods: Periods) -> None:
        """Add what is pending to the store, and learn the sums."""
        used, self._pending = self._pending, {}
        try:
            totals = await self.store.add(used, keys, periods.names)
        except StoreError as error:
            self._pending = used
            if str(error) != self._problem:
                self._problem = str(error)
                _log.warning(
                    "the use of keys' quotas cannot be stored now: this gateway goes on counting"
                    " from what it knew, and adds it later",
                    error=self._problem,
                )
            return
        if self._problem:
            self._problem = ""
            _log.info("the use of keys' quotas is stored again")
        self._totals = dict(totals)

    def _judge(self, key: bytes, found: _KeyInUse, periods: Periods) -> None:
        """Write into a key's rows until when its requests are refused."""
        until_s, quota = self._spent_until(key, found.quotas, periods)
        slot = 0.0
        if until_s:
            slot = float(int((self._clock() + until_s - self._unix_s()) * SLOTS_PER_S) + 1)
            self._tell(key, quota, periods)
        for view, row in found.rows:
            view.set_spent(row, slot)

    def _spent_until(
        self, key: bytes, quotas: tuple[float, ...], periods: Periods
    ) -> tuple[float, str]:
        """Return when the last quota ends that is used up, in Unix seconds, and which; 0 = none."""
        pending = self._pending.get(key, _NOTHING)
        day = self._totals.get((key, periods.day), _NOTHING).plus(pending)
        month = self._totals.get((key, periods.month), _NOTHING).plus(pending)
        ends = (periods.day_ends_s, periods.day_ends_s, periods.month_ends_s, periods.month_ends_s)
        self._ratios[key] = {
            name: used / quota
            for name, quota, used in zip(QUOTAS, quotas, (*day, *month), strict=True)
            if quota
        }
        spent = [
            (end, name)
            for name, quota, used, end in zip(QUOTAS, quotas, (*day, *month), ends, strict=True)
            if quota and used >= quota
        ]
        return max(spent, default=(0.0, ""))

    def _tell(self, key: bytes, quota: str, periods: Periods) -> None:
        """Say it once, as soon as it is known whose key it is."""
        period = periods.day if quota.endswith("day") else periods.month
        name = self._names.get(key)
        if name is not None and self._told.get(key) != period:
            if len(self._told) > MOST_NAMES:
                self._told.clear()
            self._told[key] = period
            _log.warning(
                "an API key has used up its quota: its requests are refused until the day or the"
                " month is over (UTC)",
                key_id=name,
                quota=quota,
                period=period,
            )
