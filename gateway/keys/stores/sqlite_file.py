"""SQLite files: how one is created, checked, opened and its errors named. Nothing about keys.

A file is created whole or not at all: it is filled under another name, synced, then linked to its
own, which fails if somebody else was faster. An existing file is never created anew, whatever is in
it. Files are opened with WAL (readers and one writer at once, from any number of processes).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

from gateway.keys.errors import (
    StoreDamagedError,
    StoreError,
    StoreForeignError,
    StoreUnavailableError,
    os_errors_translated,
)
from gateway.keys.state_file import StateFileError, check_database
from gateway.keys.stores.sql import NoConnectionError, SqlConnection
from gateway.keys.stores.sqlite_engine import connected

_MAGIC: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100
_APPLICATION_ID_AT: Final = slice(68, 72)

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


async def create_file(
    path: Path, application_id: int, initialise: Callable[[SqlConnection], Awaitable[None]]
) -> None:
    """Create `path` with what `initialise` writes in a transaction, unless it exists.

    The file gets mode 0600, folders that are missing 0700.
    """
    with translated(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            await _fill(draft, application_id, initialise)
            await asyncio.to_thread(_sync, draft)
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
            await asyncio.to_thread(_sync, path.parent)
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


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and the system into `StoreError`s that name `path`."""
    try:
        with os_errors_translated(path):
            yield
    except (sqlite3.Error, NoConnectionError) as error:
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


async def _fill(
    draft: Path, application_id: int, initialise: Callable[[SqlConnection], Awaitable[None]]
) -> None:
    async with connected(draft) as connection:
        await connection.execute(f"PRAGMA application_id = {application_id}")
        await connection.execute("BEGIN")
        await initialise(connection)
        await connection.execute("COMMIT")
        # Last, because it stays in the file's header: everything so far stands in the file itself.
        await connection.execute("PRAGMA journal_mode = WAL")


def _sync(path: Path) -> None:
    """Make a file's contents, or a folder's entries, survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
