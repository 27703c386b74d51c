"""One place for a worker, kept filled: a worker that dies is replaced, after a growing wait.

The wait is short while no worker accepts: the kernel goes on taking connections, and somebody must
serve them.

A worker that ends with `FAILS_AGAIN` before the slot ever had a ready one is not tried again:
the first start of the gateway fails with it. In a trial (a reload) the slot fails when the first
worker ends before it is ready: the worker that it would replace still runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from gateway.control.core.backoff import STEADY_S, Backoff
from gateway.control.core.errors import ErrorReporter, StartError
from gateway.control.workers.worker_handle import (
    KeySnapshot,
    WorkerHandle,
    WorkerObserver,
    WorkerState,
)
from gateway.control.workers.worker_set import WorkerSet
from gateway.worker_contract import FAILS_AGAIN

_EXIT_STATUS_S: Final = 1.0
"""How long to wait for the exit status of a worker whose channel has ended."""

_DARK_S: Final = 0.5
"""The longest wait while no worker accepts. A shorter one would only keep the machine busy."""
_UNSTEADY_DEATHS: Final = 3

_log = structlog.get_logger("gateway.control")


class KeySource(Protocol):
    """Where a worker that starts gets its keys from."""

    def snapshot(self) -> KeySnapshot:
        """Return all keys as they are now."""


@dataclass(frozen=True, slots=True)
class SlotContext:
    """What all slots of a gateway share. `clock` returns monotonic seconds."""

    keys: KeySource
    workers: WorkerSet
    observer: WorkerObserver
    errors: ErrorReporter
    clock: Callable[[], float] = time.monotonic


class Slot:
    """Keeps one worker alive between `open` and `retire`.

    `spawn` starts a process for the slot with this index, or raises `OSError`.
    """

    def __init__(
        self, index: int, spawn: Callable[[int], Awaitable[WorkerHandle]], context: SlotContext
    ) -> None:
        self.index = index
        self.worker: WorkerHandle | None = None
        self._spawn = spawn
        self._context = context
        self._backoff = Backoff(context.clock)
        self._retired = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self, *, is_trial: bool) -> None:
        """Start a worker; return when the slot has a ready one for the first time.

        Raises `StartError` when it will not have one.
        """
        # A new event: after a reload that failed, the task of the former tenure may still wait for
        # its worker to drain.
        self._retired = asyncio.Event()
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        keep = self._keep_filled(ready, self._retired, is_trial=is_trial)
        self._task = asyncio.create_task(keep, name=f"worker {self.index}")
        try:
            await ready
        except asyncio.CancelledError:
            self._retired.set()
            raise

    def retire(self, timeout_s: float, *, is_replaced: bool) -> None:
        """Start no more workers; have the present one finish within `timeout_s` seconds.

        `is_replaced`: see `channel.Drain`.
        """
        self._retired.set()
        worker = self.worker
        if worker is None:
            return
        if worker.state is WorkerState.STARTING:
            worker.kill()  # has no keys yet, so nothing is open
        else:
            worker.drain(timeout_s, is_replaced=is_replaced)

    async def close(self) -> None:
        """Stop replacing workers; the present one continues."""
        self._retired.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep_filled(
        self, ready: asyncio.Future[None], retired: asyncio.Event, *, is_trial: bool
    ) -> None:
        while not retired.is_set():
            self._backoff.started()
            worker = await self._run_or_report(ready, retired)
            if retired.is_set():
                break
            will_fail_again = worker is not None and worker.exit_code == FAILS_AGAIN
            if not ready.done() and (is_trial or will_fail_again):
                ready.set_exception(StartError(_explain(self.index, worker)))
                return
            await self._pause(worker, retired)
        if not ready.done():
            ready.set_exception(StartError(f"worker {self.index} was stopped while it started"))

    async def _pause(self, worker: WorkerHandle | None, retired: asyncio.Event) -> None:
        """Count the end of a worker and wait before the next."""
        reason = "hung" if worker is not None and worker.is_hung else "died"
        self._context.observer.worker_replaced(reason)
        delay_s = self._backoff.delay_s()
        if self._context.workers.is_dark():
            delay_s = min(delay_s, _DARK_S)
        _log.error(
            "a worker ended and is replaced",
            worker=self.index,
            pid=worker and worker.pid,
            reason=reason,
            exit_status=worker and worker.exit_code,
            wait_s=delay_s,
        )
        if self._backoff.deaths >= _UNSTEADY_DEATHS:
            self._note_unsteady()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await retired.wait()

    def _note_unsteady(self) -> None:
        if self.index not in self._context.workers.unsteady:
            self._context.workers.unsteady.add(self.index)
            _log.error(
                "workers in this place die again and again: the messages before this one say why;"
                " if a reload caused it, reload what was there before",
                worker=self.index,
                deaths=self._backoff.deaths,
            )

    async def _until_lost(self, worker: WorkerHandle) -> None:
        """Wait for the end of a worker; one that lives for long enough is steady."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STEADY_S):
                await worker.lost.wait()
                return
        if self.index in self._context.workers.unsteady:
            self._context.workers.unsteady.remove(self.index)
            _log.info("the worker in this place is steady again", worker=self.index)
        await worker.lost.wait()

    async def _run_or_report(
        self, ready: asyncio.Future[None], retired: asyncio.Event
    ) -> WorkerHandle | None:
        """Run one worker from start to end; None when there was no process."""
        try:
            return await self._run(ready, retired)
        except OSError as error:
            _log.error("cannot start a worker process", worker=self.index, error=str(error))
        except Exception as error:  # noqa: BLE001 - a bug in control must not end the slot
            self._context.errors.report(f"worker {self.index}", error)
            if self.worker is not None:
                self.worker.kill()  # whatever state it is in: its successor takes over
        return None

    async def _run(self, ready: asyncio.Future[None], retired: asyncio.Event) -> WorkerHandle:
        worker = self.worker = await self._spawn(self.index)
        if retired.is_set():
            worker.kill()  # it came too late to be drained
        await worker.load(self._context.keys.snapshot)
        await worker.settled.wait()
        if worker.was_ready and not ready.done():
            ready.set_result(None)
        await self._until_lost(worker)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_STATUS_S):
                await worker.gone.wait()
        return worker


def _explain(index: int, worker: WorkerHandle | None) -> str:
    if worker is None:
        return f"worker {index} could not be started: see the message before this one"
    if worker.is_hung:
        return f"worker {index} (pid {worker.pid}) did not become ready in time"
    return (
        f"worker {index} (pid {worker.pid}) ended with status {worker.exit_code} before it was "
        "ready: its own message before this one says why"
    )
