"""Starting with the last known keys while the store is away."""

from __future__ import annotations

import asyncio
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.keys.errors import StoreTooNewError
from gateway.keys.following import follower, staleness
from gateway.keys.following.snapshot import SnapshotFile
from gateway.keys.record import KeyRecord
from gateway.keys.state_file import StateFileError
from gateway.keys.store import KeySpec
from gateway.keys.stores.file import file_store
from gateway.keys.stores.postgresql import postgresql_store
from gateway.keys.tenancy import tenancy
from gateway.keys.times import now_unix_ms
from gateway.model import KeyState, Signal, digest_of
from tests.support.keys import running_keys
from tests.support.postgresql import PostgresqlServer

NOW_MS = 1_900_000_000_000


def _record(number: int, revision: int = 1, **more: Any) -> KeyRecord:
    return KeyRecord(
        number, digest_of(b"key %d" % number), f"key {number}", 1, revision, revision, **more
    )


def _fail(text: str) -> None:
    pytest.fail(text)


@pytest.fixture(name="snapshot")
def _snapshot(tmp_path: Path) -> Iterator[SnapshotFile]:
    snapshot = SnapshotFile(tmp_path / "state", "postgresql", "postgresql://db/keys", _fail)
    yield snapshot
    snapshot.close()


def _again(snapshot: SnapshotFile, location: str = "postgresql://db/keys") -> SnapshotFile:
    again = SnapshotFile(snapshot.path.parent, "postgresql", location, _fail)
    again.path = snapshot.path
    return again


async def test_what_is_written_is_read_back(snapshot: SnapshotFile) -> None:
    assert await snapshot.read() is None
    records = [
        _record(1, description="EU", expires_at_ms=9, signals=frozenset({Signal.LOGS})),
        *(_record(number) for number in range(2, 5_000)),
        _record(5_000).replaced(tenancy=tenancy("o", {"team": "a"}, {"X-Tenant": "a"})),
    ]

    await snapshot.write(records, NOW_MS)
    snapshot.touch(NOW_MS + 5)
    snapshot.close()

    stored = await _again(snapshot).read()
    assert stored is not None
    assert (stored.synced_ms, stored.records, stored.note) == (NOW_MS + 5, records, None)
    assert stat.S_IMODE(snapshot.path.stat().st_mode) == 0o600


async def test_keys_that_are_forgotten_stay_so(snapshot: SnapshotFile) -> None:
    await snapshot.write([_record(1), _record(2)], NOW_MS)
    snapshot.append([_record(3)], [_record(1).digest])
    snapshot.append([], [_record(3).digest])
    snapshot.append([_record(1, 9)])

    stored = await _again(snapshot).read()

    assert stored is not None
    assert {(record.id, record.revision) for record in stored.records} == {(1, 9), (2, 1)}


async def test_changes_are_kept_as_they_come(snapshot: SnapshotFile) -> None:
    await snapshot.write([_record(1), _record(2)], NOW_MS)
    snapshot.append([_record(1, 7, deleted_at_ms=9), _record(3, 8)])

    stored = await _again(snapshot).read()

    assert stored is not None
    by_id = {record.id: record for record in stored.records}
    assert by_id[1].state is KeyState.REVOKED
    assert by_id.keys() == {1, 2, 3}


async def test_a_change_while_all_is_written_anew_is_kept(snapshot: SnapshotFile) -> None:
    await snapshot.write([_record(1)], NOW_MS)

    writing = asyncio.create_task(snapshot.write([_record(1)], NOW_MS))
    await asyncio.sleep(0)
    snapshot.append([_record(1, 2, deleted_at_ms=5)])
    await writing

    stored = await _again(snapshot).read()
    assert stored is not None
    assert [record.deleted_at_ms for record in stored.records] == [5]


async def test_many_changes_ask_for_writing_anew(snapshot: SnapshotFile) -> None:
    await snapshot.write([_record(1)], NOW_MS)
    snapshot.append([_record(2, revision) for revision in range(10_001)])
    assert snapshot.wants_rewriting.is_set()


async def test_a_changed_byte_anywhere_is_damage(snapshot: SnapshotFile) -> None:
    await snapshot.write([_record(1), _record(2)], NOW_MS)
    raw = snapshot.path.read_bytes()
    for place in range(45, len(raw)):
        snapshot.path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x55]) + raw[place + 1 :])
        with pytest.raises(StateFileError):
            await _again(snapshot).read()


async def test_a_text_that_is_not_utf8_is_damage(snapshot: SnapshotFile) -> None:
    await snapshot.write([_record(1)], NOW_MS)
    raw = snapshot.path.read_bytes()
    at = raw.index(b"key 1")
    changed = raw[:at] + b"\xa3" + raw[at + 1 :]
    for start in range(at - 8, 0, -1):
        length = int.from_bytes(raw[start : start + 4], "big")
        payload = slice(start + 8, start + 8 + length)
        if zlib.crc32(raw[payload]) == int.from_bytes(raw[start + 4 : start + 8], "big"):
            check = zlib.crc32(changed[payload]).to_bytes(4, "big")
            snapshot.path.write_bytes(changed[: start + 4] + check + changed[start + 8 :])
            break

    with pytest.raises(StateFileError, match="another version's"):
        await _again(snapshot).read()


async def test_a_file_that_was_cut_off_within_the_keys_is_damage(snapshot: SnapshotFile) -> None:
    await snapshot.write([_record(1), _record(2)], NOW_MS)
    raw = snapshot.path.read_bytes()
    for length in range(len(raw)):
        snapshot.path.write_bytes(raw[:length])
        with pytest.raises(StateFileError):
            await _again(snapshot).read()


async def test_a_change_that_was_cut_off_is_dropped_and_told(snapshot: SnapshotFile) -> None:
    await snapshot.write([_record(1)], NOW_MS)
    snapshot.append([_record(2)])
    snapshot.path.write_bytes(snapshot.path.read_bytes()[:-3])

    stored = await _again(snapshot).read()

    assert stored is not None
    assert [record.id for record in stored.records] == [1]
    assert stored.note is not None
    assert "cut off" in stored.note


async def test_the_snapshot_of_another_store_is_not_used(snapshot: SnapshotFile) -> None:
    await snapshot.write([_record(1)], NOW_MS)
    with pytest.raises(StateFileError, match="another store"):
        await _again(snapshot, "postgresql://elsewhere/keys").read()


async def test_a_snapshot_that_others_could_write_is_not_used(snapshot: SnapshotFile) -> None:
    await snapshot.write([_record(1)], NOW_MS)
    snapshot.path.chmod(0o606)
    with pytest.raises(StateFileError, match="mode 0600"):
        await _again(snapshot).read()


async def test_a_snapshot_that_a_volume_gave_to_its_group_is_used(snapshot: SnapshotFile) -> None:
    await snapshot.write([_record(1)], NOW_MS)
    snapshot.path.chmod(0o660)
    assert await _again(snapshot).read() is not None
    assert snapshot.path.stat().st_mode & 0o777 == 0o600


async def test_a_gateway_starts_with_the_keys_it_knew_and_deleted_ones_stay_deleted(
    server: PostgresqlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.05)
    server.start()
    url = await server.new_database()
    async with running_keys([postgresql_store(url)], state_dir=tmp_path) as workers:
        kept = await workers.keys.commands.create(KeySpec("kept"))
        await _until_exists(tmp_path)
        deleted = await workers.keys.commands.create(KeySpec("deleted"))
        await workers.keys.commands.delete(deleted.record.id)
    server.kill()

    async with running_keys([postgresql_store(url)], state_dir=tmp_path) as workers:
        assert workers.accepts(kept.key.digest)
        assert workers.keyring[deleted.key.digest].state == KeyState.REVOKED
        assert not workers.complete
        assert workers.keys.is_loaded
        assert not workers.keys.statuses()[0].up
        assert any("started with the 2 keys" in problem for problem in workers.problems)

        server.start()
        await workers.until(lambda: workers.complete)
        assert workers.accepts(kept.key.digest)


async def test_the_age_of_keys_survives_restarts(
    server: PostgresqlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.05)
    monkeypatch.setattr(staleness, "AGE_S", 0.01)
    server.start()
    url = await server.new_database()
    async with running_keys([postgresql_store(url)], state_dir=tmp_path) as workers:
        kept = await workers.keys.commands.create(KeySpec("kept"))
        await _until_exists(tmp_path)
    server.kill()
    later = now_unix_ms() + 3_600_000

    async with running_keys(
        [postgresql_store(url)], state_dir=tmp_path, max_stale_s=3_000, now_ms=lambda: later
    ) as workers:
        assert kept.key.digest not in workers.keyring
        assert not workers.complete
        server.start()
        await workers.until(lambda: workers.accepts(kept.key.digest))


async def test_a_damaged_snapshot_is_left_alone_with_a_warning(
    server: PostgresqlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.05)
    server.start()
    url = await server.new_database()
    async with running_keys([postgresql_store(url)], state_dir=tmp_path) as workers:
        kept = await workers.keys.commands.create(KeySpec("kept"))
        (path,) = await _until_exists(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    server.kill()

    async with running_keys([postgresql_store(url)], state_dir=tmp_path) as workers:
        assert workers.keyring == {}
        assert not workers.keys.is_loaded
        assert any("it is damaged" in problem for problem in workers.problems)
        server.start()
        await workers.until(lambda: workers.accepts(kept.key.digest))


async def test_a_newer_store_is_refused_whatever_the_snapshot_says(
    server: PostgresqlServer, tmp_path: Path
) -> None:
    server.start()
    url = await server.new_database()
    async with running_keys([postgresql_store(url)], state_dir=tmp_path):
        await _until_exists(tmp_path)
    await server.execute(url, "UPDATE gateway_key_store SET schema_version = 99")
    with pytest.raises(StoreTooNewError):
        async with running_keys([postgresql_store(url)], state_dir=tmp_path):
            pass


async def test_a_gateway_whose_file_is_faulty_at_the_start_goes_on_with_what_it_knew(
    tmp_path: Path,
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("- {key: good}\n")
    state = tmp_path / "state"
    async with running_keys([file_store(path)], state_dir=state):
        await _until_exists(state)
    path.write_text("nonsense")

    async with running_keys([file_store(path, interval_s=0.005)], state_dir=state) as workers:
        assert workers.accepts(digest_of(b"good"))
        path.write_text("- {key: better}\n")
        await workers.until(lambda: workers.accepts(digest_of(b"better")))
        assert not workers.accepts(digest_of(b"good"))


async def _until_exists(folder: Path) -> list[Path]:
    async with asyncio.timeout(60):
        while not (found := list(folder.glob("keys-*.snapshot"))):
            await asyncio.sleep(0.01)
    return found
