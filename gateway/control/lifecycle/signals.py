"""Signals as events: a handler only sets an event, and the code that acts on it waits."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from types import TracebackType
from typing import Final, Self

from gateway import held_signals

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """The process's signals while it is entered."""

    def __init__(self) -> None:
        self.hangup = asyncio.Event()
        """Set by SIGHUP: several before the first is handled count as one."""
        self._stops: asyncio.Queue[signal.Signals] = asyncio.Queue()

    def __enter__(self) -> Self:
        """Begin to watch; signals that were held arrive now. In the main thread only."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self.hangup.set)
        for number in STOPPING:
            loop.add_signal_handler(number, self._stops.put_nowait, number)
        held_signals.release()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGHUP, *STOPPING):
            loop.remove_signal_handler(number)

    async def stop(self) -> signal.Signals:
        """Wait for the next signal that asks to stop."""
        return await self._stops.get()

    async def unless_stopped(self, work: Coroutine[None, None, None]) -> signal.Signals | None:
        """Do `work`, unless a signal asks to stop: then cancel it and return the signal.

        A signal that arrives just when the work ends is returned by the next `stop`.
        """
        doing, stopping = asyncio.create_task(work), asyncio.create_task(self.stop())
        await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)
            return stopping.result()
        if stopping.done():
            self._stops.put_nowait(stopping.result())
        stopping.cancel()
        doing.result()
        return None
