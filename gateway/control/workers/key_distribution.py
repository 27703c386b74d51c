"""Keys on their way to the workers: snapshots, changes, and which revision all have confirmed.

A revision is *confirmed* when no worker on this host decides on a request with an older one.
Commands and API requests that change a key wait for that, and the revocation lag is measured to it.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from gateway.channel import SNAPSHOT_CHUNK, KeyChanges
from gateway.control.workers.worker_handle import KeySnapshot, WorkerHandle, WorkerObserver
from gateway.control.workers.worker_set import WorkerSet
from gateway.keys.record import KeyDelta
from gateway.model import KeyEntry

_MS_PER_S = 1_000


class PublishedKeys(Protocol):
    """What the distribution needs of the key service."""

    @property
    def revision(self) -> int:
        """The count of changes."""

    def snapshot(self) -> tuple[int, Sequence[KeyEntry], bool]:
        """Return the revision, all keys, and whether they are complete."""

    def subscribe(self, subscriber: Callable[[KeyDelta], None]) -> object:
        """Have `subscriber` called with every change from now on."""

    def publish_confirmed(self, revision: int) -> None:
        """Take note that every worker decides by `revision`."""


class KeyDistribution(WorkerObserver):
    """Sends keys and their changes to `workers`, and watches them being applied.

    `on_lag` gets the seconds from each change in the store to its confirmation by every worker;
    `unix_s` returns the time in Unix seconds.
    """

    def __init__(
        self,
        keys: PublishedKeys,
        workers: WorkerSet,
        on_lag: Callable[[float], None],
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self.is_started = False
        self._confirmed_revision = -1
        self._keys = keys
        self._workers = workers
        self._on_lag = on_lag
        self._unix_s = unix_s
        self._revision = -1
        self._snapshot: weakref.ref[KeySnapshot] = weakref.ref(KeySnapshot(-1, []))
        self._waiting: dict[asyncio.Future[None], int] = {}
        self._unconfirmed: deque[tuple[int, int]] = deque()
        """(revision, when the change was made in Unix ms), oldest first."""

    def start(self) -> None:
        """Begin with the keys as they are once their service has started."""
        self._revision = self._confirmed_revision = self._keys.revision
        self._keys.subscribe(self._on_delta)
        self.is_started = True

    def snapshot(self) -> KeySnapshot:
        """Return all keys as they are now; workers that start together share one."""
        snapshot = self._snapshot()
        if snapshot is None or snapshot.revision != self._keys.revision:
            snapshot = KeySnapshot(*self._keys.snapshot())
            self._snapshot = weakref.ref(snapshot)
        return snapshot

    def worker_changed(self, worker: WorkerHandle) -> None:  # noqa: ARG002 - an observer's
        """Look at the revisions of all workers again (`WorkerObserver`)."""
        if self.is_started:
            self._recheck()

    async def confirmed(self, revision: int, timeout_s: float = 1.0) -> bool:
        """Wait until every worker on this host has confirmed `revision`.

        False after `timeout_s` seconds: some worker may still decide with older keys. False at once
        before `start`.
        """
        if not self.is_started:
            return False
        if revision <= self._confirmed_revision:
            return True
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiting] = revision
        try:
            async with asyncio.timeout(timeout_s):
                await waiting
        except TimeoutError:
            return False
        finally:
            del self._waiting[waiting]
        return True

    def _on_delta(self, delta: KeyDelta) -> None:
        self._revision = delta.revision
        if delta.changed_at_ms is not None:
            self._unconfirmed.append((delta.revision, delta.changed_at_ms))
        for changes in _parts(delta):
            self._workers.push(changes)
        self._recheck()

    def _recheck(self) -> None:
        """Look at what the workers have applied. Called whenever that, or their number, changes."""
        applied = (worker.applied for worker in self._workers if worker.decides)
        confirmed = min(applied, default=self._revision)
        if confirmed <= self._confirmed_revision:
            return
        self._confirmed_revision = confirmed
        self._keys.publish_confirmed(confirmed)
        self._measure_lag(confirmed)
        for waiting, revision in list(self._waiting.items()):
            if revision <= confirmed and not waiting.done():
                waiting.set_result(None)

    def _measure_lag(self, confirmed: int) -> None:
        now_ms = self._unix_s() * _MS_PER_S
        while self._unconfirmed and self._unconfirmed[0][0] <= confirmed:
            _, changed_at_ms = self._unconfirmed.popleft()
            self._on_lag(max(0.0, now_ms - changed_at_ms) / _MS_PER_S)


def _parts(delta: KeyDelta) -> Iterator[KeyChanges]:
    """Cut a change into messages of at most `SNAPSHOT_CHUNK` keys; removals first."""
    removals, upserts = delta.removals, delta.upserts
    total = len(removals) + len(upserts)
    for start in range(0, max(total, 1), SNAPSHOT_CHUNK):
        end = start + SNAPSHOT_CHUNK
        some = upserts[max(0, start - len(removals)) : max(0, end - len(removals))]
        is_last = end >= total
        yield KeyChanges(delta.revision, some, removals[start:end], is_last, delta.complete)
