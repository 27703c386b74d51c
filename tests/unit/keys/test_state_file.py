"""What another user has put in the gateway's place is refused, whichever file it is."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.control.admin.tokens import TokenError, ensure_token_file
from gateway.keys.authority.verdict_file import VerdictFile
from gateway.keys.confirmations.lock_files import LockFile, LockFiles, folder_of
from gateway.keys.errors import StoreForeignError
from gateway.keys.following.snapshot import SnapshotFile
from gateway.keys.state_file import (
    StateFileError,
    check_database,
    check_state_folder,
    make_state_folder,
    open_state_file,
    replace_state_file,
)
from gateway.keys.stores.sqlite import sqlite_store
from gateway.keys.stores.sqlite_usage import SqliteUsage
from tests.support.owners import give_away


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch(0o600)
    return path


def _link(path: Path) -> None:
    target = path.with_name("target")
    target.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(target)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def test_an_own_file_is_read(file: Path) -> None:
    file.write_bytes(b"content")
    with open_state_file(file) as opened:
        assert opened.read() == b"content"


@pytest.mark.parametrize("replace", [_link, _pipe])
def test_a_link_and_a_pipe_are_refused_with_what_to_do(
    file: Path, replace: Callable[[Path], None]
) -> None:
    replace(file)
    with pytest.raises(StateFileError, match="delete it"):
        open_state_file(file)


def test_another_users_file_is_refused_with_what_to_do(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_away(file, monkeypatch)
    with pytest.raises(StateFileError, match=r"another user \(uid \d+\).*chown"):
        open_state_file(file)


def test_a_group_that_kubernetes_gave_a_volume_to_is_no_other_user(file: Path) -> None:
    file.parent.chmod(0o2770)
    file.chmod(0o660)
    check_state_folder(file.parent)
    check_database(file)
    open_state_file(file).close()


def test_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "state"
    make_state_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    check_state_folder(folder)
    give_away(folder, monkeypatch)
    with pytest.raises(StateFileError, match=rf"{folder}: it belongs to another user"):
        make_state_folder(folder)
    with pytest.raises(TokenError, match="another user"):
        ensure_token_file(folder)


def test_another_users_link_to_an_own_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "state"
    (tmp_path / "own").mkdir()
    link.symlink_to(tmp_path / "own")
    check_state_folder(link)
    give_away(link, monkeypatch)
    with pytest.raises(StateFileError, match="another user"):
        check_state_folder(link)


def test_a_missing_folder_is_no_error(tmp_path: Path) -> None:
    check_state_folder(tmp_path / "state")


def test_another_users_token_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = ensure_token_file(tmp_path)
    give_away(path, monkeypatch)
    with pytest.raises(TokenError, match="another user"):
        ensure_token_file(tmp_path)


def test_a_link_in_place_of_the_token_is_not_followed(tmp_path: Path) -> None:
    _, path = ensure_token_file(tmp_path)
    _link(path)
    with pytest.raises(TokenError, match=rf"{path}: it is a symbolic link"):
        ensure_token_file(tmp_path)


@pytest.mark.parametrize("replace", [_link, _pipe])
async def test_a_link_or_pipe_in_place_of_a_snapshot_is_not_used(
    tmp_path: Path, replace: Callable[[Path], None]
) -> None:
    snapshot = SnapshotFile(tmp_path, "store", "place", pytest.fail)
    await snapshot.write([], 1)
    snapshot.close()
    assert await snapshot.read() is not None
    replace(snapshot.path)
    with pytest.raises(StateFileError, match="delete it"):
        await snapshot.read()


async def test_a_snapshot_is_not_written_into_another_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[str] = []
    folder = tmp_path / "state"
    folder.mkdir()
    give_away(folder, monkeypatch)
    await SnapshotFile(folder, "store", "place", problems.append).write([], 1)
    assert len(problems) == 1
    assert "another user" in problems[0]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("replace", [_link, _pipe])
async def test_a_link_or_pipe_in_place_of_the_verdicts_is_not_used(
    tmp_path: Path, replace: Callable[[Path], None]
) -> None:
    verdicts = VerdictFile(tmp_path, ["place"])
    await verdicts.write([(b"digest", 1)])
    assert await verdicts.read() == [(b"digest", 1)]
    replace(verdicts.path)
    with pytest.raises(StateFileError, match="delete it"):
        await verdicts.read()


async def test_another_users_database_is_no_store_of_a_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys.db"
    store = sqlite_store(path, own_only=True)
    await store.feed.open(create=True)
    await store.feed.close()
    give_away(path, monkeypatch)
    with pytest.raises(StoreForeignError, match=rf"{path}: it belongs to another user"):
        await store.feed.open(create=True)
    commands = sqlite_store(path)  # `sudo gateway keys` works on the gateway's store
    await commands.feed.open(create=False)
    await commands.feed.close()


async def test_what_another_user_put_beside_a_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    store = sqlite_store(path, own_only=True)
    await store.feed.open(create=True)
    await store.feed.close()
    path.with_name("keys.db-journal").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreForeignError, match=r"keys\.db-journal beside it is no regular file"):
        await store.feed.open(create=True)


async def test_another_users_usage_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SqliteUsage(tmp_path / "keys.usage", own_only=True)
    await usage.open(create=True)
    await usage.close()
    give_away(usage.path, monkeypatch)
    with pytest.raises(StoreForeignError, match="another user"):
        await usage.open(create=True)


def test_lock_files_are_not_kept_in_a_folder_that_is_a_link(tmp_path: Path) -> None:
    """Dead gateways' files are removed: the files of the folder behind the link would be."""
    store, victim = tmp_path / "keys.db", tmp_path / "victim"
    victim.mkdir()
    (victim / "12-0123abcd").touch()
    folder_of(store).symlink_to(victim)
    with pytest.raises(StoreForeignError, match="symbolic link: delete it"):
        LockFile(store)
    assert [file.name for file in victim.iterdir()] == ["12-0123abcd"]


def test_lock_files_are_not_kept_in_another_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "keys.db"
    folder_of(store).mkdir()
    give_away(folder_of(store), monkeypatch)
    with pytest.raises(StoreForeignError, match="another user"):
        LockFile(store)


async def test_what_is_no_lock_file_is_neither_read_nor_removed(tmp_path: Path) -> None:
    store = tmp_path / "keys.db"
    folder_of(store).mkdir()
    notes = folder_of(store) / "notes.txt"
    notes.touch()
    pipe = folder_of(store) / "12-0123abcd"
    os.mkfifo(pipe)
    confirmation = await LockFiles(store).wait(1, timeout_s=0)
    assert (confirmation.confirmed, confirmation.pending) == (frozenset(), frozenset())
    LockFile(store).close()
    assert notes.exists()


def test_a_file_is_replaced_as_a_whole_or_stays(tmp_path: Path) -> None:
    file = tmp_path / "made" / "file"
    replace_state_file(file, b"first")
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_bytes(b"of a process that was killed")
    replace_state_file(file, b"second")
    assert file.read_bytes() == b"second"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]

    draft.mkdir()  # in the way
    with pytest.raises(OSError, match="directory"):
        replace_state_file(file, b"third")
    assert file.read_bytes() == b"second"
