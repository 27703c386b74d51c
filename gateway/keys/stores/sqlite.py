"""Keys in a SQLite file on this host: the file, its tables and the watch over it, put together."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from gateway.keys.confirmations.lock_files import LockFiles
from gateway.keys.errors import (
    AnotherStoreError,
    StoreDamagedError,
    StoreError,
    StoreMissingError,
    StoreUnavailableError,
)
from gateway.keys.stores import schema, sqlite_file
from gateway.keys.stores.database import Transactions, another_store
from gateway.keys.stores.sql import SqlConnection, SqlEngine, fetch_value
from gateway.keys.stores.sql_feed import SqlFeed
from gateway.keys.stores.sql_repository import SqlRepository
from gateway.keys.stores.sql_store import SqlStore
from gateway.keys.stores.sqlite_engine import SqliteEngine
from gateway.keys.stores.sqlite_place import SqlitePlace
from gateway.keys.stores.sqlite_usage import SqliteUsage, path_for
from gateway.keys.stores.sqlite_watch import SqliteWatch

APPLICATION_ID: Final = 0x6F746B65
"""Stands in the file's header (SQLite's `PRAGMA application_id`), so that `file` and we know it."""


def sqlite_store(path: Path, *, own_only: bool = False) -> SqlStore:
    """Make a store of the keys in the SQLite file `path`, with its usage in a file beside it.

    Usage is apart because gateways that watch the keys would wake at every write. `own_only`: files
    of other users are refused (for a gateway; commands are typed by whoever may change the file).
    """
    database = SqliteDatabase(path, own_only=own_only)
    transactions = Transactions(database)
    return SqlStore(
        SqlFeed(transactions),
        SqlRepository(transactions),
        SqliteUsage(path_for(path), own_only=own_only),
        database.gateways,
    )


class SqliteDatabase:
    """A `Database` in one file."""

    name = "sqlite"
    is_remote = False
    is_read_only = False
    is_cut_off = False

    def __init__(self, path: Path, *, own_only: bool = False) -> None:
        self._path = path
        self._own_only = own_only
        self.location = str(path)
        self.generation = 0
        self.gateways: Final = LockFiles(path, lambda: self._store_id)
        self._store_id = ""
        """The id in the file that was opened."""
        self._place = SqlitePlace(path)
        self._watch = SqliteWatch(path)
        self._lost = False
        """Whether the watched file went away or could not be read: it may be another one now."""

    async def open(self, *, create: bool) -> SqlEngine:
        """See `Database`. Raises `StoreError`; whatever file is there is never overwritten."""
        with self.translated():
            exists = self._path.exists()
        if not exists:
            self._refuse_beside_gateways(None)
            if not create:
                msg = (
                    f"{self._path}: there is no key store; `gateway serve` and"
                    " `gateway keys create` make one (is --config or --data right?)"
                )
                raise StoreMissingError(msg)
            await sqlite_file.create_file(self._path, APPLICATION_ID, _migrate)
        sqlite_file.check_file(self._path, APPLICATION_ID, own_only=self._own_only)
        self._place.note()
        engine = SqliteEngine(self._path, synchronous="FULL")
        try:
            self._store_id = await self._bring_up_to_date(engine)
            self._place.check()
        except BaseException:
            await engine.drop_connections()
            raise
        return engine

    async def close(self) -> None:
        """See `Database`."""
        self._watch.close()

    def check_place(self) -> None:
        """See `Database`. A command also refuses to write beside gateways that hold another store.

        Some 20 µs; only commands and the API write.
        """
        self._place.check()
        if not self._own_only:
            self._refuse_beside_gateways(self._store_id)

    def _refuse_beside_gateways(self, store_id: str | None) -> None:
        """Raise if a running gateway holds another store here than `store_id`; None = any."""
        if not self.gateways.hold_other_than(store_id):
            return
        msg = (
            f"{self._path}: a running gateway holds another store, which was here: put that one"
            " back, or restart the gateway: it says how to have it use this one"
        )
        raise StoreUnavailableError(msg)

    async def begun(self, connection: SqlConnection) -> None:
        """See `Database`: SQLite's own bound holds (`BUSY_TIMEOUT_S`)."""

    async def announce(self, connection: SqlConnection) -> None:
        """See `Database`: those who watch the file notice without it."""

    async def wait_for_change(self, engine: SqlEngine) -> None:
        """See `Database`. A file put in the place of the old one is read anew as a whole."""
        if not self._watch.is_open:
            return await self._begin_to_watch(engine)
        try:
            await self._watch.wait()
            self._lost = self._watch.is_replaced()
            if not self._lost:
                self._place.check()
        except StoreError:
            self._lost = True
            self._watch.close()
            self.gateways.announce_again()
            raise
        if self._lost:
            self._watch.close()
            await self._begin_to_watch(engine)
        return None

    async def _begin_to_watch(self, engine: SqlEngine) -> None:
        """Open the watch, and after a loss make sure that the file is a store. Counts as a change.

        What follows the call reads the store, so nothing can slip through in between.
        """
        if self._lost:
            self.gateways.announce_again()
            await engine.drop_connections()
            sqlite_file.check_file(self._path, APPLICATION_ID, own_only=self._own_only)
            place = self._place.again()
            if place.has_shrunk:
                await self._check_whole(engine)
            if await self._bring_up_to_date(engine) != self._store_id:
                await engine.drop_connections()
                raise AnotherStoreError(another_store(self.location))
            self._place = place
            self.generation += 1
        self._watch.open()
        self._lost = False

    def answering(self) -> contextlib.AbstractAsyncContextManager[None]:
        """See `Database`: a file answers, or fails."""
        return contextlib.nullcontext()

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """See `Database`."""
        return sqlite_file.translated(self._path)

    async def _check_whole(self, engine: SqlEngine) -> None:
        """Raise `StoreDamagedError` unless no page is missing. Reads the whole file."""
        with self.translated():
            async with engine.reading() as connection:
                found = await fetch_value(connection, "PRAGMA quick_check(1)")
        if found != "ok":
            msg = f"{self._path}: it was truncated; restore it from a backup ({found})"
            raise StoreDamagedError(msg)

    async def _bring_up_to_date(self, engine: SqlEngine) -> str:
        """Migrate an older store; return its id."""
        try:
            with self.translated():
                async with engine.reading() as connection:
                    if await schema.is_current(connection):
                        return await _store_id(connection)
                async with engine.writing() as connection:
                    await _migrate(connection)
                    return await _store_id(connection)
        except StoreError as error:
            raise type(error)(_with_location(self.location, str(error))) from error


async def _migrate(connection: SqlConnection) -> None:
    await schema.migrate(connection, schema.SQLITE)


async def _store_id(connection: SqlConnection) -> str:
    return str(await fetch_value(connection, "SELECT store_id FROM gateway_key_store"))


def _with_location(location: str, text: str) -> str:
    return text if text.startswith(location) else f"{location}: {text}"
