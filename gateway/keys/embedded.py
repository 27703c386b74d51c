"""The embedded store: a SQLite file, its tables and the watch over it, put together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.keys import schema, sqlite
from gateway.keys.board import ConfirmationBoard
from gateway.keys.errors import StoreError, StoreUnavailableError
from gateway.keys.sql import PARTITION, SqlStore
from gateway.keys.usage import UsageStore, path_for
from gateway.keys.watch import SqliteWatch

APPLICATION_ID: Final = 0x6F746B65
"""Stands in the file's header (SQLite's `PRAGMA application_id`), so that `file` and we know it."""


def sqlite_store(path: Path) -> SqlStore:
    """Make a store of the keys in the SQLite file `path`."""
    return SqlStore(SqliteDatabase(path))


class SqliteDatabase:
    """A `sql.Database` in one file."""

    name = "sqlite"
    is_remote = False
    reading: Mapping[str, Any] = {}
    """A transaction of SQLite sees one moment anyway."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.location = str(path)
        self.file: Path | None = path
        self.generation = 0
        self._watch = SqliteWatch(path)
        self._lost = False
        """Whether the watched file went away or could not be read: it may be another one now."""

    async def open(self, *, create: bool) -> AsyncEngine:
        """See `sql.Database`. Raises `StoreError`; whatever file is there is never overwritten."""
        with self.translated():
            exists = self._path.exists()
        if not exists:
            if not create:
                msg = (
                    f"{self._path}: there is no key store; `gateway serve` and"
                    " `gateway keys create` make one (is --config or --data right?)"
                )
                raise StoreUnavailableError(msg)
            await asyncio.to_thread(sqlite.create_file, self._path, APPLICATION_ID, schema.migrate)
        sqlite.check_file(self._path, APPLICATION_ID)
        engine = sqlite.open_engine(self._path, synchronous="FULL")
        try:
            await self._bring_up_to_date(engine)
        except BaseException:
            await engine.dispose()
            raise
        return engine

    async def close(self) -> None:
        """See `sql.Database`."""
        self._watch.close()

    async def announce(self, connection: AsyncConnection) -> None:
        """See `sql.Database`: whoever watches the file needs no telling."""

    def usage(self) -> UsageStore:
        """See `sql.Database`: in a file beside, because whoever watches this one would wake."""
        return UsageStore(path_for(self._path))

    def board(self) -> ConfirmationBoard:
        """See `sql.Database`: files beside this one."""
        return ConfirmationBoard(self._path)

    async def ask_gateways(self, revision: int, timeout_s: float) -> None:
        """See `sql.Database`: commands look at the board themselves."""
        _ = revision, timeout_s

    async def rows(
        self, connection: AsyncConnection, query: sa.Select[Any]
    ) -> AsyncIterator[Sequence[Sequence[Any]]]:
        """See `sql.Database`."""
        result = await connection.stream(query)
        async for rows in result.partitions(PARTITION):
            yield rows

    async def wait_for_change(self, engine: AsyncEngine) -> None:
        """See `sql.Database`. A file put in the place of the old one is read anew as a whole."""
        if not self._watch.is_open:
            return await self._begin_to_watch(engine)
        try:
            await self._watch.wait()
            self._lost = self._watch.is_replaced()
        except StoreError:
            self._lost = True
            self._watch.close()
            raise
        if self._lost:
            self._watch.close()
            await self._begin_to_watch(engine)
        return None

    async def _begin_to_watch(self, engine: AsyncEngine) -> None:
        """Open the watch, and after a loss make sure that the file is a store. Counts as a change.

        What follows the call reads the store, so nothing can slip through in between.
        """
        if self._lost:
            await engine.dispose()
            sqlite.check_file(self._path, APPLICATION_ID)
            await self._bring_up_to_date(engine)
            self.generation += 1
        self._watch.open()
        self._lost = False

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """See `sql.Database`."""
        return sqlite.translated(self._path)

    async def _bring_up_to_date(self, engine: AsyncEngine) -> None:
        try:
            with self.translated():
                async with engine.connect() as connection:
                    if await connection.run_sync(schema.is_current):
                        return
                async with engine.begin() as connection:
                    await connection.run_sync(schema.migrate)
        except StoreError as error:
            raise type(error)(_with_location(self.location, str(error))) from error


def _with_location(location: str, text: str) -> str:
    return text if text.startswith(location) else f"{location}: {text}"
