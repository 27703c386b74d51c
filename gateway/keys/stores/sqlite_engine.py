"""Connections to a SQLite file, each in a thread of its own, as what SQL stores run on."""

from __future__ import annotations

import contextlib
import sqlite3
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import aiosqlite

from gateway.keys.errors import StoreUnavailableError
from gateway.keys.stores.connection_pool import ConnectionPool
from gateway.keys.stores.sql import PARTITION, Row

BUSY_TIMEOUT_S: Final = 10.0
"""How long a writer waits for other processes' writes."""
_KEPT: Final = 5
_MOST: Final = 15
_WAIT_S: Final = 30.0
_OLDEST_SQLITE: Final = (3, 35)
"""The first that has RETURNING."""


def file_uri(path: Path) -> str:
    """Write `path` as SQLite's URI that opens an existing file and creates none."""
    return f"file:{urllib.parse.quote(str(path))}?mode=rw"


class SqliteConnection:
    """An `SqlConnection`."""

    def __init__(self, raw: aiosqlite.Connection) -> None:
        self._raw = raw

    async def execute(self, statement: str, *values: object) -> None:
        """See `SqlConnection`."""
        with _closed_named():
            await (await self._raw.execute(statement, _by_number(values))).close()

    async def execute_many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """Carry out a statement once for each row of values."""
        with _closed_named():
            cursor = await self._raw.executemany(statement, [_by_number(row) for row in rows])
            await cursor.close()

    async def fetch(self, statement: str, *values: object) -> Sequence[Row]:
        """See `SqlConnection`."""
        with _closed_named():
            return list(await self._raw.execute_fetchall(statement, _by_number(values)))

    async def parts(self, query: str, *values: object) -> AsyncGenerator[Sequence[Row], None]:
        """See `SqlConnection`."""
        with _closed_named():
            async with self._raw.execute(query, _by_number(values)) as cursor:
                while rows := list(await cursor.fetchmany(PARTITION)):
                    yield rows


class SqliteEngine:
    """An `SqlEngine` on an existing file; a missing one is an error at the first use.

    `synchronous`: FULL makes commits survive a power loss, NORMAL only the end of processes.
    Raises `StoreUnavailableError` where Python's SQLite is too old.
    """

    def __init__(self, path: Path, synchronous: Literal["FULL", "NORMAL"]) -> None:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            msg = (
                f"SQLite {sqlite3.sqlite_version} is too old:"
                " Python must be built with 3.35 or newer"
            )
            raise StoreUnavailableError(msg)
        self._path = path
        self._synchronous = synchronous
        self._pool = ConnectionPool(
            connect=self._connect,
            close=_close,
            is_reusable=_is_reusable,
            lives=_lives,
            kept=_KEPT,
            most=_MOST,
            wait_s=_WAIT_S,
        )

    def reading(self) -> contextlib.AbstractAsyncContextManager[SqliteConnection]:
        """See `SqlEngine`. Every transaction of SQLite sees one moment."""
        return self.writing()

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[SqliteConnection]:
        """See `SqlEngine`."""
        async with self._pool.connection() as raw:
            connection = SqliteConnection(raw)
            await connection.execute("BEGIN")
            try:
                yield connection
            except Exception:
                with contextlib.suppress(sqlite3.Error):  # SQLite may have undone it by itself
                    await connection.execute("ROLLBACK")
                raise
            await connection.execute("COMMIT")

    async def drop_connections(self) -> None:
        """See `SqlEngine`."""
        await self._pool.drop_all()

    async def _connect(self) -> aiosqlite.Connection:
        raw = await _opened(self._path)
        try:
            await raw.execute(f"PRAGMA synchronous = {self._synchronous}")
            await raw.execute("PRAGMA journal_mode = WAL")  # without effect but after a VACUUM INTO
        except BaseException:
            await _close(raw)  # now: a damaged file is tried again and again
            raise
        return raw


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[SqliteConnection]:
    """Connect to an existing file for the length of a block; no transaction is begun."""
    raw = await _opened(path)
    try:
        yield SqliteConnection(raw)
    finally:
        await _close(raw)


async def _opened(path: Path) -> aiosqlite.Connection:
    connecting = aiosqlite.connect(
        file_uri(path), uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None
    )
    # Else one that waits for a lock would keep the process alive.
    connecting._thread.daemon = True  # noqa: SLF001 - there is no other way to say so
    return await connecting


async def _close(raw: aiosqlite.Connection) -> None:
    with contextlib.suppress(sqlite3.Error, ValueError):  # it is closed already
        await raw.close()


def _is_reusable(raw: aiosqlite.Connection) -> bool:
    return not raw.in_transaction


async def _lives(_: aiosqlite.Connection) -> bool:
    return True


@contextlib.contextmanager
def _closed_named() -> Iterator[None]:
    """Have the use of a closed connection be an error of SQLite, as it is without aiosqlite."""
    try:
        yield
    except ValueError as error:
        raise sqlite3.ProgrammingError(str(error)) from error


def _by_number(values: Sequence[object]) -> dict[str, object]:
    """Name values as `$1`, `$2`, … in statements do."""
    return {str(number): value for number, value in enumerate(values, 1)}
