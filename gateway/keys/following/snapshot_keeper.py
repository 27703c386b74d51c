"""One store's snapshot while the store is followed: read at the start, kept up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from gateway.keys.errors import (
    AnotherStoreError,
    StoreDamagedError,
    StoreError,
    StoreUnavailableError,
)
from gateway.keys.following.registry import Registry
from gateway.keys.following.snapshot import SnapshotFile, Stored
from gateway.keys.following.status import StoreStatus
from gateway.keys.record import KeyRecord
from gateway.keys.state_file import StateFileError

TOUCH_S: Final = 10.0
"""How exactly a snapshot's age is known after a restart."""


class SnapshotKeeper:
    """Keeps the snapshot of store number `number` of `registry` in `folder`.

    `on_problem` is called (text) with what loses no key.
    """

    def __init__(
        self,
        number: int,
        registry: Registry,
        status: StoreStatus,
        folder: Path,
        on_problem: Callable[[str], None],
    ) -> None:
        self._number = number
        self._registry = registry
        self._status = status
        self._on_problem = on_problem
        self._file = SnapshotFile(folder, status.name, status.location, on_problem)

    def background(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Return the tasks, by name, that run while the store is followed and never return."""
        return {
            f"keys.snapshot.{self._number}": self._rewrite_when_wanted,
            f"keys.age.{self._number}": self._keep_age,
        }

    async def read(self, error: StoreError) -> Stored | None:
        """Read the snapshot if the store's `error` is one that it helps against."""
        if not isinstance(error, StoreUnavailableError | StoreDamagedError | AnotherStoreError):
            return None
        try:
            stored = await self._file.read()
        except StateFileError as problem:
            self._on_problem(f"{self._file.path}: it is not used: {problem}")
            return None
        if stored is not None and stored.note:
            self._on_problem(f"{self._file.path}: {stored.note}")
        return stored

    def append(self, records: Sequence[KeyRecord], gone: Sequence[bytes] = ()) -> None:
        """Add changes of the store, and digests that it says nothing of any more."""
        self._file.append(list(records), gone)

    def rewrite(self) -> None:
        """Have all written anew, soon: the store was read as a whole."""
        self._file.wants_rewriting.set()

    def close(self, now_ms: int) -> None:
        """Release the file; what stands in it is in step until now where the store is up."""
        if self._status.up:
            self._file.touch(now_ms)
        self._file.close()

    async def _rewrite_when_wanted(self) -> None:
        while True:
            await self._file.wants_rewriting.wait()
            records = self._registry.records(self._number)
            await self._file.write(records, self._status.last_sync_ms)

    async def _keep_age(self) -> None:
        while True:
            if self._status.up:
                self._file.touch(self._status.last_sync_ms)
            await asyncio.sleep(TOUCH_S)
