from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from gateway.keys.errors import (
    StoreDamagedError,
    StoreError,
    StoreForeignError,
    StoreTooNewError,
    StoreUnavailableError,
)
from gateway.keys.store import KeySpec, NewKey
from gateway.keys.stores import sqlite_engine, sqlite_file
from gateway.keys.stores.schema import MIGRATIONS, SQLITE, Dialect, migrate
from gateway.keys.stores.sql import SqlConnection, fetch_value
from gateway.keys.stores.sql_store import SqlStore
from gateway.keys.stores.sqlite import APPLICATION_ID, sqlite_store
from gateway.model import digest_of
from tests.support.old_schema import check_brought_up_to_date, version_2

NEXT_VERSION: Final = len(MIGRATIONS) + 1


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_new_store_is_readable_by_its_owner_only(store: SqlStore, path: Path) -> None:
    await store.repository.create(NewKey(digest_of(b"k"), KeySpec("name")), 1)

    assert _mode(path.parent) == 0o700
    assert {file.name: _mode(file) for file in path.parent.iterdir()} == {
        "keys.db": 0o600,
        "keys.db-wal": 0o600,
        "keys.db-shm": 0o600,
    }


async def test_commits_survive_a_power_loss(store: SqlStore) -> None:
    async with store.feed._transactions.engine.reading() as connection:
        pragmas = [
            await fetch_value(connection, f"PRAGMA {name}")
            for name in ("journal_mode", "synchronous", "busy_timeout")
        ]

    assert pragmas == ["wal", 2, 10_000]  # 2 is FULL


async def test_a_missing_store_is_not_made_by_who_only_reads(path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="there is no key store; `gateway serve`"):
        await sqlite_store(path).feed.open(create=False)

    assert not path.parent.exists()


def _foreign_text(path: Path) -> None:
    path.write_bytes(b"keys:\n- not a database\n" * 10)


def _foreign_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE songs (title)")
    connection.close()


def _empty(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    "make, error, text",
    [
        (_foreign_text, StoreForeignError, "this is no SQLite file"),
        (_foreign_database, StoreForeignError, "belongs to another program"),
        (_empty, StoreDamagedError, "the file is empty"),
    ],
)
async def test_a_file_that_is_no_store_is_left_as_it_is(
    tmp_path: Path, make: object, error: type[StoreError], text: str
) -> None:
    path = tmp_path / "keys.db"
    assert callable(make)
    make(path)
    before = path.read_bytes()

    with pytest.raises(error, match=text) as caught:
        await sqlite_store(path).feed.open(create=True)

    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


async def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreForeignError, match="this is a folder"):
        await sqlite_store(tmp_path).feed.open(create=True)


async def test_a_folder_that_cannot_be_made_is_an_error_with_its_cause(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StoreUnavailableError, match="Not a directory"):
        await sqlite_store(tmp_path / "file" / "deeper" / "keys.db").feed.open(create=True)


async def test_a_damaged_store_is_named_so_and_not_changed(store: SqlStore, path: Path) -> None:
    for number in range(200):
        await store.repository.create(NewKey(digest_of(b"%d" % number), KeySpec("name" * 20)), 1)
    await store.feed.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xde\xad" * ((len(content) - 4096) // 2)
    path.write_bytes(content)

    with pytest.raises(StoreDamagedError, match=r"restore it from a backup"):
        await store.feed.open(create=True)

    assert path.read_bytes() == content


async def test_a_store_of_a_newer_gateway_is_refused_and_not_changed(
    store: SqlStore, path: Path
) -> None:
    async with store.feed._transactions.engine.writing() as connection:
        await connection.execute("UPDATE gateway_key_store SET schema_version = $1", NEXT_VERSION)
    await store.feed.close()
    before = path.read_bytes()

    with pytest.raises(StoreTooNewError, match=r"keys\.db: it has schema version 4, .* up to 3"):
        await store.feed.open(create=True)

    assert path.read_bytes() == before


async def test_an_older_store_is_brought_up_to_date_with_what_is_in_it(store: SqlStore) -> None:
    def add_colour(_: Dialect) -> list[str]:
        return ["ALTER TABLE gateway_keys ADD COLUMN colour TEXT DEFAULT 'red'"]

    await store.repository.create(NewKey(digest_of(b"k"), KeySpec("kept")), 1)
    async with store.feed._transactions.engine.writing() as connection:
        await migrate(connection, SQLITE, (*MIGRATIONS, add_colour))

    async with store.feed._transactions.engine.reading() as connection:
        rows = await connection.fetch("SELECT name, colour FROM gateway_keys")
        version = await fetch_value(connection, "SELECT schema_version FROM gateway_key_store")
    assert [tuple(row) for row in rows] == [("kept", "red")]
    assert version == NEXT_VERSION


async def test_a_store_without_tenancy_gets_it_and_keeps_its_keys(path: Path) -> None:
    async def make_old(connection: SqlConnection) -> None:
        for statement in version_2("sqlite", digest_of(b"k")):
            await connection.execute(statement)

    await sqlite_file.create_file(path, APPLICATION_ID, make_old)
    store = sqlite_store(path)
    await store.feed.open(create=False)
    try:
        await check_brought_up_to_date(store)
    finally:
        await store.feed.close()


async def test_a_migration_that_fails_leaves_the_store_as_it_was(store: SqlStore) -> None:
    def break_off(_: Dialect) -> Iterator[str]:
        yield "ALTER TABLE gateway_keys ADD COLUMN colour TEXT"
        msg = "power loss"
        raise OSError(msg)

    with pytest.raises(OSError, match="power loss"):
        async with store.feed._transactions.engine.writing() as connection:
            await migrate(connection, SQLITE, (*MIGRATIONS, break_off))

    async with store.feed._transactions.engine.reading() as connection:
        columns = [row[1] for row in await connection.fetch("PRAGMA table_info(gateway_keys)")]
        version = await fetch_value(connection, "SELECT schema_version FROM gateway_key_store")
    assert "digest" in columns
    assert "colour" not in columns
    assert version == len(MIGRATIONS)


async def _migrate(connection: SqlConnection) -> None:
    await migrate(connection, SQLITE)


def test_of_many_who_create_one_wins_and_nothing_is_left_over(path: Path) -> None:
    start = threading.Barrier(8)

    def create() -> None:
        start.wait()
        asyncio.run(sqlite_file.create_file(path, APPLICATION_ID, _migrate))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    sqlite_file.check_file(path, APPLICATION_ID)
    assert list(path.parent.iterdir()) == [path]


async def test_creating_never_replaces_what_exists(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")

    await sqlite_file.create_file(path, APPLICATION_ID, _migrate)

    assert path.read_text() == "precious"
    assert list(path.parent.iterdir()) == [path]


async def test_a_creation_that_fails_leaves_nothing_behind(path: Path) -> None:
    async def fail(connection: SqlConnection) -> None:
        await connection.execute("CREATE TABLE half (done)")
        msg = "no space"
        raise OSError(28, msg)

    with pytest.raises(StoreUnavailableError, match="no space"):
        await sqlite_file.create_file(path, APPLICATION_ID, fail)

    assert list(path.parent.iterdir()) == []


async def test_paths_with_characters_that_urls_reserve_work(tmp_path: Path) -> None:
    path = tmp_path / "50% off?mode=memory#1 &" / "keys.db"
    store = sqlite_store(path)

    await store.feed.open(create=True)
    await store.repository.create(NewKey(digest_of(b"k"), KeySpec("name")), 1)
    await store.feed.close()

    assert path.exists()


@pytest.mark.parametrize(
    "code, error, text",
    [
        (sqlite3.SQLITE_BUSY, StoreUnavailableError, "another process holds it locked"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreUnavailableError, "another process holds it locked"),
        (sqlite3.SQLITE_FULL, StoreUnavailableError, "the disk is full; make room"),
        (sqlite3.SQLITE_IOERR_READ, StoreUnavailableError, "check the disk"),
        (sqlite3.SQLITE_READONLY, StoreUnavailableError, "cannot be written"),
        (sqlite3.SQLITE_CANTOPEN, StoreUnavailableError, "cannot be opened"),
        (sqlite3.SQLITE_CORRUPT, StoreDamagedError, "restore it from a backup"),
        (sqlite3.SQLITE_NOTADB, StoreForeignError, "no SQLite file"),
    ],
)
def test_errors_of_sqlite_become_ours_and_say_what_to_do(
    code: int, error: type[StoreError], text: str
) -> None:
    failure = sqlite3.OperationalError("from sqlite")
    failure.sqlite_errorcode = code

    with (
        pytest.raises(error, match=rf"^/x/keys.db: .*{text}"),
        sqlite_file.translated(Path("/x/keys.db")),
    ):
        raise failure


async def test_a_store_that_stays_locked_is_unavailable_and_recovers(
    store: SqlStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.feed.close()
    monkeypatch.setattr(sqlite_engine, "BUSY_TIMEOUT_S", 0.05)
    await store.feed.open(create=False)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailableError, match="locked"):
        await store.repository.create(NewKey(digest_of(b"k"), KeySpec("name")), 1)
    other.execute("ROLLBACK")
    other.close()

    assert (
        await store.repository.create(NewKey(digest_of(b"k"), KeySpec("name")), 1)
    ).revision == 1
