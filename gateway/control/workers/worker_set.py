"""The workers that are not gone, and what is sent to all of them."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.channel import Down, KeyChanges
from gateway.control.workers.worker_handle import WorkerHandle, WorkerState


class WorkerSet:
    """The gateway's workers. The supervisor adds and removes them; all others only read and send.

    `wanted` is how many workers should accept connections.
    """

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.unsteady: set[int] = set()
        """The places whose workers die again and again; slots add and remove themselves."""
        self._workers: dict[WorkerHandle, None] = {}  # ordered, unlike a set

    def __iter__(self) -> Iterator[WorkerHandle]:
        """Return the workers there are at this moment; some may end while they are iterated."""
        return iter(tuple(self._workers))

    def __contains__(self, worker: WorkerHandle) -> bool:
        """Return whether a worker is not gone."""
        return worker in self._workers

    def add(self, worker: WorkerHandle) -> None:
        """Add a worker whose process has started."""
        self._workers[worker] = None

    def remove(self, worker: WorkerHandle) -> None:
        """Remove a worker that is gone."""
        del self._workers[worker]

    def accepting(self) -> int:
        """Return how many workers accept connections."""
        return sum(worker.state is WorkerState.READY for worker in self._workers)

    def is_dark(self) -> bool:
        """Return whether no worker accepts connections, and none is about to."""
        hopeful = (WorkerState.READY, WorkerState.STARTING)
        return not any(worker.state in hopeful for worker in self._workers)

    def send_to_all(self, message: Down) -> None:
        """Send a message to every worker, to starting ones too."""
        for worker in self:
            worker.send(message)

    def push(self, changes: KeyChanges) -> None:
        """Send a change of the keys to every worker."""
        for worker in self:
            worker.push(changes)
