"""Writes the lines of the log from a thread of its own, so that nobody who logs ever waits.

Whoever reads the log may be slow, stuck or gone. Lines wait in memory up to a bound; beyond it they
are dropped and counted, and the log says so as soon as it can be written again.
"""

from __future__ import annotations

import collections
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

MAX_HELD_BYTES: Final = 1024 * 1024
_CHUNK_BYTES: Final = 64 * 1024
"""Lines that are written with one call."""


class LineWriter:
    """Writes to `descriptor`, which stays open. Used from any thread."""

    def __init__(self, descriptor: int, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self.descriptor = descriptor
        self.tell_dropped: Callable[[int], str] = "{} lines were dropped".format
        """Makes the line that says how many were dropped."""
        self._max_held_bytes = max_held_bytes
        self._changed = threading.Condition()
        self._lines: collections.deque[bytes] = collections.deque()
        self._held_bytes = 0
        """Of lines that are not written yet, those that are being written among them."""
        self._not_told = 0
        """Lines that were dropped since the log said so."""
        self._not_counted = 0
        self._thread: threading.Thread | None = None

    def write(self, line: bytes) -> None:
        """Write a line, soon; never waits."""
        with self._changed:
            if self._held_bytes + len(line) > self._max_held_bytes:
                self._drop(1)
                return
            if self._not_told:
                self._hold(self.tell_dropped(self._not_told).encode() + b"\n")
                self._not_told = 0
            self._hold(line)
            if self._thread is None:
                # It must not keep a process alive whose log nobody reads.
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def take_dropped(self) -> int:
        """Return how many lines were dropped since the last call."""
        with self._changed:
            dropped, self._not_counted = self._not_counted, 0
            return dropped

    def flush(self, timeout_s: float) -> None:
        """Wait until everything is written, but no longer than `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._held_bytes and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    def _hold(self, line: bytes) -> None:
        self._lines.append(line)
        self._held_bytes += len(line)

    def _drop(self, count: int) -> None:
        self._not_told += count
        self._not_counted += count

    def _run(self) -> None:
        while True:
            chunk, count = self._next_chunk()
            is_written = self._write_whole(chunk)
            with self._changed:
                self._held_bytes -= len(chunk)
                if not is_written:
                    self._drop(count)
                self._changed.notify_all()

    def _next_chunk(self) -> tuple[bytes, int]:
        """Wait for lines; return some, joined, and how many they are."""
        with self._changed:
            while not self._lines:
                self._changed.wait()
            lines = [self._lines.popleft()]
            length = len(lines[0])
            while self._lines and length + len(self._lines[0]) <= _CHUNK_BYTES:
                lines.append(self._lines.popleft())
                length += len(lines[-1])
        return b"".join(lines), len(lines)

    def _write_whole(self, chunk: bytes) -> bool:
        """Write all of `chunk`, however long it takes; False where nobody can read it any more."""
        left = memoryview(chunk)
        while left:
            try:
                left = left[os.write(self.descriptor, left) :]
            except BlockingIOError:  # another program has made what we share non-blocking
                select.select([], [self.descriptor], [])
            except OSError:
                return False
        return True
