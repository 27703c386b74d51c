"""Signals as events: a handler only notes which one came, who acts reads them one by one."""

from __future__ import annotations

import asyncio
import signal
from types import TracebackType
from typing import Final, Self

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
WATCHED: Final = (*STOPPING, signal.SIGHUP)


class Signals:
    """The process's signals while it is entered; afterwards the handlers are as before."""

    def __init__(self) -> None:
        self._came: asyncio.Queue[signal.Signals] = asyncio.Queue()

    def __enter__(self) -> Self:
        """Begin to watch. In the main thread only."""
        loop = asyncio.get_running_loop()
        for number in WATCHED:
            loop.add_signal_handler(number, self._came.put_nowait, number)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in WATCHED:
            loop.remove_signal_handler(number)

    async def next(self) -> signal.Signals:
        """Wait for the next signal."""
        return await self._came.get()

    async def stopping(self) -> signal.Signals:
        """Wait for the next signal that asks to stop; others that come meanwhile are dropped."""
        while True:
            number = await self.next()
            if number in STOPPING:
                return number
