"""How many connections this worker has, and how many every other one has.

The numbers stand in a memory map that control made and all workers share: one signed 64-bit integer
per worker, -1 while it does not accept. What follows from them is the listener's business.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.dataplane.plane import ServerConnection

_SLOT_BYTES: Final = 8
NOT_ALIVE: Final = -1
"""The count of a worker that does not accept."""


class SharedCounts:
    """The map. Each worker writes its own slot and reads all."""

    def __init__(self, fd: int, index: int, workers: int) -> None:
        """Map the file `fd`, which is closed. Raises `OSError`, `ValueError`: it is no such map."""
        try:
            self._map = mmap.mmap(fd, workers * _SLOT_BYTES)
        finally:
            os.close(fd)
        self._view = memoryview(self._map).cast("q")
        self.index = index

    def publish(self, count: int) -> None:
        """Write this worker's count."""
        self._view[self.index] = count

    def others(self) -> list[int]:
        """Return the counts of the other workers that accept."""
        counts = self._view.tolist()
        del counts[self.index]
        return [count for count in counts if count != NOT_ALIVE]

    def close(self) -> None:
        """Say that this worker does not accept any more, and let the map go."""
        self.publish(NOT_ALIVE)
        self._view.release()
        self._map.close()


class OpenConnections(set["ServerConnection"]):
    """The connections that have a protocol. `on_change` is called when one is added or removed."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        super().__init__()
        self._on_change = on_change

    def add(self, element: ServerConnection) -> None:
        """Add a connection."""
        super().add(element)
        self._on_change()

    def discard(self, element: object) -> None:
        """Remove a connection, if it is there."""
        super().discard(element)
        self._on_change()

    def remove(self, element: ServerConnection) -> None:
        """Remove a connection."""
        super().remove(element)
        self._on_change()
