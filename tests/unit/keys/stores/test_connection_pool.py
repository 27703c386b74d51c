from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from gateway.keys.stores.connection_pool import ConnectionPool
from gateway.keys.stores.sql import NoConnectionError


@dataclass(eq=False)
class Line:
    lives: bool = True
    is_reusable: bool = True
    is_closed: bool = False


@dataclass
class Switchboard:
    kept: int = 2
    most: int = 3
    wait_s: float = 30.0
    made: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool = ConnectionPool(
            connect=self._connect,
            close=self._close,
            is_reusable=lambda line: line.is_reusable,
            lives=self._lives,
            kept=self.kept,
            most=self.most,
            wait_s=self.wait_s,
        )

    @property
    def open(self) -> list[Line]:
        return [line for line in self.made if not line.is_closed]

    async def _connect(self) -> Line:
        self.made.append(Line())
        return self.made[-1]

    async def _close(self, line: Line) -> None:
        line.is_closed = True

    async def _lives(self, line: Line) -> bool:
        return line.lives


async def test_a_connection_is_used_again() -> None:
    board = Switchboard()
    for _ in range(3):
        async with board.pool.connection():
            pass
    assert len(board.made) == 1


async def test_more_are_made_when_they_are_needed_and_only_some_kept() -> None:
    board = Switchboard()
    async with board.pool.connection(), board.pool.connection(), board.pool.connection():
        assert len(board.open) == 3
    assert len(board.open) == 2


async def test_there_are_never_more_than_the_limit() -> None:
    board = Switchboard(most=1)
    async with board.pool.connection():
        second = asyncio.create_task(board.pool.connection().__aenter__())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not second.done()
    await second
    assert len(board.made) == 1


async def test_who_waits_for_too_long_gets_none() -> None:
    board = Switchboard(most=1, wait_s=0.0)
    async with board.pool.connection():
        with pytest.raises(NoConnectionError, match="all connections are in use"):
            await board.pool.connection().__aenter__()
    async with board.pool.connection():
        pass


async def test_one_that_died_is_replaced_and_so_are_all_that_stood_idle_longer() -> None:
    board = Switchboard()
    async with board.pool.connection(), board.pool.connection():
        pass
    for line in board.made:
        line.lives = False

    async with board.pool.connection() as line:
        assert board.open == [line]


async def test_one_that_is_in_no_state_to_be_used_again_is_closed() -> None:
    board = Switchboard()
    async with board.pool.connection() as line:
        line.is_reusable = False
    assert board.open == []


async def test_an_error_of_its_user_costs_no_connection() -> None:
    board = Switchboard()
    with pytest.raises(LookupError):
        async with board.pool.connection():
            raise LookupError
    assert len(board.open) == 1


async def test_one_whose_user_was_cancelled_is_closed() -> None:
    board = Switchboard()
    with pytest.raises(asyncio.CancelledError):
        async with board.pool.connection():
            raise asyncio.CancelledError
    assert board.open == []


async def test_all_are_dropped_and_new_ones_are_made() -> None:
    board = Switchboard()
    async with board.pool.connection() as used:
        async with board.pool.connection():
            pass
        await board.pool.drop_all()
        assert board.open == []
    assert used.is_closed
    async with board.pool.connection() as line:
        assert board.open == [line]
