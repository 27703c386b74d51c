"""One place for a worker, kept filled: what dies is started again, after a growing wait.

A worker that ends with `WILL_FAIL_AGAIN` before the slot ever had a ready one is not tried again:
the first start of the gateway fails with it. In a trial (a reload) any end before the first
readiness is a failure: the worker that was to be replaced still runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from gateway.control.backoff import Backoff
from gateway.control.worker_handle import Snapshot, State, WorkerHandle

WILL_FAIL_AGAIN: Final = 3
"""A worker's exit status that says: the same settings would fail the same way again."""
_EXIT_STATUS_S: Final = 1.0
"""How long to wait for the exit status of a worker whose channel has ended."""

_log = structlog.get_logger("gateway.control")


class StartError(Exception):
    """A worker cannot be started with these settings; the text says where to look."""


class Supplier(Protocol):
    """What a slot needs: processes, keys, and somebody to tell of what went wrong."""

    def spawn(self, index: int) -> Awaitable[WorkerHandle]:
        """Start a process for slot `index`. Raises `OSError`."""

    def snapshot(self) -> Snapshot:
        """Return all keys as they are now."""

    def on_restart(self, reason: str) -> None:
        """Count a worker that must be replaced: died or hung."""

    def on_bug(self, place: str, error: Exception) -> None:
        """Count an unexpected exception."""


class Slot:
    """Keeps one worker alive between `open` and `retire`."""

    def __init__(self, index: int, supplier: Supplier, clock: Callable[[], float]) -> None:
        self.index = index
        self.worker: WorkerHandle | None = None
        self._supplier = supplier
        self._backoff = Backoff(clock)
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
        keep = self._keep(ready, self._retired, is_trial=is_trial)
        self._task = asyncio.create_task(keep, name=f"worker {self.index}")
        try:
            await ready
        except asyncio.CancelledError:
            self._retired.set()
            raise

    def retire(self, timeout_s: float) -> None:
        """Start no more workers; have the present one finish within `timeout_s` seconds."""
        self._retired.set()
        worker = self.worker
        if worker is None:
            return
        if worker.state is State.STARTING:
            worker.kill()  # has no keys yet, so nothing is open
        else:
            worker.drain(timeout_s)

    async def close(self) -> None:
        """Stop tending; the worker is left as it is."""
        self._retired.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep(
        self, ready: asyncio.Future[None], retired: asyncio.Event, *, is_trial: bool
    ) -> None:
        while not retired.is_set():
            self._backoff.started()
            worker = await self._live_guarded(ready, retired)
            if retired.is_set():
                break
            will_fail_again = worker is not None and worker.exit_code == WILL_FAIL_AGAIN
            if not ready.done() and (is_trial or will_fail_again):
                ready.set_exception(StartError(_explain(self.index, worker)))
                return
            await self._pause(worker, retired)
        if not ready.done():
            ready.set_exception(StartError(f"worker {self.index} was stopped while it started"))

    async def _pause(self, worker: WorkerHandle | None, retired: asyncio.Event) -> None:
        """Count the end of a worker and wait before the next."""
        reason = "hung" if worker is not None and worker.is_hung else "died"
        self._supplier.on_restart(reason)
        delay_s = self._backoff.delay_s()
        _log.error(
            "a worker has ended and is replaced",
            worker=self.index,
            pid=worker and worker.pid,
            reason=reason,
            exit_status=worker and worker.exit_code,
            wait_s=delay_s,
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await retired.wait()

    async def _live_guarded(
        self, ready: asyncio.Future[None], retired: asyncio.Event
    ) -> WorkerHandle | None:
        """Live through one worker's life; None when there was no process."""
        try:
            return await self._live(ready, retired)
        except OSError as error:
            _log.error("cannot start a worker process", worker=self.index, error=str(error))
        except Exception as error:  # noqa: BLE001 - a bug in control must not end the slot
            self._supplier.on_bug(f"worker {self.index}", error)
            if self.worker is not None:
                self.worker.kill()  # whatever state it is in: its successor takes over
        return None

    async def _live(self, ready: asyncio.Future[None], retired: asyncio.Event) -> WorkerHandle:
        worker = self.worker = await self._supplier.spawn(self.index)
        if retired.is_set():
            worker.kill()  # it came too late to be told to drain
        await worker.load(self._supplier.snapshot)
        await worker.settled.wait()
        if worker.was_ready and not ready.done():
            ready.set_result(None)
        await worker.lost.wait()
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
