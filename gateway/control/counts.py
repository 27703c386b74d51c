"""The shared memory map of connection counts: one signed 64-bit integer per worker slot.

Workers write their own slot and read all of them, to accept only while they have no more
connections than the least loaded live one. Control makes the map and frees the slot of a worker
that died: a dead worker's low count would hold back the living for ever. What the rule is does not
belong here.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Final

SLOT_BYTES: Final = 8
NOT_ALIVE: Final = -1
"""The count of a slot whose worker does not accept."""


class Counts:
    """A map of `slots` counts, all free at first. One generation of workers shares one map."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        size = slots * SLOT_BYTES
        self.fd = os.memfd_create("gateway-counts", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        # A worker with a bug could otherwise truncate the file, and SIGBUS would take all of us.
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._map = mmap.mmap(self.fd, size)
        self._view = memoryview(self._map).cast("q")
        for index in range(slots):
            self._view[index] = NOT_ALIVE

    def free(self, index: int) -> None:
        """Mark the slot of a worker that is gone; without effect after `close`."""
        if not self._map.closed:
            self._view[index] = NOT_ALIVE

    def read(self) -> list[int]:
        """Return every slot's count, `NOT_ALIVE` for those that no worker holds."""
        return list(self._view)

    def close(self) -> None:
        """Give the map back; workers that still run keep theirs."""
        self._view.release()
        self._map.close()
        os.close(self.fd)
