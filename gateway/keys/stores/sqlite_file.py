"""SQLite files: how one is created, checked, opened and its errors named. Nothing about keys.

A file is created whole or not at all: it is filled under another name, synced, then linked to its
own, which fails if somebody else was faster. An existing file is never created anew, whatever is in
it. Files are opened with WAL (readers and one writer at once, from any number of processes).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import AdaptedConnection, DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from gateway.keys.errors import (
    StoreDamagedError,
    StoreError,
    StoreForeignError,
    StoreUnavailableError,
    os_errors_translated,
)
from gateway.keys.state_file import StateFileError, check_database

BUSY_TIMEOUT_S: Final = 10.0
"""How long a writer waits for other processes' writes."""
_MAGIC: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100
_APPLICATION_ID_AT: Final = slice(68, 72)
_OLDEST_SQLITE: Final = (3, 35)
"""The first that has RETURNING."""

_ADVICE: Final = {
    sqlite3.SQLITE_BUSY: "another process holds it locked; try again, or find out which one",
    sqlite3.SQLITE_LOCKED: "another connection holds it locked; try again",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that it and its folder are accessible",
    sqlite3.SQLITE_READONLY: "it cannot be written; check the permissions of it and its folder",
    sqlite3.SQLITE_PERM: "access is denied; check the permissions of it and its folder",
    sqlite3.SQLITE_FULL: "the disk is full; make room",
    sqlite3.SQLITE_IOERR: "reading or writing it failed; check the disk",
}
_DAMAGED: Final = "it is damaged; restore it from a backup (it has not been changed)"


def create_file(
    path: Path, application_id: int, initialise: Callable[[sa.Connection], None]
) -> None:
    """Create `path` with what `initialise` writes, unless it exists. Blocks.

    The file gets mode 0600, folders that are missing 0700.
    """
    with translated(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            _fill(draft, application_id, initialise)
            _sync(draft)
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
            _sync(path.parent)
        finally:
            for suffix in ("", "-wal", "-shm"):
                draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def check_file(path: Path, application_id: int, *, own_only: bool = False) -> None:
    """Raise `StoreError` unless `path` is a SQLite file with our `application_id`. Only reads.

    `own_only` refuses another user's: a gateway must not accept keys that somebody else chose.
    """
    with translated(path):
        if own_only:
            _check_owner(path)
        if path.is_dir():
            msg = f"{path}: this is a folder; name a file"
            raise StoreForeignError(msg)
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    if not header:
        msg = f"{path}: the file is empty; restore it from a backup, or remove it to start anew"
        raise StoreDamagedError(msg)
    if not header.startswith(_MAGIC):
        msg = f"{path}: this is no SQLite file; choose another path (it has not been changed)"
        raise StoreForeignError(msg)
    if int.from_bytes(header[_APPLICATION_ID_AT], "big") != application_id:
        msg = (
            f"{path}: this SQLite file belongs to another program; choose another path"
            " (it has not been changed)"
        )
        raise StoreForeignError(msg)


def _check_owner(path: Path) -> None:
    try:
        check_database(path)
    except StateFileError as error:
        raise StoreForeignError(str(error)) from error


class SqliteEngine(AsyncEngine):
    """An engine that leaves no connection open when it is disposed of.

    SQLAlchemy lets go of those that are in use then, and its thread and the file would stay until
    the garbage collector comes.
    """

    def __init__(self, engine: sa.Engine, synchronous: str) -> None:
        super().__init__(engine)
        self._synchronous: Final = synchronous
        self._open: Final[set[AdaptedConnection]] = set()
        sa.event.listen(engine, "do_connect", self._connect)
        sa.event.listen(engine, "connect", self._configure)
        sa.event.listen(engine, "close", self._closes)

    async def dispose(self, close: bool = True) -> None:  # noqa: FBT001, FBT002 - SQLAlchemy's
        """Close all connections; whoever uses one gets `StoreUnavailableError`."""
        await super().dispose(close)
        while self._open:
            await self._open.pop().driver_connection.close()

    def _connect(
        self, dialect: sa.Dialect, _: object, args: tuple[Any, ...], options: dict[str, Any]
    ) -> DBAPIConnection:
        raw = dialect.connect(*args, **options)
        if isinstance(raw, AdaptedConnection):  # as those of every asyncio driver
            self._open.add(raw)
        return raw

    def _configure(self, raw: DBAPIConnection, _: object) -> None:
        try:
            cursor = raw.cursor()
            cursor.execute(f"PRAGMA synchronous = {self._synchronous}")
            cursor.execute("PRAGMA journal_mode = WAL")  # without effect but after a VACUUM INTO
            cursor.close()
        except BaseException:
            raw.close()  # now: a damaged file is tried again and again
            self._closes(raw, None)
            raise

    def _closes(self, raw: DBAPIConnection, _: object) -> None:
        if isinstance(raw, AdaptedConnection):
            self._open.discard(raw)


def open_engine(path: Path, synchronous: Literal["FULL", "NORMAL"]) -> SqliteEngine:
    """Make an engine on an existing file; a missing one is an error at the first use.

    `synchronous`: FULL makes commits survive a power loss, NORMAL only the end of processes.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        msg = f"SQLite {sqlite3.sqlite_version} is too old: Python must be built with 3.35 or newer"
        raise StoreUnavailableError(msg)

    # SQLAlchemy's own connect makes a connection's thread one that keeps no process alive.
    engine = create_async_engine(
        sa.URL.create("sqlite+aiosqlite", database=file_uri(path), query={"uri": "true"}),
        connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None},
        poolclass=AsyncAdaptedQueuePool,
        hide_parameters=True,
    )
    _control_transactions(engine.sync_engine)
    return SqliteEngine(engine.sync_engine, synchronous)


def file_uri(path: Path) -> str:
    """Write `path` as SQLite's URI that opens an existing file and creates none."""
    return f"file:{urllib.parse.quote(str(path))}?mode=rw"


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLAlchemy, SQLite and the system into `StoreError`s that name `path`."""
    try:
        with os_errors_translated(path):
            yield
    except sa.exc.DBAPIError as error:
        raise _named(path, error.orig) from error
    except (sa.exc.TimeoutError, sqlite3.Error) as error:
        raise _named(path, error) from error


def _named(path: Path, error: BaseException | None) -> StoreError:
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    if primary == sqlite3.SQLITE_NOTADB:
        return StoreForeignError(f"{path}: this is no SQLite file, or it is encrypted")
    if primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}:
        return StoreDamagedError(f"{path}: {_DAMAGED}: {error}")
    advice = _ADVICE.get(primary, "it cannot be used") if primary is not None else "no answer"
    return StoreUnavailableError(f"{path}: {advice} ({error})")


def _fill(draft: Path, application_id: int, initialise: Callable[[sa.Connection], None]) -> None:
    engine = sa.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(file_uri(draft), uri=True, isolation_level=None),
        poolclass=NullPool,
        hide_parameters=True,
    )
    _control_transactions(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA application_id = {application_id}")
        connection.commit()
    with engine.begin() as connection:
        initialise(connection)
    engine.dispose()
    # Last, because it stays in the file's header: everything so far stands in the file itself.
    raw = sqlite3.connect(file_uri(draft), uri=True, isolation_level=None)
    with contextlib.closing(raw):
        raw.execute("PRAGMA journal_mode = WAL")


def _control_transactions(engine: sa.Engine) -> None:
    """Begin real transactions: the driver begins none for reads and for DDL."""
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))


def _sync(path: Path) -> None:
    """Make a file's contents, or a folder's entries, survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
