"""A SQLite store that is deleted, truncated or replaced under a running gateway."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.keys.errors import StoreError, StoreUnavailableError
from gateway.keys.following import follower
from gateway.keys.store import KeySpec, NewKey
from gateway.keys.stores.sql_store import SqlStore
from gateway.keys.stores.sqlite import sqlite_store
from gateway.model import digest_of
from tests.support.keys import Workers, running_keys


def _files(path: Path) -> list[Path]:
    return [path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))]


def _delete(path: Path) -> None:
    for file in _files(path):
        file.unlink(missing_ok=True)


def _hide(path: Path) -> Callable[[], None]:
    """Move the store away; return what puts it back."""
    hidden = {file: file.with_name("hidden-" + file.name) for file in _files(path)}
    for file, place in hidden.items():
        file.rename(place)

    def put_back() -> None:
        for file, place in reversed(hidden.items()):
            place.rename(file)

    return put_back


def _delete_log(path: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


def _delete_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def _truncate(path: Path) -> None:
    os.truncate(path, 0)


def _truncate_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _put_another(path: Path) -> None:
    _delete(path)
    _put_another_beside_the_log(path)


def _put_another_beside_the_log(path: Path) -> None:
    shutil.copy(path.with_name("other.db"), path.with_name("copy.db"))
    path.with_name("copy.db").replace(path)


@pytest.fixture(name="running")
async def _running(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Workers]:
    monkeypatch.setattr(follower, "RETRY_S", 0.001)
    other = sqlite_store(path.with_name("other.db"))
    await other.feed.open(create=True)
    await other.repository.create(NewKey(digest_of(b"other"), KeySpec("other")), 1)
    await other.feed.close()
    async with running_keys([sqlite_store(path, own_only=True)]) as workers:
        yield workers


LOSSES = [
    _delete,
    _delete_log,
    _delete_folder,
    _truncate,
    _truncate_half,
    _put_another,
    _put_another_beside_the_log,
]


@pytest.mark.parametrize("lose", LOSSES)
async def test_nothing_is_acknowledged_that_may_not_be_stored(
    running: Workers, path: Path, lose: Callable[[Path], None]
) -> None:
    known = await running.keys.commands.create(KeySpec("known"))

    lose(path)

    with pytest.raises(StoreError):
        await running.keys.commands.create(KeySpec("lost"))
    assert running.accepts(known.key.digest)


async def test_a_file_that_goes_away_during_a_write_is_noticed_after_the_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = sqlite_store(path)
    await store.feed.open(create=True)
    monkeypatch.setattr("gateway.keys.stores.sql_repository.new_key_id", lambda: _lost_id(path))
    with pytest.raises(StoreUnavailableError):
        await store.repository.create(NewKey(digest_of(b"new"), KeySpec("new")), 1)
    await store.feed.close()


def _lost_id(path: Path) -> int:
    _delete(path)
    return 5


async def test_a_lost_store_that_is_put_back_is_used_again(running: Workers, path: Path) -> None:
    known = await running.keys.commands.create(KeySpec("known"))
    put_back = _hide(path)
    await running.until_status(lambda up: not up)
    put_back()
    await running.until_status(lambda up: up)

    again = await running.keys.commands.create(KeySpec("again"))
    assert running.accepts(known.key.digest)
    assert running.accepts(again.key.digest)


@pytest.mark.parametrize("lose", [_truncate, _truncate_half])
async def test_a_truncated_store_is_damage_until_it_is_whole_again(
    running: Workers, path: Path, lose: Callable[[Path], None]
) -> None:
    known = await running.keys.commands.create(KeySpec("known"))
    backup = path.with_name("backup.db")
    with sqlite3.connect(path) as reading, sqlite3.connect(backup) as writing:
        reading.backup(writing)
        # Else SQLite could put the pages back from its log.
        reading.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    lose(path)
    with pytest.raises(StoreError):
        await running.keys.commands.create(KeySpec("lost"))
    [status] = running.keys.statuses()
    await running.until(lambda: "damaged" in status.errors)
    _delete(path)
    backup.replace(path)
    await running.until_status(lambda up: up)

    assert set(running.keyring) == {known.key.digest}


async def test_another_store_in_its_place_is_an_error_until_the_right_one_is_back(
    running: Workers, path: Path
) -> None:
    known = await running.keys.commands.create(KeySpec("known"))
    put_back = _hide(path)
    _put_another(path)
    await running.until_status(lambda up: not up)

    [status] = running.keys.statuses()
    await running.until(lambda: "another key store" in (status.error or ""))
    assert set(running.keyring) == {known.key.digest}

    _delete(path)
    put_back()
    await running.until_status(lambda up: up)
    assert set(running.keyring) == {known.key.digest}


async def test_a_file_is_not_read_with_the_log_of_the_one_before(
    running: Workers, path: Path
) -> None:
    known = await running.keys.commands.create(KeySpec("known"))
    _put_another_beside_the_log(path)
    await running.until_status(lambda up: not up)

    assert "it belongs to the file that was here before" in (running.keys.statuses()[0].error or "")
    assert set(running.keyring) == {known.key.digest}


async def _create(store: SqlStore) -> None:
    """Do what `gateway keys create` does."""
    await store.feed.open(create=True)
    try:
        await store.repository.create(NewKey(digest_of(b"new"), KeySpec("new")), 1)
    finally:
        await store.feed.close()


@pytest.mark.usefixtures("running")
async def test_a_command_makes_no_store_while_a_gateway_holds_the_one_that_was_there(
    path: Path,
) -> None:
    _delete(path)

    with pytest.raises(StoreUnavailableError, match="a running gateway holds another store"):
        await _create(sqlite_store(path))

    assert not path.exists()


@pytest.mark.usefixtures("running")
async def test_a_command_changes_no_store_while_a_gateway_holds_another_one(path: Path) -> None:
    _put_another(path)

    with pytest.raises(StoreUnavailableError, match="a running gateway holds another store"):
        await _create(sqlite_store(path))


async def test_a_gateway_that_ended_holds_nothing(path: Path) -> None:
    async with running_keys([sqlite_store(path, own_only=True)]):
        pass
    path.unlink()

    await _create(sqlite_store(path))

    assert path.exists()
