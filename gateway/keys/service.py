"""The keys of a running gateway: all of them in memory, always as the stores have them.

Follows every store (`keys.source`) and tells subscribers what the workers must know. It knows
nothing of workers itself: control pushes the changes and says when they are confirmed. Commands on
a store without a gateway use `keys.manage`.

While a remote store is away its known keys are served for `max_stale_s`, then no longer decided on;
a key that is not known may exist, so it is no definite no (`KeyDelta.complete`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.keys import usage
from gateway.keys.audit import GATEWAY, Actor, AuditEntry
from gateway.keys.errors import KeyRefusedError, StoreError
from gateway.keys.manage import Issued, KeyManager, Rotated, now_unix_ms
from gateway.keys.material import KeyMaterial
from gateway.keys.record import KeyDelta, KeyRecord, KeyUsage, KnownKey, StaticKey
from gateway.keys.registry import Registry
from gateway.keys.source import Listener, Source, StoreStatus
from gateway.keys.store import KeyStore, KeyUpdate
from gateway.model import KeyDigest, KeyEntry, KeyLimits, Signal

__all__ = ["KeyService", "StoreStatus"]

PURGE_S: Final = 60.0
AGE_S: Final = 1.0
"""Time between two looks at how long stores have been away."""


@dataclass(frozen=True, slots=True)
class _Unconfirmed:
    """Once workers confirm `revision` (the gateway's), `source` stands at `store_revision`."""

    revision: int
    source: Source
    store_revision: int


class KeyService:
    """All keys of this gateway.

    `stores` are asked in order, after the `static` keys; new keys go to the first that can be
    written. In `state_dir` snapshots are kept of stores that are not on this host; without it there
    are none. `on_status` is told when a store fails and when it is back, `on_problem` (text) of
    what loses no key.
    """

    def __init__(  # noqa: PLR0913 - options by name, given in one place
        self,
        stores: Sequence[KeyStore],
        static: Sequence[StaticKey] = (),
        *,
        tombstones_s: float,
        with_names: bool = False,
        max_stale_s: float = 86_400.0,
        state_dir: Path | None = None,
        on_status: Callable[[StoreStatus], None] = lambda _: None,
        on_problem: Callable[[str], None] = lambda _: None,
        now_ms: Callable[[], int] = now_unix_ms,
    ) -> None:
        self._registry = Registry(static, len(stores), with_names=with_names)
        listener = Listener(self._tell, self._on_read, self._on_status, on_problem, now_ms)
        self._sources = [
            Source(number, store, self._registry, listener, state_dir)
            for number, store in enumerate(stores)
        ]
        self._state_dir = state_dir
        self._max_stale_ms = round(max_stale_s * 1000)
        self._confirmed = 0
        self._tombstones_ms = round(tombstones_s * 1000)
        self._told_status = on_status
        self._on_problem = on_problem
        self._now_ms = now_ms
        self._subscribers: list[Callable[[KeyDelta], None]] = []
        self._unconfirmed: deque[_Unconfirmed] = deque()
        self._usage_store: usage.UsageKeeper | None = None
        self._usage: usage.UsageRecorder | None = None
        self._last_used_ms: dict[str, int] = {}

    # Life

    async def start(self) -> None:
        """Open the stores, making a missing one, and load all keys. Raises `StoreError`."""
        try:
            for source in self._sources:
                await source.start()
            await self._check_ages()
            await self._start_usage()
            # No worker lives yet: whichever starts later begins with at least this.
            self.publish_confirmed(self.revision)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Write what is gathered and let go of everything. End the background tasks before."""
        if self._usage is not None:
            await self._usage.flush()
        if self._usage_store is not None:
            await self._usage_store.close()
        for source in self._sources:
            await source.close()

    def background(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Give the tasks, by name, that must run from `start` to `close`.

        They never return. One that fails unexpectedly may be started again.
        """
        tasks: dict[str, Callable[[], Awaitable[None]]] = {
            "keys.purge": self._purge_for_ever,
            "keys.max_stale": self._check_ages_for_ever,
        }
        for source in self._sources:
            tasks.update(source.background())
        if self._usage is not None:
            tasks["keys.usage"] = self._usage.run
        return tasks

    # What is known

    @property
    def revision(self) -> int:
        """This gateway's count of changes, from whichever store."""
        return self._registry.revision

    @property
    def is_loaded(self) -> bool:
        """Whether the keys of all stores are known, be it from a snapshot."""
        return all(source.status.loaded for source in self._sources)

    def snapshot(self) -> tuple[int, Sequence[KeyEntry], bool]:
        """Give the revision, all that a new worker must know, and whether that is complete.

        See `KeyDelta.complete`. The entries are made when they are looked at.
        """
        return self._registry.revision, self._registry.entries(), self._registry.is_complete

    def record(self, key_id: str) -> KnownKey | None:
        """Look up a key by what workers call it; tombstones are found too."""
        return self._registry.find(key_id)

    def lookup(self, digest: KeyDigest) -> KnownKey | None:
        """Look up a key by its digest; tombstones are found too."""
        return self._registry.lookup(digest)

    def records(self) -> Iterator[KnownKey]:
        """Give all keys, tombstones included. To be used up before anything is awaited."""
        return self._registry.known()

    def counts(self) -> dict[str, int]:
        """Count keys by the states of `gateway_keys`."""
        return self._registry.counts(self._now_ms())

    def statuses(self) -> list[StoreStatus]:
        """Tell how each store is."""
        return [source.status for source in self._sources]

    def last_used_ms(self, key_id: str) -> int:
        """When the key was last allowed, before this start too; 0 = never."""
        return self._last_used_ms.get(key_id, 0)

    # Changes for the workers

    def subscribe(self, subscriber: Callable[[KeyDelta], None]) -> Callable[[], None]:
        """Have `subscriber` called with every change from now on; gives what ends that.

        Revisions rise by one from call to call. It must not wait and not raise.
        """
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def publish_confirmed(self, revision: int) -> None:
        """Take note, and tell waiting commands, that every live worker has at least `revision`, or
        that none lives.
        """
        self._confirmed = max(self._confirmed, revision)
        newest: dict[int, _Unconfirmed] = {}
        while self._unconfirmed and self._unconfirmed[0].revision <= revision:
            confirmed = self._unconfirmed.popleft()
            newest[confirmed.source.number] = confirmed
        for confirmed in newest.values():
            confirmed.source.status.revision = confirmed.store_revision
            if confirmed.source.board is not None:
                confirmed.source.board.publish(confirmed.store_revision)

    def use_names(self, *, with_names: bool) -> None:
        """Have workers told the keys' names, or not, from the next snapshot on.

        Those that have a snapshot must be replaced afterwards.
        """
        self._registry.use_names(with_names=with_names)

    def replace_static(self, static: Sequence[StaticKey]) -> None:
        """Take over the static keys of a configuration that was read again."""
        self._tell(self._registry.replace_static(static))

    # Changes by the gateway's own users

    async def create(
        self,
        name: str,
        description: str | None = None,
        expires_at_ms: int | None = None,
        signals: frozenset[Signal] | None = None,
        limits: KeyLimits | None = None,
        by: Actor = GATEWAY,
    ) -> Issued:
        """As `KeyManager.create`; subscribers have been told when it returns."""
        source = self._writable()
        manager = self._manager(source, by)
        issued = await manager.create(name, description, expires_at_ms, signals, limits)
        source.take_over([issued.record])
        return issued

    async def adopt(
        self,
        key: KeyMaterial,
        name: str,
        description: str | None = None,
        expires_at_ms: int | None = None,
        signals: frozenset[Signal] | None = None,
        limits: KeyLimits | None = None,
        by: Actor = GATEWAY,
    ) -> Issued:
        """As `KeyManager.adopt`; subscribers have been told when it returns."""
        source = self._writable()
        manager = self._manager(source, by)
        issued = await manager.adopt(key, name, description, expires_at_ms, signals, limits)
        source.take_over([issued.record])
        return issued

    async def update(self, key_id: int, update: KeyUpdate, by: Actor = GATEWAY) -> KeyRecord:
        """As `KeyManager.update`; subscribers have been told when it returns."""
        source = self._holding(key_id)
        updated = await self._manager(source, by).update(key_id, update)
        source.take_over([updated])
        return updated

    async def delete(self, key_id: int, by: Actor = GATEWAY) -> KeyRecord:
        """As `KeyManager.delete`; subscribers have been told when it returns."""
        source = self._holding(key_id)
        deleted = await self._manager(source, by).delete(key_id)
        source.take_over([deleted])
        return deleted

    async def rotate(
        self,
        key_id: int,
        overlap_ms: int,
        expires_at_ms: int | None = None,
        by: Actor = GATEWAY,
    ) -> Rotated:
        """As `KeyManager.rotate`; subscribers have been told when it returns."""
        source = self._holding(key_id)
        rotated = await self._manager(source, by).rotate(key_id, overlap_ms, expires_at_ms)
        source.take_over([rotated.issued.record, rotated.predecessor])
        return rotated

    async def live_keys(self) -> list[KeyRecord]:
        """As `KeyManager.live_keys`, of all stores."""
        managers = [KeyManager(source.store, self._now_ms) for source in self._sources]
        keys = [key for manager in managers for key in await manager.live_keys()]
        return sorted(keys, key=lambda key: (key.name, key.created_ms, key.id))

    async def live_page(self, after: int, limit: int) -> list[KeyRecord]:
        """As `KeyManager.live_page`, of all stores."""
        managers = [KeyManager(source.store, self._now_ms) for source in self._sources]
        keys = [key for manager in managers for key in await manager.live_page(after, limit)]
        return sorted(keys, key=lambda key: key.id)[:limit]

    async def audit(
        self, limit: int, before: int | None = None, key_id: int | None = None
    ) -> list[AuditEntry]:
        """As `KeyManager.audit`, of the store that new keys go to."""
        return await self._manager(self._writable()).audit(limit, before, key_id)

    async def purge(self) -> None:
        """Forget tombstones that are older than they need to be, here and in the stores."""
        deleted_before_ms = self._now_ms() - self._tombstones_ms
        for source in self._sources:
            try:
                if source.status.up:
                    await source.store.purge(deleted_before_ms)
            except StoreError as error:
                source.fail(error)
        delta = self._registry.forget_tombstones(deleted_before_ms)
        if delta is not None:
            self._tell(delta)

    # Usage

    def note_usage(
        self, key_id: str, *, allowed: bool, requests: int, body_bytes: int, last_used_ms: int
    ) -> None:
        """Take over a worker's report on one key. Reports on keys that are not known are ignored.

        `last_used_ms`: Unix milliseconds of the last of the requests.
        """
        if self._registry.find(key_id) is None:
            return
        noted = KeyUsage(refusals=requests)
        if allowed:
            noted = KeyUsage(requests, body_bytes, 0, last_used_ms)
            self._last_used_ms[key_id] = max(self.last_used_ms(key_id), last_used_ms)
        if self._usage is not None:
            self._usage.note(key_id, noted)

    async def usage_of(self, key_ids: Collection[str]) -> Mapping[str, KeyUsage]:
        """Tell the traffic of keys since they exist; nothing where that is not kept.

        Sums that cannot be read now count as none: lists of keys must not fail for them.
        """
        if self._usage_store is None or self._usage is None:
            return {}
        sums: Mapping[str, KeyUsage] = {}
        with contextlib.suppress(StoreError):
            sums = await self._usage_store.load(key_ids)
        recorder = self._usage
        return {each: sums.get(each, KeyUsage()).plus(recorder.pending(each)) for each in key_ids}

    async def _start_usage(self) -> None:
        places = (source.store.usage() for source in self._sources)
        store: usage.UsageKeeper | None = next((each for each in places if each is not None), None)
        if store is None and self._state_dir is not None and self._sources:
            store = usage.UsageStore(self._state_dir / "keys.usage")
        if store is None:
            return
        try:
            await store.open(create=True)
        except StoreError as error:
            await store.close()
            self._on_problem(f"usage of keys is not kept: {error}")
            return
        self._usage_store = store
        self._usage = usage.UsageRecorder(store, self._on_problem)
        try:
            sums = await store.load()
            gone = [key_id for key_id in sums if key_id.isdigit() and self.record(key_id) is None]
            if gone and all(source.status.up for source in self._sources):
                await store.forget(gone)
        except StoreError as error:
            self._on_problem(f"usage of keys cannot be read: {error}")
            return
        self._last_used_ms = {key_id: each.last_used_ms for key_id, each in sums.items()}

    # The stores

    def _writable(self) -> Source:
        for source in self._sources:
            if source.store.is_writable:
                return source
        msg = "no key store that can be written is configured: add one to keys.stores"
        raise KeyRefusedError(msg)

    def _holding(self, key_id: int) -> Source:
        number = self._registry.store_of(key_id)
        if number is None:
            return self._writable()
        source = self._sources[number]
        if not source.store.is_writable:
            msg = f"the key {key_id} stands in {source.store.location}: change it there"
            raise KeyRefusedError(msg)
        return source

    def _manager(self, source: Source, by: Actor = GATEWAY) -> KeyManager:
        return KeyManager(source.store, self._now_ms, by)

    def _on_read(self, source: Source) -> None:
        if source.revision is not None:
            self._unconfirmed.append(_Unconfirmed(self.revision, source, source.revision))
            if self.revision <= self._confirmed:
                self.publish_confirmed(self._confirmed)

    def _on_status(self, status: StoreStatus) -> None:
        self._check_completeness()
        self._told_status(status)

    def _check_completeness(self) -> None:
        is_complete = all(source.status.up for source in self._sources if source.store.is_remote)
        delta = self._registry.set_complete(is_complete=is_complete)
        if delta is not None:
            self._tell(delta)

    async def _check_ages(self) -> None:
        """Stop deciding on keys whose store was away for too long, or begin again."""
        for source in self._sources:
            status = source.status
            age_ms = self._now_ms() - status.last_sync_ms
            is_over = source.store.is_remote and not status.up and age_ms > self._max_stale_ms
            if is_over == status.suspended:
                continue
            status.suspended = is_over
            for delta in self._registry.suspend(source.number, is_suspended=is_over):
                self._tell(delta)
                await asyncio.sleep(0)

    async def _check_ages_for_ever(self) -> None:
        while True:
            await self._check_ages()
            await asyncio.sleep(AGE_S)

    def _tell(self, delta: KeyDelta) -> None:
        for subscriber in list(self._subscribers):
            subscriber(delta)

    async def _purge_for_ever(self) -> None:
        while True:
            await self.purge()
            await asyncio.sleep(PURGE_S)
