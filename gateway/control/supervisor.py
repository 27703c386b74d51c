"""The workers' lives: all started, the hung and the dead replaced, replaced one by one on a reload.

Workers that share a plan and a map of connection counts are a *generation*. A reload opens the next
generation slot by slot, each new worker ready before the old one drains; when it fails, the old
generation takes its slots back. Sockets, keys and what reports are good for are others' business.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from gateway.channel import Down, KeyChanges, Lookup, Report, Traced, Unready
from gateway.control.counts import Counts
from gateway.control.slot import Slot, StartError
from gateway.control.worker_handle import Snapshot, State, WorkerHandle
from gateway.settings import WorkerSettings

WORKER_COMMAND: Final = (sys.executable, "-P", "-m", "gateway.dataplane.worker")
"""`-P`: modules come from the installation, never from the folder the gateway is started in."""

_log = structlog.get_logger("gateway.control")


@dataclass(frozen=True, slots=True)
class Timing:
    """When a worker counts as hung, in seconds."""

    silence_s: float = 10.0
    """Without a message, once it is ready; a report comes each second."""
    start_s: float = 60.0
    """Without a message before it is ready: imports, and a million keys."""
    sweep_s: float = 1.0
    exit_grace_s: float = 2.0
    """What a draining worker gets beyond its timeout before it is killed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a generation of workers is started with."""

    workers: int
    settings: Callable[[int, int], WorkerSettings]
    """(index, descriptor of the counts) → settings of that worker."""
    drain_timeout_s: float


class Listener(Protocol):
    """Who is told what workers say and when there are more or fewer of them."""

    def on_report(self, worker: WorkerHandle, report: Report) -> None:
        """Take a worker's report."""

    def on_message(self, worker: WorkerHandle, message: Lookup | Traced) -> None:
        """Take a worker's question, or what a trace sees."""

    def on_workers_changed(self) -> None:
        """Look at the workers' states and revisions again."""

    def on_worker_gone(self, worker: WorkerHandle) -> None:
        """Forget a worker: its last report has been taken."""

    def on_restart(self, reason: str) -> None:
        """Count a worker that was replaced: died, hung or reload."""

    def on_bug(self, place: str, error: Exception) -> None:
        """Count an unexpected exception."""

    def snapshot(self) -> Snapshot:
        """Return all keys as they are now."""


class Generation:
    """The slots of one plan. `spawn` starts a process for one of them."""

    def __init__(self, plan: Plan, owner: Supervisor) -> None:
        self.plan = plan
        self.counts = Counts(plan.workers)
        self.slots = [Slot(index, self, owner.clock) for index in range(plan.workers)]
        self.is_over = False
        """Whether all its slots are retired."""
        self._owner = owner

    def spawn(self, index: int) -> Awaitable[WorkerHandle]:
        """Start a process for slot `index` (`Supplier`)."""
        return self._owner.spawn(self, index)

    def snapshot(self) -> Snapshot:
        """Return all keys (`Supplier`)."""
        return self._owner.listener.snapshot()

    def on_restart(self, reason: str) -> None:
        """Count a restart (`Supplier`)."""
        self._owner.listener.on_restart(reason)

    def on_bug(self, place: str, error: Exception) -> None:
        """Count a bug (`Supplier`)."""
        self._owner.listener.on_bug(place, error)

    def retire(self, timeout_s: float) -> None:
        """Start no more workers, have those there are finish within `timeout_s` seconds."""
        self.is_over = True
        for slot in self.slots:
            slot.retire(timeout_s)


class Supervisor:
    """All worker processes of this host. `watch` must run beside it."""

    def __init__(
        self,
        listener: Listener,
        command: Sequence[str] = WORKER_COMMAND,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.listener = listener
        self.clock = clock
        self._command = tuple(command)
        self._timing = timing or Timing()
        self._workers: dict[WorkerHandle, Generation] = {}
        self._current: Generation | None = None
        self._generations: list[Generation] = []

    @property
    def wanted(self) -> int:
        """How many workers should accept connections."""
        return self._current.plan.workers if self._current is not None else 0

    @property
    def accepting(self) -> int:
        """How many workers accept connections."""
        return sum(worker.state is State.READY for worker in self._workers)

    @property
    def workers(self) -> Iterable[WorkerHandle]:
        """All workers that are not gone."""
        return self._workers.keys()

    def push(self, changes: KeyChanges) -> None:
        """Send a change of the keys to every worker."""
        for worker in tuple(self._workers):
            worker.push(changes)

    def say_unready(self) -> None:
        """Have all workers tell health checks that the gateway is about to stop."""
        self.send_to_all(Unready())

    def send_to_all(self, message: Down) -> None:
        """Send a message to every worker, those that are starting too."""
        for worker in tuple(self._workers):
            worker.send(message)

    async def start(self, plan: Plan) -> None:
        """Start all workers of `plan`; return when every one is ready.

        Raises `StartError` when one cannot work with its settings. Others are tried for ever.
        """
        generation = self._current = self._add(plan)
        await _open_all(generation.slots)

    async def replace(self, plan: Plan) -> None:
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
                old.slots[index].retire(old.plan.drain_timeout_s)
                self.listener.on_restart("reload")
        self._current = new
        old.retire(old.plan.drain_timeout_s)
        self._forget_generations()

    def drain(self, timeout_s: float) -> None:
        """Have all workers accept no more and finish what is open within `timeout_s` seconds."""
        for generation in tuple(self._generations):
            generation.retire(timeout_s)

    async def drained(self, timeout_s: float) -> int:
        """Wait for the end of a drain; return how many workers did not finish in time."""
        left = await self._wait_gone(self._workers, timeout_s + self._timing.exit_grace_s)
        for worker in left:
            _log.warning("a worker did not finish in time and is killed", pid=worker.pid)
        return len(left)

    async def close(self) -> None:
        """End all workers at once and forget them."""
        # Copies: meanwhile workers end, and generations without workers are forgotten.
        for generation in tuple(self._generations):
            for slot in generation.slots:
                await slot.close()
        for worker in tuple(self._workers):
            worker.kill()
        await self._wait_gone(self._workers, self._timing.silence_s)
        for generation in tuple(self._generations):
            generation.retire(0)
        self._forget_generations()

    async def watch(self) -> None:
        """Kill workers that are silent for too long: their slots replace them."""
        last = self.clock()
        while True:
            await asyncio.sleep(self._timing.sweep_s)
            now = self.clock()
            was_held_up = now - last > 2 * self._timing.sweep_s
            last = now
            for worker in list(self._workers):
                if was_held_up:  # we did not read meanwhile: silence says nothing
                    worker.last_heard = now
                elif now - worker.last_heard > self._patience_s(worker):
                    _log.error("a worker is silent and is killed", pid=worker.pid)
                    worker.kill_hung()

    async def spawn(self, generation: Generation, index: int) -> WorkerHandle:
        """Start a process for a generation's slot. Raises `OSError`."""
        settings = generation.plan.settings(index, generation.counts.fd)
        worker = await WorkerHandle.spawn(self._command, settings, self, self.clock)
        self._workers[worker] = generation
        return worker

    def on_report(self, worker: WorkerHandle, report: Report) -> None:
        """Pass a report on (`Owner`)."""
        self.listener.on_report(worker, report)

    def on_message(self, worker: WorkerHandle, message: Lookup | Traced) -> None:
        """Pass a message on (`Owner`)."""
        self.listener.on_message(worker, message)

    def on_progress(self, worker: WorkerHandle) -> None:
        """Free what a worker that ended held, and tell the listener (`Owner`)."""
        generation = self._workers.get(worker)
        if generation is not None and worker.state is State.LOST:
            generation.counts.free(worker.index)
        if worker.gone.is_set() and self._workers.pop(worker, None) is not None:
            self.listener.on_worker_gone(worker)
            self._forget_generations()
        self.listener.on_workers_changed()

    def on_bug(self, place: str, error: Exception) -> None:
        """Pass a bug on (`Owner`)."""
        self.listener.on_bug(place, error)

    def _patience_s(self, worker: WorkerHandle) -> float:
        return self._timing.silence_s if worker.was_ready else self._timing.start_s

    def _add(self, plan: Plan) -> Generation:
        generation = Generation(plan, self)
        self._generations.append(generation)
        return generation

    def _forget_generations(self) -> None:
        """Close the counts of generations that were replaced and have no worker any more."""
        live = {id(generation) for generation in self._workers.values()}
        for generation in list(self._generations):
            if generation.is_over and id(generation) not in live:
                generation.counts.close()
                self._generations.remove(generation)

    async def _take_back(self, old: Generation, new: Generation, failed: int) -> None:
        """Undo a replacement that failed at slot `failed`."""
        await _open_all(old.slots[:failed])
        new.retire(new.plan.drain_timeout_s)
        self._forget_generations()

    async def _wait_for_room(self, workers: int) -> None:
        """Wait until not more than one older generation drains, however often reloads come."""
        while True:
            draining = [w for w in self._workers if w.state is State.DRAINING]
            if len(draining) <= workers:
                return
            await self._wait_gone(draining[:1], self._timing.start_s)

    async def _wait_gone(
        self, workers: Iterable[WorkerHandle], timeout_s: float
    ) -> list[WorkerHandle]:
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
