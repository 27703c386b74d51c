"""One store and what this gateway knows of it: loaded, followed, kept while the store is away.

A store is read as a whole at first, and again where it cannot tell what changed; meanwhile changes
go on to be followed, so that a key deleted while a million are read is out within its bound. A
store that fails changes nothing for known keys; it is asked again every `RETRY_S`. What becomes of
keys whose store stays away (`keys.max_stale`) is the service's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.keys.board import Board
from gateway.keys.errors import (
    StoreDamagedError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from gateway.keys.record import KeyDelta, KeyRecord
from gateway.keys.registry import Registry
from gateway.keys.snapshot import SnapshotError, SnapshotFile, Stored
from gateway.keys.store import KeyStore

RETRY_S: Final = 1.0
TOUCH_S: Final = 10.0
"""How exactly a snapshot's age is known after a restart."""
FREEZE_FROM: Final = 50_000
"""Keys from which on the collector is kept away from them."""


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
    loaded: bool = False
    """Whether its keys are known at all, be it from the snapshot."""
    revision: int = 0
    """The store's revision that every worker on this host decides by, or a newer one; 0 = none yet.
    Gateways that share a store can be compared by it.
    """
    suspended: bool = False
    """Whether it was away for longer than `keys.max_stale`: its keys are not decided on."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what: the service."""

    on_delta: Callable[[KeyDelta], None]
    on_read: Callable[[Source], None]
    """The keys in memory now equal those of the store's revision `Source.revision`."""
    on_status: Callable[[StoreStatus], None]
    on_problem: Callable[[str], None]
    now_ms: Callable[[], int]


class Source:
    """Store number `number` of a registry. `state_dir` is where a snapshot may be kept."""

    def __init__(
        self,
        number: int,
        store: KeyStore,
        registry: Registry,
        listener: Listener,
        state_dir: Path | None,
    ) -> None:
        self.number = number
        self.store = store
        self.status = StoreStatus(store.name, store.location)
        self.revision: int | None = None
        """How far the store has been followed; None = it must be read as a whole."""
        self.board: Board | None = None
        self._registry = registry
        self._listener = listener
        self._snapshot: SnapshotFile | None = None
        if state_dir is not None and store.file is None:
            self._snapshot = SnapshotFile(
                state_dir, store.name, store.location, listener.on_problem
            )
        self._is_open = False
        self._is_loading = False
        self._written = 0
        """The newest revision that this gateway has made itself."""
        self._reading = asyncio.Lock()
        self._wants_load = asyncio.Event()

    async def start(self) -> None:
        """Open the store, making a missing one, and load all keys, or start from the snapshot.

        A store that cannot be reached, and has no snapshot, is waited for if it `is_remote`. Raises
        `StoreError` where this cannot end well.
        """
        try:
            await self._open()
            await self.load(tell=False)
        except StoreError as error:
            stored = await self._stored(error)
            denied = isinstance(error, StoreDeniedError)
            may_wait = self.store.is_remote and isinstance(error, StoreUnavailableError)
            if stored is None and (denied or not may_wait):
                raise
            if stored is not None:
                self._begin_with(stored)
            self._count(error)
            self._listener.on_status(self.status)

    async def close(self) -> None:
        """Let go of everything."""
        if self._snapshot is not None:
            if self.status.up:
                self._snapshot.touch(self._listener.now_ms())
            self._snapshot.close()
        if self.board is not None:
            self.board.close()
            self.board = None
        await self.store.close()

    def background(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Give the tasks, by name, that run from `start` to `close` and never return."""
        tasks: dict[str, Callable[[], Awaitable[None]]] = {
            f"keys.follow.{self.number}": self._follow,
            f"keys.load.{self.number}": self._load_when_wanted,
        }
        if self._snapshot is not None:
            tasks[f"keys.snapshot.{self.number}"] = self._keep_snapshot
            tasks[f"keys.age.{self.number}"] = self._keep_age
        return tasks

    def take_over(self, records: Sequence[KeyRecord]) -> None:
        """Take over what this gateway has just written, without reading it again."""
        written = max(record.revision for record in records)
        self._written = max(self._written, written)
        delta = self._registry.apply(self.number, records)
        if delta is not None:
            self._changed(records, delta)
        if self.revision is not None and written == self.revision + 1 and not self._is_loading:
            self.revision = written
            self._listener.on_read(self)

    async def sync(self) -> None:
        """Read what changed and tell the listener. Raises `StoreError`."""
        async with self._reading:
            changes = None
            written = self._written
            if self.revision is not None:
                changes = await self.store.changes(self.revision)
            if changes is None or changes.revision < written:  # a backup, from before our change
                self._wants_load.set()
                return
            self.revision = max(self.revision or 0, changes.revision)
            delta = self._registry.apply(self.number, changes.records)
            if delta is not None:
                self._changed(changes.records, delta)
        if not self._is_loading:
            self._in_step()

    async def load(self, *, tell: bool = True) -> None:
        """Read the store as a whole; `tell` the listener what is new. Raises `StoreError`."""
        parts = self.store.everything()
        async with contextlib.aclosing(parts):
            async with self._reading:
                first = await anext(parts)
                self.revision, self._written = first.revision, 0
                load = self._registry.load(self.number)
                self._is_loading = True
            try:
                with _collector_at_rest(self._registry, self.number):
                    self._tell(load.add(first.records, tell=tell))
                    async for part in parts:
                        self._tell(load.add(part.records, tell=tell))
                        await asyncio.sleep(0)
                    for delta in load.finish():
                        self._tell(delta)
                        await asyncio.sleep(0)
            except BaseException:
                load.abandon()
                self.revision = None
                raise
            finally:
                self._is_loading = False
        self._in_step()
        if self._snapshot is not None:
            self._snapshot.wants_rewriting.set()

    def fail(self, error: StoreError) -> None:
        """Take note that the store cannot be used."""
        was_up = self.status.up
        self._count(error)
        if was_up:
            self._listener.on_status(self.status)

    def _count(self, error: StoreError) -> None:
        status = self.status
        status.errors[error.reason] = status.errors.get(error.reason, 0) + 1
        status.up, status.error = False, str(error)

    def _in_step(self) -> None:
        status = self.status
        was_up, status.up = status.up, True
        status.last_sync_ms = self._listener.now_ms()
        status.loaded, status.error = True, None
        self._listener.on_read(self)
        if not was_up:
            self._listener.on_status(status)

    def _changed(self, records: Sequence[KeyRecord], delta: KeyDelta) -> None:
        if self._snapshot is not None:
            self._snapshot.append(list(records))
        self._listener.on_delta(delta)

    def _tell(self, delta: KeyDelta | None) -> None:
        if delta is not None:
            self._listener.on_delta(delta)

    async def _open(self) -> None:
        await self.store.open(create=True)
        self._is_open = True
        if self.board is None:
            # Before loading: a command that misses the board changed the store before.
            self.board = self.store.board()

    async def _follow(self) -> None:
        while True:
            try:
                if not self._is_open:
                    await self._open()
                await self.store.wait_for_change()
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

    # The snapshot

    async def _stored(self, error: StoreError) -> Stored | None:
        """Read the snapshot if `error` is one that it helps against."""
        if self._snapshot is None or not isinstance(
            error, StoreUnavailableError | StoreDamagedError
        ):
            return None
        try:
            stored = await self._snapshot.read()
        except SnapshotError as problem:
            self._listener.on_problem(f"{self._snapshot.path}: it is not used: {problem}")
            return None
        if stored is not None and stored.note:
            self._listener.on_problem(f"{self._snapshot.path}: {stored.note}")
        return stored

    def _begin_with(self, stored: Stored) -> None:
        load = self._registry.load(self.number)
        with _collector_at_rest(self._registry, self.number):
            load.add(stored.records, tell=False)
        load.abandon()
        self.status.loaded = True
        self.status.last_sync_ms = stored.synced_ms
        self._listener.on_problem(
            f"{self.store.location}: started with the {len(stored.records)} keys that were known"
            " when it was last in reach"
        )

    async def _keep_snapshot(self) -> None:
        snapshot = self._snapshot
        while snapshot is not None:
            await snapshot.wants_rewriting.wait()
            await snapshot.write(self._registry.records(self.number), self.status.last_sync_ms)

    async def _keep_age(self) -> None:
        while self._snapshot is not None:
            if self.status.up:
                self._snapshot.touch(self.status.last_sync_ms)
            await asyncio.sleep(TOUCH_S)


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
