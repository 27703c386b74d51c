"""The map of memory that control shares with its workers: for each slot the worker's connection
count, and its sign of life.

Each worker writes its own slot and reads all of them: it accepts only while it has no more
connections than the least loaded worker. Control makes the map and frees the slot of a worker that
died: the low count of a dead worker would hold back the others for ever.

Each worker sets its sign of life whenever it gets something done. Unlike a message it does not wait
for its turn in the worker's loop.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from gateway.worker_contract import ALIVE, COUNT_BYTES, COUNT_FORMAT, NOT_ACCEPTING


class ConnectionCounts:
    """A map of `slots` counts and signs of life, all free at first. One generation of workers
    shares one map.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        size = 2 * slots * COUNT_BYTES
        self.fd = os.memfd_create("gateway-counts", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        # A worker with a bug could otherwise truncate the file, and SIGBUS would end all processes.
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._map = mmap.mmap(self.fd, size)
        self._view = memoryview(self._map).cast(COUNT_FORMAT)
        for index in range(slots):
            self._view[index] = NOT_ACCEPTING

    def free(self, index: int) -> None:
        """Mark the slot of a worker that is gone; no effect after `close`."""
        if not self._map.closed:
            self._view[index] = NOT_ACCEPTING

    def read(self) -> list[int]:
        """Return every slot's count, `NOT_ACCEPTING` for slots without a worker."""
        return list(self._view[: self.slots])

    def take_sign_of_life(self, index: int) -> bool:
        """Return whether a worker has got something done since the last call."""
        at = self.slots + index
        if self._map.closed or self._view[at] != ALIVE:
            return False
        self._view[at] = 0
        return True

    def close(self) -> None:
        """Release the map; workers that still run keep theirs."""
        self._view.release()
        self._map.close()
        os.close(self.fd)
