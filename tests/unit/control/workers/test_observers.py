from __future__ import annotations

from structlog.testing import capture_logs

from gateway.control.core.errors import ErrorReporter
from gateway.control.workers.observers import WorkerObservers
from gateway.control.workers.worker_handle import WorkerObserver


class Noting(WorkerObserver):
    """Notes which reasons it is notified of."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def worker_replaced(self, reason: str) -> None:
        self.reasons.append(reason)


class Failing(WorkerObserver):
    def worker_replaced(self, reason: str) -> None:
        msg = f"a bug on {reason}"
        raise ValueError(msg)


def test_an_observer_that_fails_is_reported_and_keeps_no_other_from_its_turn() -> None:
    errors: list[int] = []
    first, last = Noting(), Noting()
    observers = WorkerObservers([first, Failing(), last], ErrorReporter(lambda: errors.append(1)))
    with capture_logs() as logs:
        observers.worker_replaced("died")
    assert first.reasons == last.reasons == ["died"]
    assert errors == [1]
    assert [str(log["exc_info"]) for log in logs] == ["a bug on died"]
    assert logs[0]["place"] == "event of a worker: Failing.worker_replaced"
