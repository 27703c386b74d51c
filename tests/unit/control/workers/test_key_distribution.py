from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest

from gateway.channel import KeyChanges
from gateway.control.workers.key_distribution import KeyDistribution
from gateway.control.workers.worker_handle import WorkerHandle
from gateway.control.workers.worker_set import WorkerSet
from gateway.keys.record import KeyDelta
from gateway.model import KeyEntry, Principal

ENTRY = KeyEntry(b"d" * 32, Principal("1"))


@dataclass(eq=False)
class Worker:
    """What the distribution needs of a worker."""

    applied: int = 1
    decides: bool = True
    pushed: list[KeyChanges] = field(default_factory=list)

    def push(self, changes: KeyChanges) -> None:
        self.pushed.append(changes)


class Fixture:
    """A distribution, and the keys that it distributes."""

    def __init__(self, *workers: Worker) -> None:
        self.revision = 1
        self.published: list[int] = []
        self.lags: list[float] = []
        self.workers = WorkerSet(len(workers))
        for worker in workers:
            self.add(worker)
        self.distribution = KeyDistribution(
            self, self.workers, self.lags.append, lambda: 1_700_000_000.0
        )
        self.distribution.start()

    def snapshot(self) -> tuple[int, list[KeyEntry], bool]:
        return self.revision, [ENTRY], True

    def subscribe(self, subscriber: Callable[[KeyDelta], None]) -> None:
        self.tell = subscriber

    def publish_confirmed(self, revision: int) -> None:
        self.published.append(revision)

    def add(self, worker: Worker) -> None:
        self.workers.add(cast("WorkerHandle", worker))

    def changed(self, worker: Worker) -> None:
        self.distribution.worker_changed(cast("WorkerHandle", worker))

    def change(self, revision: int, changed_at_ms: int | None = None) -> None:
        self.tell(KeyDelta(revision, [ENTRY], [b"gone"], changed_at_ms))

    def apply(self, worker: Worker, revision: int) -> None:
        worker.applied = revision
        self.changed(worker)


def test_a_change_is_pushed_to_the_workers() -> None:
    worker = Worker()
    fixture = Fixture(worker)
    fixture.change(2)
    assert worker.pushed == [KeyChanges(2, [ENTRY], [b"gone"])]


@pytest.mark.parametrize(
    "upserts,removals,parts",
    [(0, 0, 1), (1, 0, 1), (1_000, 0, 1), (1_001, 0, 2), (999, 2, 2), (3, 2_400, 3)],
)
def test_a_large_change_is_pushed_in_parts_of_one_revision(
    upserts: int, removals: int, parts: int
) -> None:
    worker = Worker()
    fixture = Fixture(worker)
    entries = [KeyEntry(number.to_bytes(32), Principal(str(number))) for number in range(upserts)]
    gone = [number.to_bytes(32) for number in range(removals)]
    fixture.tell(KeyDelta(2, entries, gone))
    assert [changes.last for changes in worker.pushed] == [False] * (parts - 1) + [True]
    assert {changes.revision for changes in worker.pushed} == {2}
    assert [entry for changes in worker.pushed for entry in changes.upserts] == entries
    assert [digest for changes in worker.pushed for digest in changes.removals] == gone
    assert max(len(c.upserts) + len(c.removals) for c in worker.pushed) <= 1_000


async def test_a_revision_is_confirmed_when_every_worker_has_applied_it() -> None:
    first, second = Worker(), Worker()
    fixture = Fixture(first, second)
    fixture.change(2)
    waiting = asyncio.create_task(fixture.distribution.confirmed(2, timeout_s=30))
    fixture.apply(first, 2)
    await asyncio.sleep(0)
    assert not waiting.done()
    assert not fixture.published
    fixture.apply(second, 2)
    assert await waiting
    assert fixture.published == [2]


async def test_a_revision_that_is_confirmed_already_is_not_waited_for() -> None:
    assert await Fixture(Worker()).distribution.confirmed(1, timeout_s=0)


async def test_waiting_ends_with_a_no_when_a_worker_does_not_confirm() -> None:
    fixture = Fixture(Worker())
    fixture.change(2)
    assert not await fixture.distribution.confirmed(2, timeout_s=0.01)
    assert not fixture.distribution._waiting


async def test_a_worker_that_is_lost_is_not_waited_for() -> None:
    dead = Worker()
    fixture = Fixture(Worker(applied=2), dead)
    fixture.change(2)
    waiting = asyncio.create_task(fixture.distribution.confirmed(2, timeout_s=30))
    await asyncio.sleep(0)
    dead.decides = False
    fixture.changed(dead)
    assert await waiting


async def test_without_workers_every_revision_is_confirmed() -> None:
    fixture = Fixture()
    fixture.change(2)
    assert fixture.published == [2]
    assert await fixture.distribution.confirmed(2, timeout_s=0)


def test_what_was_confirmed_is_published_once_and_never_lower() -> None:
    worker = Worker()
    fixture = Fixture(worker)
    fixture.change(2)
    fixture.change(3)
    fixture.apply(worker, 3)
    late = Worker(applied=2)
    fixture.add(late)
    fixture.changed(late)
    fixture.changed(late)
    assert fixture.published == [3]


@pytest.mark.parametrize("ago_ms,lag_s", [(2_000, 2.0), (0, 0.0), (-5_000, 0.0)])
def test_the_lag_is_measured_from_the_change_to_its_confirmation(ago_ms: int, lag_s: float) -> None:
    worker = Worker()
    fixture = Fixture(worker)
    fixture.change(2, changed_at_ms=1_700_000_000_000 - ago_ms)
    fixture.change(3)
    assert not fixture.lags
    fixture.apply(worker, 3)
    assert fixture.lags == [lag_s]


def test_workers_that_start_together_share_a_snapshot() -> None:
    fixture = Fixture()
    first = fixture.distribution.snapshot()
    assert fixture.distribution.snapshot() is first
    fixture.revision = 2
    assert fixture.distribution.snapshot().revision == 2


async def test_no_revision_is_confirmed_before_the_start() -> None:
    fixture = Fixture()
    distribution = KeyDistribution(fixture, fixture.workers, fixture.lags.append)
    assert not await distribution.confirmed(1, timeout_s=30)
