"""Connections to a database: made when they are needed, and some kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Generic, TypeVar

from gateway.keys.stores.sql import NoConnectionError

_Connection = TypeVar("_Connection")


class ConnectionPool(Generic[_Connection]):
    """At most `most` connections at once, of which `kept` stay open when nobody uses them.

    `connect` makes one; `close` ends one, whatever state it is in. `is_reusable` says whether one
    may be kept after use. `lives` makes sure that one that stood idle still works. Who waits longer
    than `wait_s` seconds for a place gets `NoConnectionError`.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], Awaitable[_Connection]],
        close: Callable[[_Connection], Awaitable[None]],
        is_reusable: Callable[[_Connection], bool],
        lives: Callable[[_Connection], Awaitable[bool]],
        kept: int,
        most: int,
        wait_s: float,
    ) -> None:
        self._connect = connect
        self._close = close
        self._is_reusable = is_reusable
        self._lives = lives
        self._kept = kept
        self._wait_s = wait_s
        self._places = asyncio.Semaphore(most)
        self._idle: Final[list[_Connection]] = []
        self._in_use: Final[set[_Connection]] = set()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[_Connection]:
        """Use a connection. One whose user was cancelled is closed: its state is unknown."""
        try:
            async with asyncio.timeout(self._wait_s):
                await self._places.acquire()
        except TimeoutError:
            msg = "all connections are in use"
            raise NoConnectionError(msg) from None
        try:
            connection = await self._take()
            self._in_use.add(connection)
            is_known = False
            try:
                yield connection
                is_known = True
            except Exception:
                is_known = True
                raise
            finally:
                await self._give_back(connection, is_known=is_known)
        finally:
            self._places.release()

    async def drop_all(self) -> None:
        """Close all connections, those in use too."""
        while self._idle or self._in_use:
            await self._close((self._idle or self._in_use).pop())

    async def _take(self) -> _Connection:
        if self._idle:
            connection = self._idle.pop()  # the one that was used last
            if await self._lives(connection):
                return connection
            await self._close(connection)
            while self._idle:  # they stood idle for longer
                await self._close(self._idle.pop())
        return await self._connect()

    async def _give_back(self, connection: _Connection, *, is_known: bool) -> None:
        if connection not in self._in_use:
            return  # it was closed meanwhile
        self._in_use.discard(connection)
        if is_known and len(self._idle) < self._kept and self._is_reusable(connection):
            self._idle.append(connection)
        else:
            await self._close(connection)
