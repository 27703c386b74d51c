"""The keys of a running gateway: all of them in memory, always as the stores have them.

Loads every store, follows their changes and tells subscribers what the workers must know. It knows
nothing of workers itself: control pushes the changes and says when they are confirmed. Commands on
a store without a gateway use `keys.manage`.

A store that fails after the start changes nothing for known keys: they stay as they were last read,
and the store is asked again every `RETRY_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.keys import usage
from gateway.keys.audit import GATEWAY, Actor, AuditEntry
from gateway.keys.board import ConfirmationBoard
from gateway.keys.errors import KeyRefusedError, StoreError
from gateway.keys.manage import Issued, KeyManager, Rotated, now_unix_ms
from gateway.keys.material import KeyMaterial
from gateway.keys.record import KeyDelta, KeyRecord, KeyUsage, KnownKey, StaticKey
from gateway.keys.registry import Registry
from gateway.keys.store import KeyStore, KeyUpdate
from gateway.model import KeyDigest, KeyEntry, Signal

RETRY_S: Final = 1.0
PURGE_S: Final = 60.0


@dataclass(slots=True)
class StoreStatus:
    """How a store is, for health and metrics."""

    name: str
    location: str
    up: bool = False
    last_sync_ms: int = 0
    """When the keys in memory were last known to equal the store's; Unix milliseconds."""
    error: str | None = None
    """Why it is not up, for people."""
    errors: dict[str, int] = field(default_factory=dict)
    """Failures by `errors.STORE_ERROR_REASONS`."""


class _Source:
    """One store and how far it has been read."""

    def __init__(self, number: int, store: KeyStore) -> None:
        self.number = number
        self.store = store
        self.status = StoreStatus(store.name, store.location)
        self.revision: int | None = None
        self.board: ConfirmationBoard | None = None
        self.reading = asyncio.Lock()


@dataclass(frozen=True, slots=True)
class _Unconfirmed:
    """Once workers confirm `revision` (the gateway's), `source` stands at `store_revision`."""

    revision: int
    source: _Source
    store_revision: int


class KeyService:
    """All keys of this gateway.

    `stores` are asked in order, after the `static` keys; new keys go to the first. `on_status` is
    told when a store fails and when it is back, `on_problem` (text) of what loses no key.
    """

    def __init__(
        self,
        stores: Sequence[KeyStore],
        static: Sequence[StaticKey] = (),
        *,
        tombstones_s: float,
        with_names: bool = False,
        on_status: Callable[[StoreStatus], None] = lambda _: None,
        on_problem: Callable[[str], None] = lambda _: None,
        now_ms: Callable[[], int] = now_unix_ms,
    ) -> None:
        self._sources = [_Source(number, store) for number, store in enumerate(stores)]
        self._registry = Registry(static, len(stores), with_names=with_names)
        self._tombstones_ms = round(tombstones_s * 1000)
        self._on_status = on_status
        self._on_problem = on_problem
        self._now_ms = now_ms
        self._subscribers: list[Callable[[KeyDelta], None]] = []
        self._unconfirmed: deque[_Unconfirmed] = deque()
        self._usage_store: usage.UsageStore | None = None
        self._usage: usage.UsageRecorder | None = None
        self._last_used_ms: dict[str, int] = {}

    # Life

    async def start(self) -> None:
        """Open the stores, making a missing one, and load all keys. Raises `StoreError`."""
        try:
            for source in self._sources:
                await source.store.open(create=True)
                if source.store.file is not None:
                    # Before loading: a command that misses the board changed the store before.
                    source.board = ConfirmationBoard(source.store.file)
                await self._sync(source)
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
            if source.board is not None:
                source.board.close()
                source.board = None
            await source.store.close()

    def background(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Give the tasks, by name, that must run from `start` to `close`.

        They never return. One that fails unexpectedly may be started again.
        """
        tasks: dict[str, Callable[[], Awaitable[None]]] = {"keys.purge": self._purge_for_ever}
        for source in self._sources:
            tasks[f"keys.follow.{source.number}"] = functools.partial(self._follow, source)
        if self._usage is not None:
            tasks["keys.usage"] = self._usage.run
        return tasks

    # What is known

    @property
    def revision(self) -> int:
        """This gateway's count of changes, from whichever store."""
        return self._registry.revision

    def snapshot(self) -> tuple[int, list[KeyEntry]]:
        """Give the revision and all that a new worker must know."""
        return self._registry.revision, self._registry.entries()

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
        """Tell waiting commands that every live worker has at least `revision` (or none lives)."""
        newest: dict[int, _Unconfirmed] = {}
        while self._unconfirmed and self._unconfirmed[0].revision <= revision:
            confirmed = self._unconfirmed.popleft()
            newest[confirmed.source.number] = confirmed
        for confirmed in newest.values():
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
        by: Actor = GATEWAY,
    ) -> Issued:
        """As `KeyManager.create`; subscribers have been told when it returns."""
        issued = await self._manager(by).create(name, description, expires_at_ms, signals)
        await self._take_over()
        return issued

    async def adopt(
        self,
        key: KeyMaterial,
        name: str,
        description: str | None = None,
        expires_at_ms: int | None = None,
        signals: frozenset[Signal] | None = None,
        by: Actor = GATEWAY,
    ) -> Issued:
        """As `KeyManager.adopt`; subscribers have been told when it returns."""
        issued = await self._manager(by).adopt(key, name, description, expires_at_ms, signals)
        await self._take_over()
        return issued

    async def update(self, key_id: int, update: KeyUpdate, by: Actor = GATEWAY) -> KeyRecord:
        """As `KeyManager.update`; subscribers have been told when it returns."""
        updated = await self._manager(by).update(key_id, update)
        await self._take_over()
        return updated

    async def delete(self, key_id: int, by: Actor = GATEWAY) -> KeyRecord:
        """As `KeyManager.delete`; subscribers have been told when it returns."""
        deleted = await self._manager(by).delete(key_id)
        await self._take_over()
        return deleted

    async def rotate(
        self,
        key_id: int,
        overlap_ms: int,
        expires_at_ms: int | None = None,
        by: Actor = GATEWAY,
    ) -> Rotated:
        """As `KeyManager.rotate`; subscribers have been told when it returns."""
        rotated = await self._manager(by).rotate(key_id, overlap_ms, expires_at_ms)
        await self._take_over()
        return rotated

    async def live_keys(self) -> list[KeyRecord]:
        """As `KeyManager.live_keys`."""
        return await self._manager().live_keys()

    async def live_page(self, after: int, limit: int) -> list[KeyRecord]:
        """As `KeyManager.live_page`."""
        return await self._manager().live_page(after, limit)

    async def audit(
        self, limit: int, before: int | None = None, key_id: int | None = None
    ) -> list[AuditEntry]:
        """As `KeyManager.audit`."""
        return await self._manager().audit(limit, before, key_id)

    async def purge(self) -> None:
        """Forget tombstones that are older than they need to be, here and in the stores."""
        deleted_before_ms = self._now_ms() - self._tombstones_ms
        for source in self._sources:
            try:
                await source.store.purge(deleted_before_ms)
            except StoreError as error:
                self._failed(source, error)
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
        file = next((s.store.file for s in self._sources if s.store.file is not None), None)
        if file is None:
            return
        store = usage.UsageStore(usage.path_for(file))
        try:
            await store.open(create=True)
            sums = await store.load()
            gone = [key_id for key_id in sums if key_id.isdigit() and self.record(key_id) is None]
            if gone:
                await store.forget(gone)
        except StoreError as error:
            await store.close()
            self._on_problem(f"usage of keys is not kept: {error}")
            return
        self._last_used_ms = {key_id: each.last_used_ms for key_id, each in sums.items()}
        self._usage_store = store
        self._usage = usage.UsageRecorder(store, self._on_problem)

    # Following the stores

    def _manager(self, by: Actor = GATEWAY) -> KeyManager:
        if not self._sources:
            msg = "no key store is configured: set keys.stores to keep keys"
            raise KeyRefusedError(msg)
        return KeyManager(self._sources[0].store, self._now_ms, by)

    async def _take_over(self) -> None:
        """Take over what was just written. If that fails it is written all the same."""
        source = self._sources[0]
        with contextlib.suppress(StoreError):
            await self._sync(source)

    async def _follow(self, source: _Source) -> None:
        while True:
            try:
                await source.store.wait_for_change()
                await self._sync(source)
            except StoreError as error:
                self._failed(source, error)
                await asyncio.sleep(RETRY_S)

    async def _sync(self, source: _Source) -> None:
        """Read what changed and tell the subscribers. Raises `StoreError`."""
        async with source.reading:
            changes = await source.store.changes(source.revision)
            if changes.complete or changes.revision != source.revision:
                source.revision = changes.revision
                delta = self._registry.apply(source.number, changes)
                pending = _Unconfirmed(delta.revision, source, changes.revision)
                self._unconfirmed.append(pending)
                self._tell(delta)
        was_up, source.status.up = source.status.up, True
        source.status.last_sync_ms = self._now_ms()
        source.status.error = None
        if not was_up:
            self._on_status(source.status)

    def _failed(self, source: _Source, error: StoreError) -> None:
        status = source.status
        status.errors[error.reason] = status.errors.get(error.reason, 0) + 1
        was_up, status.up = status.up, False
        status.error = str(error)
        if was_up:
            self._on_status(status)

    def _tell(self, delta: KeyDelta) -> None:
        for subscriber in list(self._subscribers):
            subscriber(delta)

    async def _purge_for_ever(self) -> None:
        while True:
            await self.purge()
            await asyncio.sleep(PURGE_S)
