"""Background tasks that never end unnoticed: a failure is reported, and the task starts again.

One bug in a part of control must neither stop the other parts nor the clients being served.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from gateway.control.core.backoff import Backoff
from gateway.control.core.errors import ErrorReporter


class Tasks:
    """The background tasks of one gateway. Unexpected exceptions go to `errors`."""

    def __init__(self, errors: ErrorReporter, clock: Callable[[], float] = time.monotonic) -> None:
        self._errors = errors
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, name: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run `run` until `close`, again and again; it is expected not to return."""
        return self._add(name, self._keep(name, run))

    def once(self, name: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run `run` one time; a failure is reported."""
        return self._add(name, self._guarded(name, run))

    async def close(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _add(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody has cancelled this task, but something that it waited for.
            self._errors.report(name, error)
        except Exception as error:  # noqa: BLE001 - the place where control's bugs end
            self._errors.report(name, error)

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(self._clock)
        while True:
            backoff.started()
            await self._guarded(name, run)
            # At least a turn of the loop: a task that returns at once must not spin.
            await asyncio.sleep(backoff.delay_s())
