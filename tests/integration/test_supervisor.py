"""Workers' lives, with programs that fail on purpose (`tests/support/worker_stub.py`)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path

import pytest

from gateway.channel import KeyChanges, Lookup, Report, Traced
from gateway.control.counts import NOT_ALIVE
from gateway.control.slot import StartError
from gateway.control.supervisor import Plan, Supervisor, Timing
from gateway.control.worker_handle import Snapshot, State, WorkerHandle
from gateway.model import KeyEntry, Principal
from gateway.settings import Cors, Forward, Limits, WorkerSettings

STUB = Path(__file__).parents[1] / "support" / "worker_stub.py"
PATIENT = Timing(sweep_s=0.05)
IMPATIENT = Timing(silence_s=1.0, start_s=3.0, sweep_s=0.05, exit_grace_s=0.1)


class Observed:
    """Writes down what a supervisor says, and has the keys that it asks for."""

    def __init__(self) -> None:
        self.restarts: list[str] = []
        self.bugs: list[Exception] = []
        self.reports: list[Report] = []
        self.gone: list[int] = []
        self.changed = asyncio.Event()
        self.keys = Snapshot(1, [])
        self.fail_on_report: Exception | None = None
        self.on_snapshot: Callable[[], object] = lambda: None

    def on_report(self, worker: WorkerHandle, report: Report) -> None:
        self.reports.append(report)
        self.changed.set()
        if self.fail_on_report is not None:
            raise self.fail_on_report

    def on_workers_changed(self) -> None:
        self.changed.set()

    def on_worker_gone(self, worker: WorkerHandle) -> None:
        self.gone.append(worker.pid)
        self.changed.set()

    def on_restart(self, reason: str) -> None:
        self.restarts.append(reason)
        self.changed.set()

    def on_message(self, worker: WorkerHandle, message: Lookup | Traced) -> None:
        pass

    def on_bug(self, place: str, error: Exception) -> None:
        self.bugs.append(error)
        self.changed.set()

    def snapshot(self) -> Snapshot:
        self.on_snapshot()
        return self.keys

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at after each event."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()


def settings(index: int, counts_fd: int, workers: int) -> WorkerSettings:
    limits = Limits(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
    forward = Forward("client", None, "StackState", identity_headers=False)
    return WorkerSettings(
        index, workers, counts_fd, (), (), forward, ("StackState",), limits, Cors()
    )


def plan(workers: int = 2, drain_timeout_s: float = 5.0) -> Plan:
    return Plan(workers, lambda index, fd: settings(index, fd, workers), drain_timeout_s)


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
        supervisor = Supervisor(observed, command, timing)
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
    assert supervisor.accepting == supervisor.wanted == 3


async def test_a_killed_worker_is_replaced_and_its_slot_freed(start: Start) -> None:
    supervisor, observed = await start()
    victim = next(iter(supervisor.workers))
    counts = supervisor._generations[0].counts
    counts._view[victim.index] = 7

    os.kill(victim.pid, signal.SIGKILL)

    await observed.until(lambda: victim.pid in observed.gone)
    assert counts.read()[victim.index] == NOT_ALIVE
    await observed.until(lambda: supervisor.accepting == 2)
    assert observed.restarts == ["died"]
    assert victim.exit_code == -signal.SIGKILL


async def test_a_worker_that_falls_silent_is_killed_and_replaced(
    start: Start, fault: Callable[[str], None]
) -> None:
    fault("falls silent")
    supervisor, observed = await start(workers=1, timing=IMPATIENT)
    silent = next(iter(supervisor.workers))
    fault("none")
    await observed.until(lambda: silent.pid in observed.gone and supervisor.accepting == 1)
    assert observed.restarts == ["hung"]


async def test_a_stopped_worker_is_killed_and_replaced(start: Start) -> None:
    supervisor, observed = await start(workers=1, timing=IMPATIENT)
    stopped = next(iter(supervisor.workers))
    os.kill(stopped.pid, signal.SIGSTOP)
    await observed.until(lambda: stopped.pid in observed.gone and supervisor.accepting == 1)
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
    assert supervisor.accepting == 1


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
    await observed.until(lambda: supervisor.accepting == 2)


async def test_another_exit_status_at_the_first_start_is_tried_again(
    start: Start, fault: Callable[[str], None]
) -> None:
    fault("exits with 1")
    observed = Observed()
    starting = asyncio.create_task(start(observed, workers=1))
    await observed.until(lambda: len(observed.restarts) == 2)
    fault("none")
    supervisor, _ = await starting
    assert supervisor.accepting == 1


async def test_garbage_on_the_channel_costs_that_worker_only(
    start: Start, fault: Callable[[str], None]
) -> None:
    fault("sends garbage")
    observed = Observed()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    supervisor, _ = await start(observed, workers=1)
    fault("none")
    await observed.until(lambda: len(observed.gone) == 1 and supervisor.accepting == 1)
    assert observed.restarts == ["died"]


async def test_a_bug_in_control_does_not_cost_a_worker(start: Start) -> None:
    observed = Observed()
    observed.fail_on_report = ValueError("a bug")
    supervisor, _ = await start(observed, workers=1)
    await observed.until(lambda: len(observed.bugs) >= 2)
    assert supervisor.accepting == 1
    assert not observed.restarts


async def test_replace_has_each_new_worker_ready_before_the_old_drains(start: Start) -> None:
    observed = Observed()
    supervisor, _ = await start(observed)
    old = set(supervisor.workers)
    fewest = [supervisor.accepting]

    def note() -> None:
        fewest.append(supervisor.accepting)
        observed.changed.set()

    observed.on_workers_changed = note  # type: ignore[method-assign] # watches every change
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
    assert supervisor.accepting == supervisor.wanted == workers


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
    assert supervisor.accepting == supervisor.wanted == 2
    assert all(worker.state is State.READY for worker in old)


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
    new = [worker for worker in supervisor.workers if worker.state is State.READY]
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
    supervisor.push(KeyChanges(5, [], []))
    await observed.until(lambda: all(worker.applied == 5 for worker in supervisor.workers))


async def test_a_change_during_the_snapshot_holds_before_the_worker_is_ready(make: Make) -> None:
    observed = Observed()
    entry = KeyEntry(b"d" * 32, Principal("1"))
    observed.keys = Snapshot(1, [entry] * 50_000)
    supervisor = make(observed)
    observed.on_snapshot = lambda: asyncio.get_running_loop().call_soon(
        supervisor.push, KeyChanges(2, [entry], [])
    )
    applied_when_ready: list[int] = []

    def note() -> None:
        applied_when_ready.extend(w.applied for w in supervisor.workers if w.was_ready)

    observed.on_workers_changed = note  # type: ignore[method-assign] # watches every change
    await supervisor.start(plan(1))
    assert applied_when_ready[0] == 2


async def test_a_key_that_goes_during_the_snapshot_makes_it_begin_again(make: Make) -> None:
    observed = Observed()
    observed.keys = Snapshot(1, [KeyEntry(b"d" * 32, Principal("1"))] * 50_000)
    supervisor = make(observed)
    taken: list[int] = []

    def remove_once() -> None:
        taken.append(observed.keys.revision)
        if len(taken) == 1:
            asyncio.get_running_loop().call_soon(remove)

    def remove() -> None:
        observed.keys = Snapshot(2, [])
        supervisor.push(KeyChanges(2, [], [b"d" * 32]))

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
    assert worker.state is State.READY
