"""When keys were last used, and how much: gathered in memory, written now and then.

Losing usage loses no key: a store of usage that is damaged or missing is no reason not to start.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.keys.daily_usage import (
    DailyUsage,
    DayTraffic,
    ItemSums,
    PeriodUsage,
    UsageQuery,
    day_of,
)
from gateway.keys.errors import StoreError, StoreUnavailableError
from gateway.keys.record import KeyUsage
from gateway.keys.store import UsageStore

FLUSH_S: Final = 5.0
"""The longest time until usage is written, and the shortest between two writes."""
KEPT_DAYS: Final = 400
"""How long usage by day is kept, unless somebody says otherwise: a year and a month."""
_NOT_KEPT: Final = "usage of keys is not kept here: there is no key store that has a place for it"


class UsageRecorder:
    """Gathers what workers report and writes it to `store` every `FLUSH_S`.

    `store` None: only the last uses are known, since the start. `on_problem` is called (text) when
    writing begins to fail; what could not be written is kept and added to the next attempt.
    `now_ms`: Unix milliseconds.
    """

    def __init__(
        self,
        store: UsageStore | None,
        on_problem: Callable[[str], None],
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._on_problem = on_problem
        self._is_open = False
        self._now_ms = now_ms
        self.kept_days = KEPT_DAYS
        """How many days usage by day is kept, today included."""
        self._forgotten = ""
        """The day before which all was dropped last."""
        self._pending: dict[str, KeyUsage] = {}
        self._daily = DailyUsage()
        self._last_used_ms: dict[str, int] = {}
        self._is_failing = False

    @property
    def is_kept(self) -> bool:
        """Whether usage is written, so that `run` has something to do."""
        return self._is_open

    async def start(self, gone: Callable[[Collection[str]], Collection[str]]) -> None:
        """Open the store, making a missing one, and learn when keys were last used.

        `gone` returns those of the key ids whose sums are dropped.
        """
        if self._store is None:
            return
        try:
            await self._store.open(create=True)
        except StoreError as error:
            await self._store.close()
            self._on_problem(f"usage of keys is not kept: {error}")
            return
        self._is_open = True
        try:
            sums = await self._store.load()
            if dropped := gone(sums):
                await self._store.forget(dropped)
        except StoreError as error:
            self._on_problem(f"usage of keys cannot be read: {error}")
            return
        self._last_used_ms = {key_id: each.last_used_ms for key_id, each in sums.items()}

    async def close(self) -> None:
        """Write what was gathered and release the store."""
        if self._store is not None and self._is_open:
            await self.flush()
            await self._store.close()

    def note(self, key_id: str, usage: KeyUsage) -> None:
        """Add to what will be written. The caller passes only ids of known keys."""
        if usage.last_used_ms:
            self._last_used_ms[key_id] = max(self.last_used_ms(key_id), usage.last_used_ms)
        if self._is_open:
            self._gather(key_id, usage)
            day = day_of(usage.last_used_ms or self._now_ms())
            traffic = DayTraffic(usage.requests, usage.bytes, usage.refusals)
            self._daily.add_traffic(day, key_id, traffic)

    def note_items(self, key_id: str, signal: str, sums: ItemSums) -> None:
        """Add to what is known of a key's items today. The caller passes only ids of known keys."""
        if self._is_open:
            self._daily.add_items(day_of(self._now_ms()), key_id, signal, sums)

    async def periods(self, query: UsageQuery) -> list[PeriodUsage]:
        """Return usage by day, month or key, up to `FLUSH_S` late. Raises `StoreError`."""
        if self._store is None or not self._is_open:
            raise StoreUnavailableError(_NOT_KEPT)
        return await self._store.periods(query)

    def last_used_ms(self, key_id: str) -> int:
        """When the key was last allowed, before this start too; 0 = never."""
        return self._last_used_ms.get(key_id, 0)

    async def sums(self, key_ids: Collection[str]) -> Mapping[str, KeyUsage]:
        """Return the traffic of keys since they exist; nothing where that is not kept.

        Sums that cannot be read now count as none: lists of keys must not fail for them.
        """
        if self._store is None or not self._is_open:
            return {}
        stored: Mapping[str, KeyUsage] = {}
        with contextlib.suppress(StoreError):
            stored = await self._store.load(key_ids)
        return {
            each: stored.get(each, KeyUsage()).plus(self._pending.get(each, KeyUsage()))
            for each in key_ids
        }

    async def flush(self) -> None:
        """Write what was gathered; a failure is reported once, and tried again the next time."""
        if self._store is None or not (self._pending or self._daily):
            return
        batch, self._pending = self._pending, {}
        daily, self._daily = self._daily, DailyUsage()
        try:
            await self._store.add(batch, daily)
        except StoreError as error:
            for key_id, usage in batch.items():
                self._gather(key_id, usage)
            self._daily.add(daily)
            if not self._is_failing:
                self._on_problem(f"usage of keys cannot be written: {error}")
            self._is_failing = True
        else:
            self._is_failing = False

    async def forget_old_days(self) -> None:
        """Drop what is older than it is kept, once a day; a failure is tried again later."""
        today = datetime.fromtimestamp(self._now_ms() / 1000, UTC)
        before = f"{today - timedelta(days=self.kept_days - 1):%Y-%m-%d}"
        if self._store is None or before == self._forgotten:
            return
        with contextlib.suppress(StoreError):
            await self._store.forget_days(before)
            self._forgotten = before

    async def run(self) -> None:
        """Write for ever."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()
            await self.forget_old_days()

    def _gather(self, key_id: str, usage: KeyUsage) -> None:
        known = self._pending.get(key_id)
        self._pending[key_id] = usage if known is None else known.plus(usage)
