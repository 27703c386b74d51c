from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.keys.api_key import ApiKey
from gateway.keys.commands import KeyCommands
from gateway.keys.confirmations.lock_files import LockFiles, folder_of
from gateway.keys.errors import KeyRefusedError, StoreDamagedError, StoreForeignError
from gateway.keys.following import follower
from gateway.keys.following.status import StoreStatus
from gateway.keys.record import KeyDelta, KeyUsage, StaticKey
from gateway.keys.service import KeyService
from gateway.keys.store import Confirmation, KeySpec
from gateway.keys.stores.sql_store import SqlStore
from gateway.keys.stores.sqlite import sqlite_store
from gateway.keys.stores.sqlite_usage import SqliteUsage, path_for
from gateway.model import KeyState, Principal, digest_of
from tests.unit.keys.conftest import Clock

HANG_S = 30.0
"""Long enough for anything; a test that waits so long has failed."""


class Worker:
    """Applies what the service says, as a worker's keyring does."""

    def __init__(self, keys: KeyService) -> None:
        self.revision, entries, self.complete = keys.snapshot()
        self.keyring: dict[bytes, Principal] = dict(entries)
        self._changed = asyncio.Event()
        self._keys = keys
        keys.subscribe(self._apply)

    def _apply(self, delta: KeyDelta) -> None:
        assert delta.revision == self.revision + 1
        self.revision = delta.revision
        self.keyring.update(delta.upserts)
        for digest in delta.removals:
            del self.keyring[digest]
        self._keys.publish_confirmed(delta.revision)
        self._changed.set()

    def accepts(self, digest: bytes) -> bool:
        return digest in self.keyring and self.keyring[digest].state == KeyState.ACTIVE

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(HANG_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def _running(keys: KeyService) -> AsyncIterator[Worker]:
    await keys.start()
    tasks = [asyncio.ensure_future(run()) for run in keys.background().values()]
    try:
        yield Worker(keys)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await keys.close()


@asynccontextmanager
async def _command(path: Path) -> AsyncIterator[KeyCommands]:
    """Work on the store as `gateway keys` does, behind the service's back."""
    store = sqlite_store(path)
    await store.feed.open(create=False)
    try:
        yield KeyCommands(store.repository)
    finally:
        await store.feed.close()


def _service(path: Path, **options: object) -> KeyService:
    return KeyService([sqlite_store(path)], **{"tombstones_s": 1_000, **options})  # type: ignore[arg-type]  # by parameters


async def test_the_store_is_made_at_the_first_start(path: Path) -> None:
    async with _running(_service(path)) as worker:
        assert worker.keyring == {}

    assert path.exists()


async def test_subscribers_know_of_a_key_when_its_creation_returns(path: Path) -> None:
    keys = _service(path)
    async with _running(keys) as worker:
        issued = await keys.commands.create(KeySpec("agent-eu"))

        assert worker.keyring == {issued.key.digest: Principal(issued.record.key_id)}
        assert worker.revision == keys.revision
        known = keys.record(issued.record.key_id)
        assert known is not None
        assert known.name == "agent-eu"


async def test_deleting_and_rotating_are_told_too(path: Path) -> None:
    keys = _service(path)
    async with _running(keys) as worker:
        adopted = await keys.commands.adopt(ApiKey.adopt("receiver-key"), KeySpec("old"))
        rotated = await keys.commands.rotate(adopted.record.id, 60_000)
        deleted = await keys.commands.delete(rotated.issued.record.id)

        assert worker.keyring[adopted.key.digest].expires_at_ms == (
            rotated.predecessor.expires_at_ms
        )
        assert worker.keyring[deleted.digest].state == KeyState.REVOKED
        assert await keys.commands.live() == [rotated.predecessor]


async def test_changes_by_other_processes_reach_the_subscribers(path: Path) -> None:
    keys = _service(path)
    async with _running(keys) as worker, _command(path) as command:
        issued = await command.create(KeySpec("from outside"))
        await worker.until(lambda: issued.key.digest in worker.keyring)

        await command.delete(issued.record.id)
        await worker.until(lambda: worker.keyring[issued.key.digest].state == KeyState.REVOKED)


async def test_a_change_while_the_service_starts_is_not_lost(path: Path) -> None:
    keys = _service(path)
    await keys.start()
    async with _command(path) as command:
        issued = await command.create(KeySpec("between start and following"))
    worker = Worker(keys)
    following = [asyncio.ensure_future(run()) for run in keys.background().values()]

    await worker.until(lambda: issued.key.digest in worker.keyring)

    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    await keys.close()


async def test_a_command_is_told_when_workers_have_confirmed_its_change(path: Path) -> None:
    async with _running(_service(path)), _command(path) as command:
        issued = await command.create(KeySpec("from outside"))

        confirmation = await LockFiles(path).wait(issued.record.revision, HANG_S)

        assert len(confirmation.confirmed) == 1
        assert not confirmation.pending


async def test_a_command_is_not_told_so_while_a_worker_is_behind(path: Path) -> None:
    keys = _service(path)
    await keys.start()
    told: list[KeyDelta] = []
    keys.subscribe(told.append)
    issued = await keys.commands.create(KeySpec("nobody confirms"))

    assert (await LockFiles(path).wait(issued.record.revision, 0)).pending
    keys.publish_confirmed(told[-1].revision)
    assert not (await LockFiles(path).wait(issued.record.revision, 0)).pending

    await keys.close()


async def test_what_was_loaded_at_the_start_counts_as_confirmed(path: Path) -> None:
    async with _running(_service(path)):
        pass
    async with _command(path) as command:
        issued = await command.create(KeySpec("before the start"))

    async with _running(_service(path)):
        assert not (await LockFiles(path).wait(issued.record.revision, 0)).pending


async def test_a_store_shows_the_revision_that_all_workers_have_confirmed(path: Path) -> None:
    keys = _service(path)
    await keys.start()
    told: list[KeyDelta] = []
    keys.subscribe(told.append)
    (status,) = keys.statuses()
    before = status.revision
    issued = await keys.commands.create(KeySpec("nobody confirms"))

    assert status.revision == before
    keys.publish_confirmed(told[-1].revision)
    assert status.revision == issued.record.revision

    await keys.close()


async def test_a_stopped_service_is_not_waited_for(path: Path) -> None:
    async with _running(_service(path)):
        pass

    assert await LockFiles(path).wait(10**9, HANG_S) == Confirmation(frozenset(), frozenset())
    assert list(folder_of(path).iterdir()) == []


async def test_static_keys_are_known_without_any_store() -> None:
    keys = KeyService([], [StaticKey("prod", digest_of(b"k"))], tombstones_s=1)
    async with _running(keys) as worker:
        assert worker.keyring == {digest_of(b"k"): Principal("static:prod")}
        with pytest.raises(KeyRefusedError, match="no key store that can be written"):
            await keys.commands.create(KeySpec("n"))

        keys.replace_static([StaticKey("next", digest_of(b"l"))])

        assert worker.keyring == {digest_of(b"l"): Principal("static:next")}


async def test_names_are_given_to_workers_that_need_them(path: Path) -> None:
    keys = _service(path, with_names=True)
    async with _running(keys) as worker:
        issued = await keys.commands.create(KeySpec("agent-eu"))

        assert worker.keyring[issued.key.digest].name == "agent-eu"


async def test_a_store_that_goes_away_harms_no_known_key_and_comes_back_by_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.001)
    states: asyncio.Queue[bool] = asyncio.Queue()
    keys = _service(path, on_status=lambda status: states.put_nowait(status.up))
    async with _running(keys) as worker:
        assert await states.get() is True
        issued = await keys.commands.create(KeySpec("known"))
        hidden = path.with_suffix(".hidden")

        path.rename(hidden)
        async with asyncio.timeout(HANG_S):
            assert await states.get() is False
        (status,) = keys.statuses()
        assert status.errors["unavailable"] >= 1
        assert status.error is not None
        assert "there is no such file" in status.error
        assert issued.key.digest in worker.keyring

        hidden.rename(path)
        async with asyncio.timeout(HANG_S):
            assert await states.get() is True
        assert keys.statuses()[0].up
        assert keys.statuses()[0].error is None
        assert issued.key.digest in worker.keyring


def _copy(source: Path, target: Path) -> None:
    """Copy a database as `sqlite3 SOURCE ".backup TARGET"` and `.restore` do."""
    reading, writing = sqlite3.connect(source), sqlite3.connect(target)
    reading.backup(writing)
    reading.close()
    writing.close()


def _restore_through_sqlite(backup: Path, path: Path) -> None:
    _copy(backup, path)


def _put_in_place(backup: Path, path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    backup.replace(path)


@pytest.mark.parametrize("restore", [_restore_through_sqlite, _put_in_place])
async def test_a_backup_restored_while_running_is_taken_over(
    path: Path, restore: Callable[[Path, Path], None]
) -> None:
    keys = _service(path)
    async with _running(keys) as worker:
        kept = await keys.commands.create(KeySpec("in the backup"))
        backup = path.with_suffix(".backup")
        _copy(path, backup)
        lost = await keys.commands.create(KeySpec("after the backup"))

        restore(backup, path)

        await worker.until(lambda: lost.key.digest not in worker.keyring)
        assert set(worker.keyring) == {kept.key.digest}
        again = await keys.commands.create(KeySpec("after the restore"))
        assert set(worker.keyring) == {kept.key.digest, again.key.digest}


async def test_a_backup_that_went_on_elsewhere_is_taken_over_as_a_whole(path: Path) -> None:
    keys = _service(path)
    async with _running(keys) as worker:
        kept = await keys.commands.create(KeySpec("in the backup"))
        elsewhere = path.with_suffix(".elsewhere")
        _copy(path, elsewhere)
        lost = [await keys.commands.create(KeySpec(f"lost {number}")) for number in range(2)]
        async with _command(elsewhere) as command:
            new = [await command.create(KeySpec(f"new {number}")) for number in range(4)]

        _put_in_place(elsewhere, path)

        expected = {issued.key.digest for issued in [kept, *new]}
        await worker.until(lambda: set(worker.keyring) == expected)
        assert all(issued.key.digest not in worker.keyring for issued in lost)


async def test_a_foreign_file_put_in_place_while_running_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.001)
    states: asyncio.Queue[bool] = asyncio.Queue()
    keys = _service(path, on_status=lambda status: states.put_nowait(status.up))
    async with _running(keys) as worker:
        await states.get()
        issued = await keys.commands.create(KeySpec("known"))
        foreign = path.with_suffix(".foreign")
        foreign.write_text("not a store" * 100)

        foreign.replace(path)

        async with asyncio.timeout(HANG_S):
            assert await states.get() is False
        assert "foreign" in keys.statuses()[0].errors
        assert issued.key.digest in worker.keyring
        assert path.read_text() == "not a store" * 100


async def test_damage_found_while_running_harms_no_known_key(
    path: Path, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.001)
    states: asyncio.Queue[StoreStatus] = asyncio.Queue()
    keys = _service(path, on_status=states.put_nowait)
    async with _running(keys) as worker:
        await states.get()
        issued = await keys.commands.create(KeySpec("known"))
        async with store.feed._transactions.engine.writing() as connection:
            await connection.execute("UPDATE gateway_keys SET digest = $1, revision = 99", b"x")
            await connection.execute("UPDATE gateway_key_store SET revision = 99")

        async with asyncio.timeout(HANG_S):
            status = await states.get()
        assert not status.up
        assert status.errors["damaged"] >= 1
        assert issued.key.digest in worker.keyring


async def test_a_store_that_cannot_be_opened_stops_the_start_and_leaves_nothing_open(
    path: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.db"
    foreign.write_text("not a store")
    keys = KeyService([sqlite_store(path), sqlite_store(foreign)], tombstones_s=1)

    with pytest.raises(StoreForeignError, match=r"foreign\.db"):
        await keys.start()

    assert list(folder_of(path).iterdir()) == []


async def test_tombstones_are_purged_after_their_time(path: Path, clock: Clock) -> None:
    keys = _service(path, tombstones_s=60, now_ms=clock)
    async with _running(keys) as worker:
        issued = await keys.commands.create(KeySpec("n"))
        await keys.commands.delete(issued.record.id)
        clock.advance(60)
        await keys.purge()
        assert issued.key.digest in worker.keyring

        clock.advance(0.001)
        await keys.purge()

        assert worker.keyring == {}
        assert keys.record(issued.record.key_id) is None
        store = sqlite_store(path)
        await store.feed.open(create=False)
        assert await store.feed.live() == []
        await store.feed.close()


async def test_a_deletion_is_never_missed_however_soon_it_is_purged(
    path: Path, clock: Clock
) -> None:
    keys = _service(path, tombstones_s=0, now_ms=clock)
    async with _running(keys) as worker:
        issued = await keys.commands.create(KeySpec("n"))
        store = sqlite_store(path)
        await store.feed.open(create=False)

        await store.repository.delete(issued.record.id, clock.now_ms - 1)
        await store.feed.purge(clock.now_ms)

        # Whether it is seen as revoked before it is gone is a matter of luck.
        await worker.until(lambda: not worker.accepts(issued.key.digest))
        await store.feed.close()


async def test_states_are_counted_by_the_clock(path: Path, clock: Clock) -> None:
    keys = _service(path, now_ms=clock)
    async with _running(keys):
        await keys.commands.create(KeySpec("n"))
        await keys.commands.create(KeySpec("n", None, clock.now_ms + 1_000))
        assert keys.counts() == {"active": 2, "expired": 0}

        clock.advance(1)

        assert keys.counts() == {"active": 1, "expired": 1}
        assert len(list(keys.records())) == 2


async def test_the_time_of_a_change_travels_with_it(path: Path, clock: Clock) -> None:
    told: list[KeyDelta] = []
    keys = _service(path, now_ms=clock)
    async with _running(keys):
        keys.subscribe(told.append)
        await keys.commands.create(KeySpec("n"))

    assert told[0].changed_at_ms == clock.now_ms


async def test_usage_is_kept_over_restarts(path: Path) -> None:
    keys = _service(path)
    async with _running(keys):
        issued = await keys.commands.create(KeySpec("n"))
        key_id = issued.record.key_id
        keys.note_usage(key_id, allowed=True, requests=3, body_bytes=70, last_used_ms=500)
        keys.note_usage(key_id, allowed=False, requests=2, body_bytes=9, last_used_ms=900)
        assert keys.last_used_ms(key_id) == 500

    again = _service(path)
    async with _running(again):
        assert again.last_used_ms(key_id) == 500
    usage_store = SqliteUsage(path_for(path))
    await usage_store.open(create=False)
    assert await usage_store.load() == {key_id: KeyUsage(3, 70, 2, 500)}
    await usage_store.close()


async def test_usage_of_keys_that_nobody_knows_is_not_kept(path: Path) -> None:
    keys = _service(path)
    async with _running(keys):
        keys.note_usage("77", allowed=True, requests=1, body_bytes=1, last_used_ms=1)

        assert keys.last_used_ms("77") == 0


async def test_usage_of_keys_that_are_gone_is_dropped_at_the_start(path: Path) -> None:
    async with _running(_service(path)):
        pass
    usage_store = SqliteUsage(path_for(path))
    await usage_store.open(create=False)
    await usage_store.add({"77": KeyUsage(1), "static:prod": KeyUsage(1)})

    async with _running(_service(path)):
        assert set(await usage_store.load()) == {"static:prod"}
    await usage_store.close()


async def test_writing_usage_does_not_wake_who_watches_the_store(path: Path) -> None:
    keys = _service(path)
    async with _running(keys):
        issued = await keys.commands.create(KeySpec("n"))
        watcher = sqlite3.connect(path)
        before = watcher.execute("PRAGMA data_version").fetchone()
        keys.note_usage(
            issued.record.key_id, allowed=True, requests=1, body_bytes=1, last_used_ms=1
        )
        keys.publish_confirmed(keys.revision)
    after = watcher.execute("PRAGMA data_version").fetchone()
    watcher.close()

    assert after == before


async def test_a_damaged_usage_file_is_a_problem_but_no_reason_not_to_start(path: Path) -> None:
    problems: list[str] = []
    path.parent.mkdir()
    path_for(path).write_text("not a database")
    keys = _service(path, on_problem=problems.append)

    async with _running(keys):
        issued = await keys.commands.create(KeySpec("n"))
        keys.note_usage(
            issued.record.key_id, allowed=True, requests=1, body_bytes=1, last_used_ms=7
        )
        assert keys.last_used_ms(issued.record.key_id) == 7

    assert len(problems) == 1
    assert "usage of keys is not kept" in problems[0]
    assert path_for(path).read_text() == "not a database"


async def test_what_is_written_is_reported_as_done_even_if_it_cannot_be_read_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = _service(path)
    await keys.start()
    (first,) = keys._followers
    read = first.store.feed.changes

    async def unreadable(_: int | None) -> object:
        text = "for a moment"
        raise StoreDamagedError(text)

    monkeypatch.setattr(first.store.feed, "changes", unreadable)
    issued = await keys.commands.create(KeySpec("n"))
    monkeypatch.setattr(first.store.feed, "changes", read)
    worker = Worker(keys)
    following = asyncio.ensure_future(keys.background()["keys.follow.0"]())

    await worker.until(lambda: issued.key.digest in worker.keyring)

    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await keys.close()
