"""The demo's output: ordered lines, written without blocking the event loop.

Lines that must be shown wait for the reader. Lines about refusals do not: if the reader cannot keep
up, they are dropped and counted, and the count is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from gateway.receiver.printer import LinePrinter

_WAITING_LINES: Final = 1000
_LAST_LINES_S: Final = 2.0


class Screen:
    """Writes to a file descriptor. `on_broken` is called once when the reader is gone."""

    def __init__(self, descriptor: int, on_broken: Callable[[], None]) -> None:
        self._printer = LinePrinter(descriptor, on_broken)
        self._offered: asyncio.Queue[str] = asyncio.Queue(_WAITING_LINES)
        self._left_out = 0
        self._writing = asyncio.create_task(self._write_offered(), name="screen")

    async def show(self, text: str) -> None:
        """Write lines; waits while the reader is behind."""
        for line in text.splitlines():
            await self._printer.write(line)

    def offer(self, line: str) -> None:
        """Write a line if there is room; otherwise count it."""
        try:
            self._offered.put_nowait(line)
        except asyncio.QueueFull:
            self._left_out += 1

    async def close(self) -> None:
        """Write the remaining lines, as far as the reader takes them."""
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_LINES_S):
                while not self._offered.empty():
                    await self._printer.write(self._offered.get_nowait())
        await self._printer.close()

    async def _write_offered(self) -> None:
        while True:
            await self._printer.write(await self._offered.get())
            left_out, self._left_out = self._left_out, 0
            if left_out:
                await self._printer.write(f"… and {left_out} more lines, not shown")
