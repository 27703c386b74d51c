"""How many connections this worker has, and how many every other one has; its sign of life.

The numbers stand in a memory map that control made and all workers share: for each worker its
count, -1 while it does not accept, then for each a number that says whether it gets something done.
What follows from the counts is the listener's business.
"""

from __future__ import annotations

import mmap
import os

from gateway.worker_contract import COUNT_BYTES, COUNT_FORMAT, NOT_ACCEPTING


class SharedCounts:
    """The map. Each worker writes its own slot and reads all."""

    def __init__(self, fd: int, index: int, workers: int) -> None:
        """Map the file `fd`, which is closed. Raises `OSError`, `ValueError`: it is no such map."""
        try:
            self._map = mmap.mmap(fd, 2 * workers * COUNT_BYTES)
        finally:
            os.close(fd)
        numbers = memoryview(self._map).cast(COUNT_FORMAT)
        self._view = numbers[:workers]
        self.sign_of_life = numbers[workers + index : workers + index + 1]
        """One number, for `WorkerContext`."""
        self.index = index

    def publish(self, count: int) -> None:
        """Write this worker's count."""
        self._view[self.index] = count

    def others(self) -> list[int]:
        """Return the counts of the other workers that accept."""
        counts = self._view.tolist()
        del counts[self.index]
        return [count for count in counts if count != NOT_ACCEPTING]

    def close(self) -> None:
        """Say that this worker does not accept any more. What it finishes is still work."""
        self.publish(NOT_ACCEPTING)
