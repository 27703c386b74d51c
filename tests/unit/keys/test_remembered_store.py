"""The next start uses the store that was used before, and no other one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.cli.keys.stored_keys import StoredKeys
from gateway.keys.errors import AnotherStoreError, StoreMissingError, StoreUnavailableError
from gateway.keys.store import KeySpec, NewKey
from gateway.keys.stores.file import file_store
from gateway.keys.stores.sqlite import sqlite_store
from gateway.model import KeyDigest, digest_of
from tests.support.keys import Workers, running_keys

KNOWN = digest_of(b"known")
OTHER = digest_of(b"other")


@pytest.fixture(name="state")
def _state(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere"


async def _used(path: Path, state: Path, digest: KeyDigest = KNOWN) -> None:
    """Run a gateway until it has a key."""
    async with running_keys([sqlite_store(path, own_only=True)], state_dir=state):
        store = sqlite_store(path)
        await store.feed.open(create=False)
        await store.repository.create(NewKey(digest, KeySpec("agent")), 1)
        await store.feed.close()


def _remembered(state: Path) -> Path:
    (file,) = state.glob("keys-sqlite-*.store")
    return file


async def test_another_store_at_the_next_start_is_an_error_until_it_is_accepted(
    path: Path, state: Path, tmp_path: Path
) -> None:
    await _used(path, state)
    path.parent.rename(tmp_path / "before")
    await _used(path, tmp_path / "a state of its own", OTHER)

    with pytest.raises(AnotherStoreError) as refused:
        async with running_keys([sqlite_store(path, own_only=True)], state_dir=state):
            pass
    file = _remembered(state)
    assert f"remove {file} and restart the gateway to use this one" in str(refused.value)

    file.unlink()
    async with running_keys([sqlite_store(path, own_only=True)], state_dir=state) as accepted:
        assert set(accepted.keyring) == {OTHER}


async def test_the_right_store_that_comes_back_is_used_again(
    path: Path, state: Path, tmp_path: Path
) -> None:
    await _used(path, state)
    path.parent.rename(tmp_path / "away")
    path.parent.mkdir()  # as a mount point without its volume

    with pytest.raises(StoreMissingError) as refused:
        async with running_keys([sqlite_store(path, own_only=True)], state_dir=state):
            pass
    assert f"remove {_remembered(state)}" in str(refused.value)
    assert list(path.parent.iterdir()) == []

    path.parent.rmdir()
    (tmp_path / "away").rename(path.parent)
    async with running_keys([sqlite_store(path, own_only=True)], state_dir=state) as again:
        assert set(again.keyring) == {KNOWN}


async def test_a_command_makes_and_changes_no_other_store_either(
    path: Path, state: Path, tmp_path: Path
) -> None:
    await _used(path, state)
    path.parent.rename(tmp_path / "before")

    with pytest.raises(StoreMissingError, match=str(_remembered(state))):
        await asyncio.to_thread(_create, path, state)
    assert not path.exists()

    await _used(path, tmp_path / "a state of its own", OTHER)
    with pytest.raises(AnotherStoreError, match=str(_remembered(state))):
        await asyncio.to_thread(_create, path, state)
    async with running_keys([sqlite_store(path)]) as untouched:
        assert set(untouched.keyring) == {OTHER}


def _create(path: Path, state: Path) -> None:
    StoredKeys(sqlite_store(path), state).create(KeySpec("new"), None)


async def test_a_restored_backup_is_the_same_store(path: Path, state: Path) -> None:
    await _used(path, state)
    backup = path.read_bytes()
    await _used(path, state, OTHER)
    path.write_bytes(backup)

    async with running_keys([sqlite_store(path, own_only=True)], state_dir=state) as restored:
        assert set(restored.keyring) == {KNOWN}


@pytest.mark.parametrize("damage", [b"", b"otlp-gateway store 1\nnonsense\n"])
async def test_a_memory_that_cannot_be_read_is_told_and_made_anew(
    path: Path, state: Path, damage: bytes
) -> None:
    await _used(path, state)
    whole = _remembered(state).read_bytes()
    _remembered(state).write_bytes(damage)

    async with running_keys([sqlite_store(path, own_only=True)], state_dir=state) as one:
        assert set(one.keyring) == {KNOWN}

    assert one.problems == [f"{_remembered(state)}: it is not used: it is damaged"]
    assert _remembered(state).read_bytes() == whole
    assert _remembered(state).stat().st_mode & 0o777 == 0o600


async def test_a_file_of_keys_may_be_any_other(tmp_path: Path, state: Path) -> None:
    file = tmp_path / "keys.yaml"
    for name in ("one", "other"):
        file.write_text(f"[{{key: a-key-of-{name}, name: {name}}}]")
        async with running_keys([file_store(file)], state_dir=state) as one:
            assert len(one.keyring) == 1

    assert list(state.glob("*.store")) == []


async def _until_announced(running: Workers, path: Path) -> None:
    folder = path.with_name(path.name + ".gateways")
    await running.until(lambda: folder.is_dir() and any(folder.iterdir()))


async def test_a_store_whose_volume_goes_away_under_a_gateway_is_waited_for(
    path: Path, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.keys.following.follower.RETRY_S", 0.01)
    async with running_keys([sqlite_store(path, own_only=True)], state_dir=state) as running:
        known = await running.keys.commands.create(KeySpec("known"))
        path.parent.rename(tmp_path / "away")
        path.parent.mkdir()
        await _until_announced(running, path)

        for command in (StoredKeys(sqlite_store(path)), StoredKeys(sqlite_store(path), state)):
            with pytest.raises(
                StoreUnavailableError, match="a running gateway holds another store"
            ):
                await asyncio.to_thread(command.create, KeySpec("lost"), None)
        with pytest.raises(StoreUnavailableError):
            await running.keys.commands.create(KeySpec("lost"))
        assert not path.exists()
        assert running.accepts(known.key.digest)

        path.parent.rename(tmp_path / "mount point")
        (tmp_path / "away").rename(path.parent)
        await running.until_status(lambda up: up)
        command = StoredKeys(sqlite_store(path), state)
        created = await asyncio.to_thread(command.create, KeySpec("again"), None)
        await running.until(lambda: len(running.keyring) == 2)

    assert created["name"] == "again"
