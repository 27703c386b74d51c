"""Gateways on this host that are killed while commands wait for them: real processes."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gateway.keys.confirmations.lock_files import LockFile, LockFiles, folder_of

LONG_S = 60.0
AT_ONCE_S = 0.0

_GATEWAY = """
import sys
from pathlib import Path
from gateway.keys.confirmations.lock_files import LockFile
file = LockFile(Path(sys.argv[1]))
print("announced", flush=True)
sys.stdin.read()
"""


@contextmanager
def _other_gateway(store: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a real process that has announced itself and never confirms anything."""
    with subprocess.Popen(
        [sys.executable, "-c", _GATEWAY, str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "announced\n"
        yield process
        process.kill()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


async def test_a_gateway_that_was_killed_is_not_waited_for(store: Path) -> None:
    with _other_gateway(store) as process:
        assert (await LockFiles(store).wait(1, AT_ONCE_S)).pending
        waiting = asyncio.create_task(LockFiles(store).wait(1, LONG_S))
        await asyncio.sleep(0)

        process.send_signal(signal.SIGKILL)

        assert not (await waiting).pending
        assert not (await LockFiles(store).wait(1, LONG_S)).confirmed


async def test_the_next_gateway_sweeps_up_after_one_that_was_killed(store: Path) -> None:
    with _other_gateway(store) as process:
        process.kill()
    assert len(list(folder_of(store).iterdir())) == 1

    with closing(LockFile(store)):
        assert len(list(folder_of(store).iterdir())) == 1

    assert list(folder_of(store).iterdir()) == []


async def test_sweeping_leaves_a_running_gateways_file(store: Path) -> None:
    with _other_gateway(store), closing(LockFile(store)) as file:
        file.publish(1)

        assert (await LockFiles(store).wait(1, AT_ONCE_S)).pending
