from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.keys.board import Confirmation, ConfirmationBoard, folder_of, wait_confirmed

LONG_S = 60.0
AT_ONCE_S = 0.0

_GATEWAY = """
import sys
from pathlib import Path
from gateway.keys.board import ConfirmationBoard
board = ConfirmationBoard(Path(sys.argv[1]))
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


async def test_without_a_gateway_nobody_waits(store: Path) -> None:
    assert await wait_confirmed(store, 1, LONG_S) is Confirmation.NO_GATEWAY


async def test_what_is_confirmed_already_is_not_waited_for(store: Path) -> None:
    with ConfirmationBoard(store) as board:
        board.publish(7)

        assert await wait_confirmed(store, 7, AT_ONCE_S) is Confirmation.CONFIRMED
        assert await wait_confirmed(store, 8, AT_ONCE_S) is Confirmation.PENDING


async def test_a_confirmation_ends_the_wait(store: Path) -> None:
    with ConfirmationBoard(store) as board:
        waiting = asyncio.create_task(wait_confirmed(store, 3, LONG_S))
        await asyncio.sleep(0)
        board.publish(2)
        await asyncio.sleep(0)
        assert not waiting.done()

        board.publish(3)

        assert await waiting is Confirmation.CONFIRMED


async def test_all_gateways_of_the_host_must_confirm(store: Path) -> None:
    with ConfirmationBoard(store) as quick, ConfirmationBoard(store) as slow:
        quick.publish(5)
        assert await wait_confirmed(store, 5, AT_ONCE_S) is Confirmation.PENDING

        slow.publish(5)

        assert await wait_confirmed(store, 5, AT_ONCE_S) is Confirmation.CONFIRMED


async def test_a_gateway_that_ends_is_not_waited_for(store: Path) -> None:
    board = ConfirmationBoard(store)
    waiting = asyncio.create_task(wait_confirmed(store, 1, LONG_S))
    await asyncio.sleep(0)

    board.close()

    assert await waiting is Confirmation.CONFIRMED
    assert list(folder_of(store).iterdir()) == []


async def test_a_gateway_that_was_killed_is_not_waited_for(store: Path) -> None:
    with _other_gateway(store) as process:
        assert await wait_confirmed(store, 1, AT_ONCE_S) is Confirmation.PENDING
        waiting = asyncio.create_task(wait_confirmed(store, 1, LONG_S))
        await asyncio.sleep(0)

        process.send_signal(signal.SIGKILL)

        assert await waiting is Confirmation.CONFIRMED
        assert await wait_confirmed(store, 1, LONG_S) is Confirmation.NO_GATEWAY


async def test_the_next_gateway_sweeps_up_after_one_that_was_killed(store: Path) -> None:
    with _other_gateway(store) as process:
        process.kill()
    assert len(list(folder_of(store).iterdir())) == 1

    with ConfirmationBoard(store):
        assert len(list(folder_of(store).iterdir())) == 1

    assert list(folder_of(store).iterdir()) == []


async def test_sweeping_leaves_a_running_gateways_file(store: Path) -> None:
    with _other_gateway(store), ConfirmationBoard(store) as board:
        board.publish(1)

        assert await wait_confirmed(store, 1, AT_ONCE_S) is Confirmation.PENDING


async def test_half_a_write_is_not_taken_for_a_number(store: Path) -> None:
    with ConfirmationBoard(store) as board:
        board.publish(999)
        (file,) = folder_of(store).iterdir()
        old, new = b"%020d " % 999, b"%020d " % 1000
        file.write_bytes(new[:18] + old[18:] + old.strip() + b"\n")

        assert await wait_confirmed(store, 1, AT_ONCE_S) is Confirmation.PENDING


async def test_a_restored_store_with_a_lower_revision_is_confirmed_too(store: Path) -> None:
    with ConfirmationBoard(store) as board:
        board.publish(10**15)
        board.publish(4)

        assert await wait_confirmed(store, 4, AT_ONCE_S) is Confirmation.CONFIRMED
        assert await wait_confirmed(store, 5, AT_ONCE_S) is Confirmation.PENDING


async def test_the_board_is_private(store: Path) -> None:
    with ConfirmationBoard(store):
        folder = folder_of(store)
        (file,) = folder.iterdir()

        assert folder.stat().st_mode & 0o777 == 0o700
        assert file.stat().st_mode & 0o777 == 0o600
