from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from gateway.keys.confirmations.lock_files import LockFile, LockFiles, folder_of

LONG_S = 60.0
AT_ONCE_S = 0.0

CONFIRMED = "confirmed"
PENDING = "pending"
NO_GATEWAY = "no gateway"


async def _wait(store: Path, revision: int, timeout_s: float) -> str:
    """Wait as a command does, and say in a word what became of it."""
    confirmation = await LockFiles(store).wait(revision, timeout_s)
    if confirmation.pending:
        return PENDING
    return CONFIRMED if confirmation.confirmed else NO_GATEWAY


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


async def test_without_a_gateway_nobody_waits(store: Path) -> None:
    assert await _wait(store, 1, LONG_S) == NO_GATEWAY


async def test_what_is_confirmed_already_is_not_waited_for(store: Path) -> None:
    with closing(LockFile(store)) as file:
        file.publish(7)

        assert await _wait(store, 7, AT_ONCE_S) == CONFIRMED
        assert await _wait(store, 8, AT_ONCE_S) == PENDING


async def test_a_confirmation_ends_the_wait(store: Path) -> None:
    with closing(LockFile(store)) as file:
        waiting = asyncio.create_task(_wait(store, 3, LONG_S))
        await asyncio.sleep(0)
        file.publish(2)
        await asyncio.sleep(0)
        assert not waiting.done()

        file.publish(3)

        assert await waiting == CONFIRMED


async def test_all_gateways_of_the_host_must_confirm(store: Path) -> None:
    with closing(LockFile(store)) as quick, closing(LockFile(store)) as slow:
        quick.publish(5)
        assert await _wait(store, 5, AT_ONCE_S) == PENDING

        slow.publish(5)

        assert await _wait(store, 5, AT_ONCE_S) == CONFIRMED


async def test_a_gateway_that_ends_is_not_waited_for(store: Path) -> None:
    file = LockFile(store)
    waiting = asyncio.create_task(_wait(store, 1, LONG_S))
    await asyncio.sleep(0)

    file.close()

    assert await waiting == CONFIRMED
    assert list(folder_of(store).iterdir()) == []


async def test_half_a_write_is_not_taken_for_a_number(store: Path) -> None:
    with closing(LockFile(store)) as gateway:
        gateway.publish(999)
        (file,) = folder_of(store).iterdir()
        old, new = b"%020d " % 999, b"%020d " % 1000
        file.write_bytes(new[:18] + old[18:] + old.strip() + b"\n")

        assert await _wait(store, 1, AT_ONCE_S) == PENDING


async def test_a_restored_store_with_a_lower_revision_is_confirmed_too(store: Path) -> None:
    with closing(LockFile(store)) as file:
        file.publish(10**15)
        file.publish(4)

        assert await _wait(store, 4, AT_ONCE_S) == CONFIRMED
        assert await _wait(store, 5, AT_ONCE_S) == PENDING


async def test_the_board_is_private(store: Path) -> None:
    with closing(LockFile(store)):
        folder = folder_of(store)
        (file,) = folder.iterdir()

        assert folder.stat().st_mode & 0o777 == 0o700
        assert file.stat().st_mode & 0o777 == 0o600
