"""One store and what this gateway knows of it: loaded, followed, kept while the store is away.

A store is read as a whole at first, and again where it cannot tell what changed; meanwhile changes
go on to be followed, so that a key deleted while a million are read is out within its bound. A
store that fails changes nothing for known keys; it is asked again every `RETRY_S`. What becomes of
keys whose store stays away (`keys.max_stale`) belongs to `following.staleness`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.keys.errors import StoreDeniedError, StoreError, StoreUnavailableError
from gateway.keys.following.registry import Registry
from gateway.keys.following.remembered_store import RememberedStore
from gateway.keys.following.snapshot import Stored
from gateway.keys.following.snapshot_keeper import SnapshotKeeper
from gateway.keys.following.status import StoreStatus
from gateway.keys.record import KeyDelta, KeyRecord
from gateway.keys.store import ConfirmationPublisher, KeyStore

RETRY_S: Final = 1.0
FREEZE_FROM: Final = 50_000
"""Keys from which on the collector is kept away from them."""


@dataclass(frozen=True, slots=True)
class FollowerEvents:
    """What a follower calls, and the clock it goes by."""

    on_delta: Callable[[KeyDelta], None]
    on_read: Callable[[StoreFollower], None]
    """The keys in memory now equal those of the store's revision `StoreFollower.revision`."""
    on_status: Callable[[StoreStatus], None]
    on_problem: Callable[[str], None]
    now_ms: Callable[[], int]


class StoreFollower:
    """Follows store number `number` of a registry. `state_dir` is where a snapshot may be kept."""

    def __init__(
        self,
        number: int,
        store: KeyStore,
        registry: Registry,
        events: FollowerEvents,
        state_dir: Path | None,
    ) -> None:
        self.number = number
        self.store = store
        self.status = StoreStatus(store.feed.name, store.feed.location)
        self.revision: int | None = None
        """How far the store has been followed; None = it must be read as a whole."""
        self.publisher: ConfirmationPublisher | None = None
        """Where this gateway says what its workers have confirmed; None until the store is open."""
        self._registry = registry
        self._events = events
        self._snapshot: SnapshotKeeper | None = None
        self._remembered: RememberedStore | None = None
        if state_dir is not None:
            self._remembered = RememberedStore(
                state_dir, store.feed.name, store.feed.location, events.on_problem
            )
        if state_dir is not None and store.has_snapshot:
            self._snapshot = SnapshotKeeper(
                number, registry, self.status, state_dir, events.on_problem
            )
        self._creates = True
        self._is_open = False
        self._is_loading = False
        self._written = 0
        """The newest revision that this gateway has made itself."""
        self._reading = asyncio.Lock()
        self._wants_load = asyncio.Event()

    async def start(self) -> None:
        """Open the store, making a missing one, and load all keys, or start from the snapshot.

        A store that this host's gateway used before is neither made anew nor replaced by another
        one. A store that cannot be reached, and has no snapshot, is waited for if it `is_remote`.
        Raises `StoreError` where this cannot end well.
        """
        known = None if self._remembered is None else self._remembered.read()
        if known is not None:
            self._creates = False
            self.store.feed.use_only(known)
        try:
            await self._open()
            await self.load(is_first=True)
        except StoreError as failure:
            error = self._explained(failure)
            stored = None if self._snapshot is None else await self._snapshot.read(error)
            is_denied = isinstance(error, StoreDeniedError)
            may_wait = self.store.feed.is_remote and isinstance(error, StoreUnavailableError)
            if stored is None and (is_denied or not may_wait):
                raise error from failure
            if stored is not None:
                self._begin_with(stored)
            self.status.count(error)
            self._events.on_status(self.status)

    async def close(self) -> None:
        """Release everything."""
        if self._snapshot is not None:
            self._snapshot.close(self._events.now_ms())
        if self.publisher is not None:
            self.publisher.close()
            self.publisher = None
        await self.store.feed.close()

    def background(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Return the tasks, by name, that run from `start` to `close` and never return."""
        tasks: dict[str, Callable[[], Awaitable[None]]] = {
            f"keys.follow.{self.number}": self._follow,
            f"keys.load.{self.number}": self._load_when_wanted,
        }
        return tasks if self._snapshot is None else {**tasks, **self._snapshot.background()}

    def take_over(self, records: Sequence[KeyRecord]) -> None:
        """Take over what this gateway has just written, without reading it again."""
        written = max(record.revision for record in records)
        self._written = max(self._written, written)
        self._apply(records)
        if self.revision is not None and written == self.revision + 1 and not self._is_loading:
            self.revision = written
            self._events.on_read(self)

    async def sync(self) -> None:
        """Read what changed and report it. Raises `StoreError`."""
        async with self._reading:
            changes = None
            written = self._written
            if self.revision is not None:
                changes = await self.store.feed.changes(self.revision)
            if changes is None or changes.revision < written:  # a backup, from before our change
                self._wants_load.set()
                return
            self.revision = max(self.revision or 0, changes.revision)
            if self.store.feed.is_cut_off and self.status.up:
                self._note_in_step()  # first: what it says nothing of may exist
            self._apply(changes.records, changes.gone)
        if not self._is_loading:
            self._in_step()

    async def load(self, *, is_first: bool = False) -> None:
        """Read the store as a whole and report what is new, unless it `is_first`.

        Raises `StoreError`.
        """
        parts = self.store.feed.everything()
        async with contextlib.aclosing(parts):
            async with self._reading:
                first = await anext(parts)
                self.revision, self._written = first.revision, 0
                load = self._registry.load(self.number)
                self._is_loading = True
            try:
                with _collector_at_rest(self._registry, self.number):
                    self._report(load.add(first.records, tell=not is_first))
                    async for part in parts:
                        self._report(load.add(part.records, tell=not is_first))
                        await asyncio.sleep(0)
                    for delta in load.finish():
                        self._report(delta)
                        await asyncio.sleep(0)
            except BaseException:
                load.abandon()
                self.revision = None
                raise
            finally:
                self._is_loading = False
        self._in_step()
        if self._snapshot is not None:
            self._snapshot.rewrite()
        store_id = self.store.feed.store_id
        if self._remembered is not None and store_id is not None:
            self._remembered.write(store_id)
            self._creates = False

    def fail(self, error: StoreError) -> None:
        """Take note that the store cannot be used."""
        was_up = self.status.up
        self.status.count(self._explained(error))
        if was_up:
            self._events.on_status(self.status)

    def _explained(self, error: StoreError) -> StoreError:
        return error if self._remembered is None else self._remembered.explained(error)

    def _in_step(self) -> None:
        self._events.on_read(self)
        self._note_in_step()

    def _note_in_step(self) -> None:
        feed = self.store.feed
        if self.status.note_in_step(
            self._events.now_ms(), read_only=feed.is_read_only, cut_off=feed.is_cut_off
        ):
            self._events.on_status(self.status)

    def _apply(self, records: Sequence[KeyRecord], gone: Sequence[bytes] = ()) -> None:
        delta = self._registry.apply(self.number, records, gone)
        if delta is not None:
            if self._snapshot is not None:
                self._snapshot.append(records, gone)
            self._events.on_delta(delta)

    def _report(self, delta: KeyDelta | None) -> None:
        if delta is not None:
            self._events.on_delta(delta)

    async def _open(self) -> None:
        await self.store.feed.open(create=self._creates)
        self._is_open = True
        if self.publisher is None and self.store.confirmations is not None:
            # Before loading: a command that does not see this gateway changed the store before.
            self.publisher = self.store.confirmations.publisher(self._events.on_problem)

    async def _follow(self) -> None:
        while True:
            try:
                if not self._is_open:
                    await self._open()
                await self.store.feed.wait_for_change()
                await self.sync()
            except StoreError as error:
                self.fail(error)
                await asyncio.sleep(RETRY_S)

    async def _load_when_wanted(self) -> None:
        while True:
            await self._wants_load.wait()
            self._wants_load.clear()
            try:
                await self.load()
            except StoreError as error:
                self.fail(error)
                await asyncio.sleep(RETRY_S)
                self._wants_load.set()

    def _begin_with(self, stored: Stored) -> None:
        load = self._registry.load(self.number)
        with _collector_at_rest(self._registry, self.number):
            load.add(stored.records, tell=False)
        load.abandon()
        self.status.loaded = True
        self.status.last_sync_ms = stored.synced_ms
        self._events.on_problem(
            f"{self.store.feed.location}: started with the {len(stored.records)} keys that were"
            " known when it was last in reach"
        )


@contextlib.contextmanager
def _collector_at_rest(registry: Registry, number: int) -> Iterator[None]:
    """Keep the garbage collector from walking very many new keys again and again.

    They live as long as the process: afterwards it never looks at them again, or a full collection
    would stop everything else for a moment that can be felt.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
        if len(registry.held(number)) >= FREEZE_FROM:
            gc.freeze()
