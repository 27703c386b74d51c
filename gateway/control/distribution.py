"""Keys on their way to the workers: changes pushed to all, and which revision all have confirmed.

A revision is *confirmed* when no worker on this host decides on a request with an older one. That
is what create and delete wait for, by command or API, and what revocation lag is measured to. Where
changes come from belongs to `keys.service`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from gateway.channel import SNAPSHOT_CHUNK, KeyChanges
from gateway.control.worker_handle import WorkerHandle
from gateway.keys.record import KeyDelta

_MS_PER_S = 1_000


class Distribution:
    """Pushes changes and watches them being applied.

    `workers` gives all workers that are not gone; `push` sends to all of them. `on_confirmed` gets
    each newly confirmed revision, `on_lag` the seconds from a change in the store to that moment.
    `revision` is that of the keys that control has at first.
    """

    def __init__(
        self,
        revision: int,
        workers: Callable[[], Iterable[WorkerHandle]],
        push: Callable[[KeyChanges], None],
        on_confirmed: Callable[[int], None],
        on_lag: Callable[[float], None],
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self.revision = revision
        self.confirmed_revision = revision
        self._workers = workers
        self._push = push
        self._on_confirmed = on_confirmed
        self._on_lag = on_lag
        self._unix_s = unix_s
        self._waiting: dict[asyncio.Future[None], int] = {}
        self._unconfirmed: deque[tuple[int, int]] = deque()
        """(revision, when the change was made in Unix ms), oldest first."""

    def on_delta(self, delta: KeyDelta) -> None:
        """Push a change to all workers (subscriber of the key service)."""
        self.revision = delta.revision
        if delta.changed_at_ms is not None:
            self._unconfirmed.append((delta.revision, delta.changed_at_ms))
        for changes in _parts(delta):
            self._push(changes)
        self.recheck()

    def recheck(self) -> None:
        """Look at what the workers have applied. Called whenever that, or their number, changes."""
        applied = (worker.applied for worker in self._workers() if worker.decides)
        confirmed = min(applied, default=self.revision)
        if confirmed <= self.confirmed_revision:
            return
        self.confirmed_revision = confirmed
        self._on_confirmed(confirmed)
        self._measure_lag(confirmed)
        for waiting, revision in list(self._waiting.items()):
            if revision <= confirmed and not waiting.done():
                waiting.set_result(None)

    async def confirmed(self, revision: int, timeout_s: float = 1.0) -> bool:
        """Wait until every worker on this host has confirmed `revision`.

        False after `timeout_s` seconds: some worker may still decide with older keys.
        """
        if revision <= self.confirmed_revision:
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
