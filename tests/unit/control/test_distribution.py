from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

import pytest

from gateway.channel import KeyChanges
from gateway.control.distribution import Distribution
from gateway.control.worker_handle import WorkerHandle
from gateway.keys.record import KeyDelta
from gateway.model import KeyEntry, Principal

ENTRY = KeyEntry(b"d" * 32, Principal("1"))


@dataclass
class Worker:
    """What the distribution reads of a worker."""

    applied: int = 1
    decides: bool = True


class Fixture:
    def __init__(self, *workers: Worker) -> None:
        self.workers = list(workers)
        self.pushed: list[KeyChanges] = []
        self.published: list[int] = []
        self.lags: list[float] = []
        self.distribution = Distribution(
            1,
            lambda: cast("list[WorkerHandle]", self.workers),
            self.pushed.append,
            self.published.append,
            self.lags.append,
            lambda: 1_700_000_000.0,
        )

    def change(self, revision: int, changed_at_ms: int | None = None) -> None:
        self.distribution.on_delta(KeyDelta(revision, [ENTRY], [b"gone"], changed_at_ms))

    def apply(self, worker: Worker, revision: int) -> None:
        worker.applied = revision
        self.distribution.recheck()


def test_a_change_is_pushed_to_the_workers() -> None:
    fixture = Fixture(Worker())
    fixture.change(2)
    assert fixture.pushed == [KeyChanges(2, [ENTRY], [b"gone"])]


@pytest.mark.parametrize(
    "upserts,removals,parts",
    [(0, 0, 1), (1, 0, 1), (1_000, 0, 1), (1_001, 0, 2), (999, 2, 2), (3, 2_400, 3)],
)
def test_a_large_change_is_pushed_in_parts_of_one_revision(
    upserts: int, removals: int, parts: int
) -> None:
    fixture = Fixture(Worker())
    entries = [KeyEntry(number.to_bytes(32), Principal(str(number))) for number in range(upserts)]
    gone = [number.to_bytes(32) for number in range(removals)]
    fixture.distribution.on_delta(KeyDelta(2, entries, gone))
    assert [changes.last for changes in fixture.pushed] == [False] * (parts - 1) + [True]
    assert {changes.revision for changes in fixture.pushed} == {2}
    assert [entry for changes in fixture.pushed for entry in changes.upserts] == entries
    assert [digest for changes in fixture.pushed for digest in changes.removals] == gone
    assert max(len(c.upserts) + len(c.removals) for c in fixture.pushed) <= 1_000


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
    fixture.distribution.recheck()
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
    fixture.workers.append(Worker(applied=2))
    fixture.distribution.recheck()
    fixture.distribution.recheck()
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
