"""A worker that hangs when its gateway is killed keeps the addresses: the next gateway ends it, if
it is certain whose it is, and names whoever it does not end.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.support.polling import until
from tests.support.process import COMMAND, Program, configuration, free_ports, running, workers_of

LISTENS = """
import socket, sys, time
sock = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listens", flush=True)
time.sleep(600)
"""


@pytest.fixture
def ports() -> list[int]:
    return free_ports(3)


@asynccontextmanager
async def started(folder: Path, ports: list[int], **changes: Any) -> AsyncIterator[Program]:
    """Run `gateway serve`; whether it gets ready is the test's business."""
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump({**configuration(folder, ports, None), **changes}))
    async with running([COMMAND, "serve", "--config", file]) as program:
        yield program


@asynccontextmanager
async def left_behind(folder: Path, ports: list[int]) -> AsyncIterator[set[int]]:
    """Kill a gateway whose workers hang; yield them, and end those that are left."""
    async with started(folder, ports) as program:
        await program.wait_line('"event": "ready"')
        workers = {worker.pid for worker in workers_of(program.process.pid)}
        assert len(workers) == 2
        await until(lambda: recorded(folder) == workers, "both in the record")
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        program.process.kill()
        await program.process.wait()
        try:
            yield workers
        finally:
            for pid in workers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert await program.wait() == -signal.SIGKILL  # all that held its output have ended


def record_of(folder: Path) -> Path:
    return folder / "state" / "workers.json"


def recorded(folder: Path) -> set[int]:
    """Return the pids in the record."""
    with suppress(FileNotFoundError):
        return {worker[0] for worker, _ in json.loads(record_of(folder).read_text())["workers"]}
    return set()


def are_gone(pids: set[int]) -> bool:
    return not any(map(psutil.pid_exists, pids))


async def test_workers_that_hang_are_ended_by_the_next_gateway(
    tmp_path: Path, ports: list[int]
) -> None:
    async with left_behind(tmp_path, ports) as workers, started(tmp_path, ports) as program:
        await program.wait_line('"event": "ready"')
        await until(lambda: are_gone(workers), "the hung workers ended")
        await program.wait_line(f'"pids": {re.escape(str(sorted(workers)))}')
        await until(lambda: len(recorded(tmp_path) - workers) == 2, "a new record")
        assert not recorded(tmp_path) & workers
        assert await program.stop() == 0
    assert recorded(tmp_path) == set()


def _forget(path: Path) -> None:
    path.unlink()


def _change(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _another_start(path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for worker, _ in content["workers"]:
            worker[1] += 1

    _change(path, change)


def _another_boot(path: Path) -> None:
    _change(path, lambda content: content.update(boot="another"))


def _control_lives(path: Path) -> None:
    """Let this process have started the workers."""

    def change(content: dict[str, Any]) -> None:
        stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        for entry in content["workers"]:
            entry[1] = [os.getpid(), int(stat[19])]

    _change(path, change)


def _damaged(path: Path) -> None:
    path.write_text('{"boot": 7')


@pytest.mark.parametrize(
    "spoil", [_forget, _another_start, _another_boot, _control_lives, _damaged]
)
async def test_workers_that_may_be_somebody_elses_are_named_and_not_touched(
    tmp_path: Path, ports: list[int], spoil: Callable[[Path], None]
) -> None:
    async with left_behind(tmp_path, ports) as workers:
        spoil(record_of(tmp_path))
        async with started(tmp_path, ports) as program:
            assert await program.wait() == 1
            assert "Address already in use" in program.output
            for pid in workers:
                assert f"pid {pid} (" in program.output
        assert all(map(psutil.pid_exists, workers))


async def test_a_hung_worker_of_a_gateway_that_lives_is_not_touched(
    tmp_path: Path, ports: list[int]
) -> None:
    """Even if that gateway is stuck, too, and has the same state directory."""
    async with started(tmp_path, ports) as first:
        await first.wait_line('"event": "ready"')
        await until(lambda: len(recorded(tmp_path)) == 2, "both in the record")
        workers = recorded(tmp_path)
        stopped = [first.process.pid, *workers]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        other_admin = {"admin": {"address": "127.0.0.1:0"}}
        async with started(tmp_path, ports, **other_admin) as second:
            assert await second.wait() == 1
            assert f"pid {first.process.pid} (" in second.output
        assert all(map(psutil.pid_exists, workers))
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        assert await first.stop() == 0


async def test_another_program_is_named_and_not_touched(tmp_path: Path, ports: list[int]) -> None:
    async with running([sys.executable, "-c", LISTENS, str(ports[0])]) as other:
        await other.wait_line("listens")
        async with started(tmp_path, ports) as program:
            assert await program.wait() == 1
            assert f"pid {other.process.pid} (" in program.output
        assert other.process.returncode is None
