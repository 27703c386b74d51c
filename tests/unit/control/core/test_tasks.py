from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from gateway.control.core.errors import ErrorReporter
from gateway.control.core.tasks import Tasks


async def test_a_task_that_fails_is_counted_logged_and_started_again() -> None:
    failures: list[int] = []
    tasks = Tasks(ErrorReporter(lambda: failures.append(1)))
    lives = 0
    survived = asyncio.Event()

    async def run() -> None:
        nonlocal lives
        lives += 1
        if lives == 1:
            msg = "a bug"
            raise ValueError(msg)
        survived.set()
        await asyncio.Event().wait()

    with capture_logs() as logs:
        tasks.keep("part", run)
        await survived.wait()
    assert failures == [1]
    assert [(log["log_level"], log["place"]) for log in logs] == [("error", "part")]
    await tasks.close()


async def test_a_task_that_runs_once_is_guarded_too() -> None:
    failures: list[int] = []
    tasks = Tasks(ErrorReporter(lambda: failures.append(1)))

    async def run() -> None:
        raise ValueError

    await tasks.once("part", run)
    assert failures == [1]
    await tasks.close()


async def test_close_ends_all_tasks_and_counts_nothing() -> None:
    failures: list[int] = []
    tasks = Tasks(ErrorReporter(lambda: failures.append(1)))
    started = asyncio.Event()

    async def run() -> None:
        started.set()
        await asyncio.Event().wait()

    task = tasks.keep("part", run)
    await started.wait()
    await tasks.close()
    assert task.cancelled()
    assert not failures


async def test_a_task_whose_library_cancels_what_it_waits_for_starts_again() -> None:
    """A gRPC channel that is closed does so with its calls: nobody wants the task to end."""
    failures: list[int] = []
    tasks = Tasks(ErrorReporter(lambda: failures.append(1)))
    lives = 0
    survived = asyncio.Event()

    async def run() -> None:
        nonlocal lives
        lives += 1
        if lives == 1:
            call = asyncio.get_running_loop().create_future()
            call.cancel()
            await call
        survived.set()
        await asyncio.Event().wait()

    with capture_logs() as logs:
        task = tasks.keep("part", run)
        await survived.wait()
    assert failures == [1]
    assert [log["place"] for log in logs] == ["part"]
    await tasks.close()
    assert task.cancelled()
