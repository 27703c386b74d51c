"""All worker processes: started, replaced when they die or hang, replaced one by one on a reload.

Workers that share a plan and a map of connection counts are a *generation*. A reload opens the next
generation slot by slot, each new worker ready before the old one drains; when it fails, the old
generation takes its slots back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from gateway.channel import Unready
from gateway.control.core.errors import ErrorReporter, StartError
from gateway.control.workers.generation import Generation, WorkerPlan
from gateway.control.workers.observers import WorkerObservers
from gateway.control.workers.quota_tables import QuotaTables
from gateway.control.workers.slot import KeySource, Slot, SlotContext
from gateway.control.workers.worker_handle import WorkerHandle, WorkerObserver, WorkerState
from gateway.control.workers.worker_set import WorkerSet
from gateway.control.workers.worker_start import WorkerStarter
from gateway.settings import QuotaPlace, WorkerSettings

_log = structlog.get_logger("gateway.control")


@dataclass(frozen=True, slots=True)
class Timing:
    """When a worker counts as hung, in seconds.

    Hung is one that gets nothing done: it neither sends a message, due each second, nor sets its
    sign of life. One that has too much to do sets it with everything that it reads.
    """

    silence_s: float = 10.0
    """Once it is ready."""
    start_s: float = 60.0
    """Before it is ready: imports, and a million keys."""
    sweep_s: float = 1.0
    exit_grace_s: float = 2.0
    """What a draining worker gets beyond its timeout before it is killed."""


class Supervisor(WorkerObserver):
    """Starts, watches and replaces the workers in `workers`. `watch` must run beside it.

    `keys` has the keys that new workers get; `observers` are notified of all that happens to
    workers; `errors` gets unexpected exceptions; `clock` returns monotonic seconds. `starter` may
    have started workers of the first plan early. In `quotas` workers count the use of limited keys.
    """

    def __init__(  # noqa: PLR0913 - options by name, given in one place
        self,
        workers: WorkerSet,
        keys: KeySource,
        observers: Sequence[WorkerObserver],
        errors: ErrorReporter,
        *,
        quotas: QuotaTables | None = None,
        starter: WorkerStarter | None = None,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.workers = workers
        self._starter = starter or WorkerStarter()
        self._timing = timing or Timing()
        self._quotas = quotas or QuotaTables()
        # First itself: the others see a worker that is gone neither here nor in `workers`.
        mine = (self, self._quotas)
        self._context = SlotContext(
            keys, workers, WorkerObservers([*mine, *observers], errors), errors, clock
        )
        self._current: Generation | None = None
        self._generations: list[Generation] = []

    async def start(self, plan: WorkerPlan) -> None:
        """Start all workers of `plan`; return when every one is ready.

        Raises `StartError` when one cannot work with its settings. Others are started again until
        they are ready.
        """
        generation = self._current = self._add(plan)
        self.workers.wanted = plan.workers
        try:
            await _open_all(generation.slots)
        finally:
            self._starter.close()

    async def replace(self, plan: WorkerPlan) -> None:
        """Replace all workers by those of `plan`, one by one, each ready before the old drains.

        Raises `StartError` when one does not become ready; then everything is as it was.
        """
        old = self._current
        if old is None:
            msg = "replace before start"
            raise RuntimeError(msg)
        await self._wait_for_room(old.plan.workers)
        new = self._add(plan)
        for index in range(max(len(old.slots), len(new.slots))):
            try:
                if index < len(new.slots):
                    await new.slots[index].open(is_trial=True)
            except StartError:
                await self._take_back(old, new, index)
                raise
            if index < len(old.slots):
                old.slots[index].retire(old.plan.drain_timeout_s, is_replaced=True)
                self._context.observer.worker_replaced("reload")
        self._current = new
        self.workers.wanted = plan.workers
        self.workers.unsteady.clear()
        old.retire(old.plan.drain_timeout_s, is_replaced=True)
        self._close_ended()

    def own_quota_place(self) -> QuotaPlace | None:
        """Return where control counts requests that it decides on itself; None before the start."""
        return self._quotas.own_place()

    def say_unready(self) -> None:
        """Have all workers answer health checks with "not ready": a drain will follow."""
        self.workers.send_to_all(Unready())

    def drain(self, timeout_s: float) -> None:
        """Have all workers stop accepting and finish open requests within `timeout_s` seconds."""
        for generation in tuple(self._generations):
            generation.retire(timeout_s, is_replaced=False)

    async def drained(self, timeout_s: float) -> int:
        """Wait for the end of a drain; return how many workers did not finish in time."""
        left = await _wait_gone(self.workers, timeout_s + self._timing.exit_grace_s)
        for worker in left:
            _log.warning("a worker did not finish in time and is killed", pid=worker.pid)
        return len(left)

    async def close(self) -> None:
        """End all workers at once and forget them."""
        # Copies: meanwhile workers end, and generations without workers are removed.
        for generation in tuple(self._generations):
            for slot in generation.slots:
                await slot.close()
        for worker in self.workers:
            worker.kill()
        await _wait_gone(self.workers, self._timing.silence_s)
        for generation in tuple(self._generations):
            generation.retire(0, is_replaced=False)
        self._close_ended()
        self._quotas.close()

    async def watch(self) -> None:
        """Kill workers that get nothing done for too long: their slots replace them."""
        clock = self._context.clock
        last = clock()
        while True:
            await asyncio.sleep(self._timing.sweep_s)
            now = clock()
            was_held_up = now - last > 2 * self._timing.sweep_s
            last = now
            if was_held_up:  # control read nothing meanwhile: silence proves nothing
                for worker in self.workers:
                    worker.last_heard = now
            else:
                self.kill_stuck(now)

    def kill_stuck(self, now: float) -> None:
        """Kill the workers that have got nothing done for too long by `now`."""
        for worker in self.workers:
            if self._has_sign_of_life(worker):
                worker.last_heard = now
            elif now - worker.last_heard > self._patience_s(worker):
                _log.error("a worker gets nothing done and is killed", pid=worker.pid)
                worker.kill_hung()

    def _has_sign_of_life(self, worker: WorkerHandle) -> bool:
        return any(
            generation.counts.take_sign_of_life(worker.index)
            for generation in self._generations
            if worker in generation.workers
        )

    def worker_changed(self, worker: WorkerHandle) -> None:
        """Free what a worker held that has ended (`WorkerObserver`)."""
        for generation in self._generations:
            if worker in generation.workers and worker.state is WorkerState.LOST:
                generation.counts.free(worker.index)
        if worker.gone.is_set() and worker in self.workers:
            self.workers.remove(worker)
            for generation in self._generations:
                generation.workers.discard(worker)
            self._context.observer.worker_gone(worker)
            self._close_ended()

    async def _spawn(self, settings: WorkerSettings) -> WorkerHandle:
        context = self._context
        settings = self._quotas.place(settings)
        try:
            worker = await WorkerHandle.spawn(
                self._starter, settings, context.observer, context.errors, context.clock
            )
        except BaseException:
            self._quotas.not_started(settings)
            raise
        self._quotas.started(worker, settings)
        self.workers.add(worker)
        context.observer.worker_started(worker)
        return worker

    def _patience_s(self, worker: WorkerHandle) -> float:
        return self._timing.silence_s if worker.was_ready else self._timing.start_s

    def _add(self, plan: WorkerPlan) -> Generation:
        self._quotas.prepare(plan.workers)
        generation = Generation(plan, self._spawn, self._context)
        self._generations.append(generation)
        return generation

    def _close_ended(self) -> None:
        """Close the counts of generations that were replaced and have no worker any more."""
        for generation in list(self._generations):
            if generation.is_over and not generation.workers:
                generation.counts.close()
                self._generations.remove(generation)

    async def _take_back(self, old: Generation, new: Generation, failed: int) -> None:
        """Undo a replacement that failed at slot `failed`."""
        await _open_all(old.slots[:failed])
        new.retire(new.plan.drain_timeout_s, is_replaced=True)
        self._close_ended()

    async def _wait_for_room(self, workers: int) -> None:
        """Wait until at most one older generation drains, however often reloads come."""
        while True:
            draining = [w for w in self.workers if w.state is WorkerState.DRAINING]
            if len(draining) <= workers:
                return
            await _wait_gone(draining[:1], self._timing.start_s)


async def _wait_gone(workers: Iterable[WorkerHandle], timeout_s: float) -> list[WorkerHandle]:
    """Wait until the workers are gone; return those that are not."""
    waits = {asyncio.create_task(worker.gone.wait()): worker for worker in workers}
    if not waits:
        return []
    _, pending = await asyncio.wait(waits, timeout=timeout_s)
    for wait in pending:
        wait.cancel()
    return [waits[wait] for wait in pending]


async def _open_all(slots: Iterable[Slot]) -> None:
    """Open slots side by side. Raises the first `StartError`."""
    await asyncio.gather(*(slot.open(is_trial=False) for slot in slots))
