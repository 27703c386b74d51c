"""Workers' lives, with programs that fail on purpose (`tests/support/worker_stub.py`)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.channel import KeyChanges, Report
from gateway.control.core.errors import ErrorReporter, StartError
from gateway.control.workers.generation import WorkerPlan
from gateway.control.workers.quota_tables import CONTROLS, GENERATIONS
from gateway.control.workers.supervisor import Supervisor, Timing
from gateway.control.workers.worker_handle import (
    KeySnapshot,
    WorkerHandle,
    WorkerObserver,
    WorkerState,
)
from gateway.control.workers.worker_set import WorkerSet
from gateway.control.workers.worker_start import WorkerStarter
from gateway.model import KeyEntry, Principal
from gateway.settings import CorsSettings, ForwardSettings, WorkerSettings
from gateway.worker_contract import ALIVE, NOT_ACCEPTING
from tests.support.plane import LIMITS

STUB = Path(__file__).parents[1] / "support" / "worker_stub.py"
PATIENT = Timing(sweep_s=0.05)
IMPATIENT = Timing(silence_s=1.0, start_s=3.0, sweep_s=0.05, exit_grace_s=0.1)


class Observed(WorkerObserver):
    """Writes down what a supervisor notifies it of, and has the keys that workers get."""

    def __init__(self) -> None:
        self.restarts: list[str] = []
        self.errors = 0
        self.reports: list[Report] = []
        self.gone: list[int] = []
        self.changed = asyncio.Event()
        self.keys = KeySnapshot(1, [])
        self.fail_on_report: Exception | None = None
        self.on_change: Callable[[], object] = lambda: None
        self.on_snapshot: Callable[[], object] = lambda: None

    def worker_reported(self, worker: WorkerHandle, report: Report) -> None:
        self.reports.append(report)
        self.changed.set()
        if self.fail_on_report is not None:
            raise self.fail_on_report

    def worker_changed(self, worker: WorkerHandle) -> None:
        self.on_change()
        self.changed.set()

    def worker_gone(self, worker: WorkerHandle) -> None:
        self.gone.append(worker.pid)
        self.changed.set()

    def worker_replaced(self, reason: str) -> None:
        self.restarts.append(reason)
        self.changed.set()

    def count_error(self) -> None:
        self.errors += 1
        self.changed.set()

    def snapshot(self) -> KeySnapshot:
        self.on_snapshot()
        return self.keys

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at after each event."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()


def settings(index: int, counts_fd: int, workers: int) -> WorkerSettings:
    forward = ForwardSettings("client", None, "StackState", identity_headers=False)
    return WorkerSettings(
        index, workers, counts_fd, (), (), forward, ("StackState",), LIMITS, CorsSettings()
    )


def plan(workers: int = 2, drain_timeout_s: float = 5.0) -> WorkerPlan:
    return WorkerPlan(workers, lambda index, fd: settings(index, fd, workers), drain_timeout_s)


Make = Callable[..., Supervisor]
Start = Callable[..., Coroutine[None, None, tuple[Supervisor, Observed]]]


@pytest.fixture
def fault(tmp_path: Path) -> Callable[[str], None]:
    def set_fault(name: str) -> None:
        (tmp_path / "fault").write_text(name)

    return set_fault


@pytest.fixture
async def make(tmp_path: Path, fault: Callable[[str], None]) -> AsyncIterator[Make]:
    fault("none")
    running: list[tuple[Supervisor, asyncio.Task[None]]] = []

    def make(observed: Observed, timing: Timing = PATIENT) -> Supervisor:
        command: Sequence[str] = (sys.executable, str(STUB), str(tmp_path / "fault"))
        errors = ErrorReporter(observed.count_error)
        supervisor = Supervisor(
            WorkerSet(0),
            observed,
            [observed],
            errors,
            starter=WorkerStarter(command),
            timing=timing,
        )
        running.append((supervisor, asyncio.create_task(supervisor.watch())))
        return supervisor

    yield make
    for supervisor, watch in running:
        watch.cancel()
        await supervisor.close()


@pytest.fixture
def start(make: Make) -> Start:
    async def start(
        observed: Observed | None = None, *, workers: int = 2, timing: Timing = PATIENT
    ) -> tuple[Supervisor, Observed]:
        observed = observed or Observed()
        supervisor = make(observed, timing)
        await supervisor.start(plan(workers))
        return supervisor, observed

    return start


async def test_start_returns_when_every_worker_is_ready(start: Start) -> None:
    supervisor, _ = await start(workers=3)
    assert supervisor.workers.accepting() == supervisor.workers.wanted == 3


async def test_a_killed_worker_is_replaced_and_its_slot_freed(start: Start) -> None:
    supervisor, observed = await start()
    victim = next(iter(supervisor.workers))
    counts = supervisor._generations[0].counts
    counts._view[victim.index] = 7

    os.kill(victim.pid, signal.SIGKILL)

    await observed.until(lambda: victim.pid in observed.gone)
    assert counts.read()[victim.index] == NOT_ACCEPTING
    await observed.until(lambda: supervisor.workers.accepting() == 2)
    assert observed.restarts == ["died"]
    assert victim.exit_code == -signal.SIGKILL


def _free_columns(supervisor: Supervisor) -> int:
    return len(supervisor._quotas._tables[-1]._free)


async def test_workers_that_have_ended_leave_their_columns_for_keys_limits(start: Start) -> None:
    supervisor, observed = await start()
    for deaths in range(1, 4):
        await _kill(supervisor, observed, deaths % 2)
        await observed.until(lambda: supervisor.workers.accepting() == 2)
    assert _free_columns(supervisor) == 2 * GENERATIONS + CONTROLS - 2

    await supervisor.replace(plan(workers=1))
    await observed.until(lambda: len(list(supervisor.workers)) == 1)
    assert _free_columns(supervisor) == 2 * GENERATIONS + CONTROLS - 1

    await supervisor.replace(plan(workers=3))
    await observed.until(lambda: len(list(supervisor.workers)) == 3)
    assert _free_columns(supervisor) == 3 * GENERATIONS + CONTROLS - 3
    assert len(supervisor._quotas._tables) == 1, "the smaller table is closed"


def _ready(supervisor: Supervisor, index: int) -> WorkerHandle | None:
    return next(
        (w for w in supervisor.workers if w.index == index and w.state is WorkerState.READY), None
    )


async def _kill(supervisor: Supervisor, observed: Observed, index: int) -> None:
    """Kill the worker in a place, and wait until it was noticed."""
    await observed.until(lambda: _ready(supervisor, index) is not None)
    worker = _ready(supervisor, index)
    assert worker is not None
    replaced = len(observed.restarts)
    os.kill(worker.pid, signal.SIGKILL)
    await observed.until(lambda: len(observed.restarts) > replaced)


async def test_while_no_worker_accepts_the_next_one_starts_within_a_second(start: Start) -> None:
    supervisor, observed = await start(workers=1)
    with capture_logs() as logs:
        for _ in range(4):
            await _kill(supervisor, observed, 0)
        await observed.until(lambda: _ready(supervisor, 0) is not None)
    waits = [log["wait_s"] for log in logs if "wait_s" in log]
    assert waits[0] == 0
    assert len(waits) == 4
    assert max(waits) <= 0.5
    assert supervisor.workers.unsteady == {0}
    assert len([log for log in logs if "again and again" in log["event"]]) == 1


async def test_while_another_worker_accepts_the_wait_grows(start: Start) -> None:
    supervisor, observed = await start(workers=2)
    with capture_logs() as logs:
        for _ in range(2):
            await _kill(supervisor, observed, 0)
        assert supervisor.workers.unsteady == set()
        await _kill(supervisor, observed, 0)
    assert [log["wait_s"] for log in logs if "wait_s" in log] == [0, 1, 2]
    assert supervisor.workers.unsteady == {0}


async def test_a_worker_that_falls_silent_is_killed_and_replaced(
    start: Start, fault: Callable[[str], None]
) -> None:
    fault("falls silent")
    supervisor, observed = await start(workers=1, timing=IMPATIENT)
    silent = next(iter(supervisor.workers))
    fault("none")
    await observed.until(
        lambda: silent.pid in observed.gone and supervisor.workers.accepting() == 1
    )
    assert observed.restarts == ["hung"]


async def test_a_worker_that_spins_in_one_callback_is_killed_and_replaced(
    start: Start, fault: Callable[[str], None]
) -> None:
    fault("spins in a callback")
    supervisor, observed = await start(workers=1, timing=IMPATIENT)
    spinning = next(iter(supervisor.workers))
    fault("none")
    await observed.until(
        lambda: spinning.pid in observed.gone and supervisor.workers.accepting() == 1
    )
    assert observed.restarts == ["hung"]


async def test_a_worker_whose_reports_are_late_is_not_killed_while_it_gets_something_done(
    start: Start, fault: Callable[[str], None]
) -> None:
    fault("falls silent")
    supervisor, observed = await start(workers=1)
    worker = next(iter(supervisor.workers))
    counts = supervisor._generations[0].counts
    now = worker.last_heard
    verdicts = []
    for _ in range(10):
        counts._view[counts.slots + worker.index] = ALIVE  # what the worker itself writes
        now += 2 * PATIENT.silence_s
        supervisor.kill_stuck(now)
        verdicts.append(worker.is_hung)
    fault("none")
    for silence_s in (PATIENT.silence_s - 1, PATIENT.silence_s + 1):
        supervisor.kill_stuck(now + silence_s)
        verdicts.append(worker.is_hung)
    assert verdicts == [False] * 11 + [True]
    await observed.until(
        lambda: worker.pid in observed.gone and supervisor.workers.accepting() == 1
    )
    assert observed.restarts == ["hung"]


async def test_a_stopped_worker_is_killed_and_replaced(start: Start) -> None:
    supervisor, observed = await start(workers=1, timing=IMPATIENT)
    stopped = next(iter(supervisor.workers))
    os.kill(stopped.pid, signal.SIGSTOP)
    await observed.until(
        lambda: stopped.pid in observed.gone and supervisor.workers.accepting() == 1
    )
    assert observed.restarts == ["hung"]


async def test_a_worker_that_is_never_ready_is_replaced(
    start: Start, fault: Callable[[str], None]
) -> None:
    fault("is never ready")
    observed = Observed()
    starting = asyncio.create_task(start(observed, workers=1, timing=IMPATIENT))
    await observed.until(lambda: observed.restarts == ["hung"])
    fault("none")
    supervisor, _ = await starting
    assert supervisor.workers.accepting() == 1


async def test_exit_status_3_at_the_first_start_stops_it(
    start: Start, fault: Callable[[str], None]
) -> None:
    fault("exits with 3")
    with pytest.raises(StartError, match="status 3 before it was ready"):
        await start()


async def test_exit_status_3_of_a_worker_that_was_ready_is_a_death_like_others(
    start: Start, fault: Callable[[str], None]
) -> None:
    fault("exits with 3 when ready")
    supervisor, observed = await start()
    await observed.until(lambda: len(observed.restarts) >= 2)
    fault("none")
    await observed.until(lambda: supervisor.workers.accepting() == 2)


async def test_another_exit_status_at_the_first_start_is_tried_again(
    start: Start, fault: Callable[[str], None]
) -> None:
    fault("exits with 1")
    observed = Observed()
    starting = asyncio.create_task(start(observed, workers=1))
    await observed.until(lambda: len(observed.restarts) == 2)
    fault("none")
    supervisor, _ = await starting
    assert supervisor.workers.accepting() == 1


async def test_garbage_on_the_channel_costs_that_worker_only(
    start: Start, fault: Callable[[str], None]
) -> None:
    fault("sends garbage")
    observed = Observed()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    supervisor, _ = await start(observed, workers=1)
    fault("none")
    await observed.until(lambda: len(observed.gone) == 1 and supervisor.workers.accepting() == 1)
    assert observed.restarts == ["died"]


async def test_a_bug_in_control_does_not_cost_a_worker(start: Start) -> None:
    observed = Observed()
    observed.fail_on_report = ValueError("a bug")
    supervisor, _ = await start(observed, workers=1)
    await observed.until(lambda: observed.errors >= 2)
    assert supervisor.workers.accepting() == 1
    assert not observed.restarts


async def test_replace_has_each_new_worker_ready_before_the_old_drains(start: Start) -> None:
    observed = Observed()
    supervisor, _ = await start(observed)
    old = set(supervisor.workers)
    fewest = [supervisor.workers.accepting()]

    observed.on_change = lambda: fewest.append(supervisor.workers.accepting())
    await supervisor.replace(plan(2))
    await observed.until(lambda: len(observed.gone) == 2)
    assert min(fewest) == 2
    assert {worker.exit_code for worker in old} == {0}
    assert not old & set(supervisor.workers)
    assert observed.restarts == ["reload", "reload"]
    assert len(supervisor._generations) == 1


@pytest.mark.parametrize("workers", [1, 4])
async def test_replace_can_change_the_number_of_workers(start: Start, workers: int) -> None:
    supervisor, observed = await start()
    await supervisor.replace(plan(workers))
    await observed.until(lambda: len(observed.gone) == 2)
    assert supervisor.workers.accepting() == supervisor.workers.wanted == workers


@pytest.mark.parametrize("fault_name", ["exits with 3", "exits with 1", "is never ready"])
async def test_a_replacement_that_fails_leaves_the_old_workers(
    start: Start, fault: Callable[[str], None], fault_name: str
) -> None:
    supervisor, observed = await start(timing=IMPATIENT)
    old = set(supervisor.workers)
    fault(fault_name)
    with pytest.raises(StartError):
        await supervisor.replace(plan(2))
    fault("none")
    await observed.until(lambda: set(supervisor.workers) == old)
    assert supervisor.workers.accepting() == supervisor.workers.wanted == 2
    assert all(worker.state is WorkerState.READY for worker in old)


async def test_drain_ends_all_workers_with_status_0_after_their_last_report(start: Start) -> None:
    supervisor, observed = await start()
    workers = list(supervisor.workers)
    supervisor.drain(5.0)
    assert await supervisor.drained(5.0) == 0
    assert [worker.exit_code for worker in workers] == [0, 0]
    assert not list(supervisor.workers)
    assert not observed.restarts
    assert len(observed.reports) >= 2


async def test_drain_counts_those_that_do_not_finish_and_close_kills_them(
    start: Start, fault: Callable[[str], None]
) -> None:
    fault("never drains")
    supervisor, _ = await start(timing=IMPATIENT)
    workers = list(supervisor.workers)
    supervisor.drain(0.1)
    assert await supervisor.drained(0.1) == 2
    await supervisor.close()
    assert [worker.exit_code for worker in workers] == [-signal.SIGKILL] * 2


async def test_close_ends_the_new_workers_while_the_old_ones_still_go(start: Start) -> None:
    supervisor, observed = await start()
    await supervisor.replace(plan(2))
    new = [worker for worker in supervisor.workers if worker.state is WorkerState.READY]
    restarts = list(observed.restarts)
    await supervisor.close()
    assert [worker.exit_code for worker in new] == [-signal.SIGKILL] * 2
    assert not list(supervisor.workers)
    assert observed.restarts == restarts


async def test_a_drain_during_a_replacement_ends_old_and_new_workers(
    start: Start, fault: Callable[[str], None]
) -> None:
    supervisor, observed = await start()
    old = list(supervisor.workers)
    fault("is never ready")
    replacing = asyncio.create_task(supervisor.replace(plan(2)))
    await observed.until(lambda: len(list(supervisor.workers)) == 3)
    replacing.cancel()
    supervisor.drain(5.0)
    assert await supervisor.drained(5.0) == 0
    assert not list(supervisor.workers)
    assert [worker.exit_code for worker in old] == [0, 0]
    with pytest.raises(asyncio.CancelledError):
        await replacing


async def test_a_worker_is_told_about_changes_and_confirms_them(start: Start) -> None:
    supervisor, observed = await start()
    supervisor.workers.push(KeyChanges(5, [], []))
    await observed.until(lambda: all(worker.applied == 5 for worker in supervisor.workers))


async def test_a_change_during_the_snapshot_holds_before_the_worker_is_ready(make: Make) -> None:
    observed = Observed()
    entry = KeyEntry(b"d" * 32, Principal("1"))
    observed.keys = KeySnapshot(1, [entry] * 50_000)
    supervisor = make(observed)
    observed.on_snapshot = lambda: asyncio.get_running_loop().call_soon(
        supervisor.workers.push, KeyChanges(2, [entry], [])
    )
    applied_when_ready: list[int] = []

    def note() -> None:
        applied_when_ready.extend(w.applied for w in supervisor.workers if w.was_ready)

    observed.on_change = note
    await supervisor.start(plan(1))
    assert applied_when_ready[0] == 2


async def test_a_key_that_goes_during_the_snapshot_makes_it_begin_again(make: Make) -> None:
    observed = Observed()
    observed.keys = KeySnapshot(1, [KeyEntry(b"d" * 32, Principal("1"))] * 50_000)
    supervisor = make(observed)
    taken: list[int] = []

    def remove_once() -> None:
        taken.append(observed.keys.revision)
        if len(taken) == 1:
            asyncio.get_running_loop().call_soon(remove)

    def remove() -> None:
        observed.keys = KeySnapshot(2, [])
        supervisor.workers.push(KeyChanges(2, [], [b"d" * 32]))

    observed.on_snapshot = remove_once
    await supervisor.start(plan(1))
    assert taken == [1, 2]
    assert [worker.applied for worker in supervisor.workers] == [2]


async def test_workers_do_not_obey_the_signals_of_control(start: Start) -> None:
    supervisor, observed = await start(workers=1)
    worker = next(iter(supervisor.workers))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(worker.pid, number)
    before = len(observed.reports)
    await observed.until(lambda: len(observed.reports) > before + 2)
    assert worker.state is WorkerState.READY
