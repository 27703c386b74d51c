"""Writes lines for a reader that may be slow, with bounded memory and without blocking the loop.

A separate thread writes; at most a fixed number of lines wait for it. When the printer is full,
callers wait, and so do the senders of telemetry.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Final

PENDING_LINES: Final = 256
"""Lines that may wait for the reader."""
_LAST_LINES_S: Final = 2.0
"""How long `close` waits by default for the reader to take the remaining lines."""


class LinePrinter:
    """Writes lines to a file descriptor in order.

    It writes to the descriptor directly: a thread blocked in a buffered stream would hold a lock
    that the interpreter needs to exit. `on_broken` is called once, in the loop, when the reader is
    gone; later lines are discarded.
    """

    def __init__(
        self, descriptor: int, on_broken: Callable[[], None], pending: int = PENDING_LINES
    ) -> None:
        self._descriptor = descriptor
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(pending)
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="printer", daemon=True)
        self._thread.start()

    async def write(self, line: str) -> None:
        """Add a line; waits while the printer is full."""
        await self._room.acquire()
        self._lines.put(line.encode("utf-8", "replace") + b"\n")

    async def close(self, patience_s: float = _LAST_LINES_S) -> bool:
        """Write the remaining lines and stop.

        Returns whether all lines were written; after `patience_s` the reader is abandoned.
        """
        self._lines.put(None)
        try:
            await asyncio.wait_for(self._ended.wait(), patience_s)
        except TimeoutError:
            return False
        return True

    def _run(self) -> None:
        """Write until `close` (the thread's body)."""
        is_broken = False
        while (line := self._lines.get()) is not None:
            if not is_broken and not self._has_written(line):
                is_broken = True
                self._in_loop(self._on_broken)
            self._in_loop(self._room.release)
        self._in_loop(self._ended.set)

    def _has_written(self, line: bytes) -> bool:
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
            except OSError:
                return False
        return True

    def _in_loop(self, callback: Callable[[], None]) -> None:
        # The loop may be closed already when a blocked write finally returns.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)
