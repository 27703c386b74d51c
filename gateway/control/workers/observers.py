"""All observers of workers as one: the supervisor, its slots and its workers notify this one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.channel import Lookup, Report, SenderSeen, Traced
from gateway.control.core.errors import ErrorReporter
from gateway.control.workers.worker_handle import WorkerHandle, WorkerObserver


class WorkerObservers(WorkerObserver):
    """Notifies `observers` in their order; one that fails keeps no other from its turn."""

    def __init__(self, observers: Sequence[WorkerObserver], errors: ErrorReporter) -> None:
        self._observers = tuple(observers)
        self._errors = errors

    def worker_started(self, worker: WorkerHandle) -> None:
        """Pass the event on (`WorkerObserver`)."""
        for each in self._observers:
            self._notify(each.worker_started, worker)

    def worker_changed(self, worker: WorkerHandle) -> None:
        """Pass the event on (`WorkerObserver`)."""
        for each in self._observers:
            self._notify(each.worker_changed, worker)

    def worker_reported(self, worker: WorkerHandle, report: Report) -> None:
        """Pass the event on (`WorkerObserver`)."""
        for each in self._observers:
            self._notify(each.worker_reported, worker, report)

    def worker_sent(self, worker: WorkerHandle, message: Lookup | Traced | SenderSeen) -> None:
        """Pass the event on (`WorkerObserver`)."""
        for each in self._observers:
            self._notify(each.worker_sent, worker, message)

    def worker_gone(self, worker: WorkerHandle) -> None:
        """Pass the event on (`WorkerObserver`)."""
        for each in self._observers:
            self._notify(each.worker_gone, worker)

    def worker_replaced(self, reason: str) -> None:
        """Pass the event on (`WorkerObserver`)."""
        for each in self._observers:
            self._notify(each.worker_replaced, reason)

    def _notify(self, notify: Callable[..., None], *event: object) -> None:
        try:
            notify(*event)
        except Exception as error:  # noqa: BLE001 - a bug in one part must not cost the others
            self._errors.report(f"event of a worker: {notify.__qualname__}", error)
