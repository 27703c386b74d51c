"""`gateway keys` as users run it: the installed command, real processes, real files."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.keys.record import KeyDelta, KeyRecord
from gateway.keys.service import KeyService
from gateway.keys.store import KeySpec
from gateway.keys.stores.sqlite import sqlite_store
from tests.support.each_worker import statuses_of
from tests.support.key_writers import key_writers
from tests.support.keys import read_all
from tests.support.process import COMMAND, running_gateway

CANARY = "canary-91f2-never-shown"
HANG_S = 30.0


@dataclass(frozen=True, slots=True)
class Keys:
    """`gateway keys` on one store."""

    data: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.data / "keys.db"

    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return _gateway("keys", *arguments, "--data", str(self.data), text=text)

    def json(self, *arguments: str, text: str = "") -> Any:
        done = self.run(*arguments, "--output", "json", text=text)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def create(self, name: str, *more: str) -> dict[str, Any]:
        created = self.json("create", "--name", name, *more)["ingestion-api-key"]
        assert isinstance(created, dict)
        return created

    def names(self) -> list[str]:
        return [key["name"] for key in self.json("list")["ingestion-api-keys"]]


def _gateway(
    *arguments: str, text: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        input=text,
        capture_output=True,
        encoding="utf-8",
        timeout=HANG_S,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "state")


def _on_a_terminal(*arguments: str, **environment: str) -> str:
    """Run a command whose output is a terminal, and return what stands there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", **environment},
    ):
        os.close(theirs)
        written = b""
        # A terminal whose other side is closed reports EIO on Linux.
        while chunk := _read_or_end(ours):
            written += chunk
    os.close(ours)
    return written.decode()


def _read_or_end(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


def test_emoji_stand_on_a_terminal_only_and_not_with_no_color(keys: Keys) -> None:
    create = ("keys", "create", "-n", "n", "--data", str(keys.data))

    assert "✅ Ingestion API Key generated: iapikey-" in _on_a_terminal(*create, NO_COLOR="")
    assert "[SUCCESS] Ingestion API Key" in _on_a_terminal(*create, NO_COLOR="1")


def test_a_terminal_shows_the_progress_of_an_import_and_a_table_that_fits(
    keys: Keys, tmp_path: Path
) -> None:
    file = tmp_path / "keys.csv"
    file.write_text("key,name,owner\n" + "".join(f"k{n},name-{n},{'o' * 90}\n" for n in range(600)))
    data = ("--data", str(keys.data))

    assert "Importing" in _on_a_terminal("keys", "import", str(file), *data)
    listed = _on_a_terminal("keys", "list", *data, NO_COLOR="1", COLUMNS="80").splitlines()
    assert listed[0].split() == ["ID", "NAME", "STATUS", "SIGNALS", "LIMITS", "OWNER"]
    assert max(map(len, listed)) <= 80
    assert sum("name-" in line for line in listed) == 600


def test_commands_work_together_as_processes(keys: Keys) -> None:
    shown = keys.run("create", "--name", "agent-eu")
    key = shown.stdout.split()[-1]
    adopted = keys.run("create", "--name", "old", "--key-file", "-", text=f"{CANARY}\n")
    twice = keys.run("create", "--name", "again", "--key-file", "-", text=CANARY)
    listed = keys.run("list")
    key_id = listed.stdout.splitlines()[1].split()[0]
    deleted = keys.run("delete", "--id", key_id)
    mistake = keys.run("delete")

    assert shown.stdout == f"[SUCCESS] Ingestion API Key generated: {key}\n\n"
    assert [done.returncode for done in (shown, adopted, listed, deleted)] == [0] * 4
    assert deleted.stdout == f"[SUCCESS] Ingestion Api Key deleted: {key_id}\n"
    assert (twice.returncode, mistake.returncode) == (2, 1)
    assert twice.stderr.startswith("[ERROR] this key exists already with id ")
    said = "".join(done.stdout + done.stderr for done in (adopted, twice, listed, deleted))
    assert CANARY not in said
    assert key not in said


# Beside a running gateway


@asynccontextmanager
async def _service(path: Path, *, confirms: bool) -> AsyncIterator[KeyService]:
    """Run the key service of a gateway whose workers confirm at once, or never."""
    keys = KeyService([sqlite_store(path)], tombstones_s=3_600)
    await keys.start()
    if confirms:
        keys.subscribe(lambda delta: keys.publish_confirmed(delta.revision))
    tasks = [asyncio.ensure_future(run()) for run in keys.background().values()]
    yield keys
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await keys.close()


async def test_a_command_returns_when_the_running_gateway_has_its_change(keys: Keys) -> None:
    async with _service(keys.store, confirms=True) as running:
        created = await asyncio.to_thread(keys.create, "n")
        known = running.record(str(created["id"]))
        deleted = await asyncio.to_thread(keys.run, "delete", "--id", str(created["id"]))

        assert isinstance(known, KeyRecord)
        assert deleted.stderr == ""
        tombstone = running.record(str(created["id"]))
        assert isinstance(tombstone, KeyRecord)
        assert tombstone.deleted_at_ms is not None


async def test_a_command_says_when_a_running_gateway_has_not_confirmed(keys: Keys) -> None:
    async with _service(keys.store, confirms=False):
        done = await asyncio.to_thread(keys.run, "create", "-n", "n")

    assert done.returncode == 0
    assert done.stdout.startswith("[SUCCESS] ")
    assert "stored, but a running gateway has not confirmed the change within 1 s" in done.stderr


async def test_a_command_makes_no_store_beside_a_gateway_whose_store_is_gone(keys: Keys) -> None:
    async with _service(keys.store, confirms=True):
        for suffix in ("", "-wal", "-shm"):
            keys.store.with_name(keys.store.name + suffix).unlink()
        done = await asyncio.to_thread(keys.run, "create", "-n", "n")

    assert done.returncode != 0
    assert "a running gateway holds another store" in done.stderr
    assert "iapikey-" not in done.stdout
    assert not keys.store.exists()


async def test_the_list_shows_when_keys_were_last_used(keys: Keys) -> None:
    async with _service(keys.store, confirms=True) as running:
        issued = await running.commands.create(KeySpec("n"))
        running.note_usage(
            issued.record.key_id,
            allowed=True,
            requests=1,
            body_bytes=1,
            last_used_ms=1_900_000_000_000,
        )

    assert "| 2030-03-17 17:46:40" in keys.run("list").stdout
    (listed,) = keys.json("list")["ingestion-api-keys"]
    assert listed["lastUsedTimestamp"] == 1_900_000_000_000


async def test_senders_are_accepted_and_refused_as_commands_say(keys: Keys, tmp_path: Path) -> None:
    store = {"keys": {"stores": [f"sqlite://{keys.store}"]}}
    async with running_gateway(tmp_path, store) as gateway:
        url = f"http://127.0.0.1:{gateway.port}"
        created = await asyncio.to_thread(keys.create, "n")
        # 503: the key is good, and no backend is configured.
        accepted = await statuses_of(url, created["apiKey"])
        deleted = await asyncio.to_thread(keys.run, "delete", "--id", str(created["id"]))
        refused = await statuses_of(url, created["apiKey"])

    assert deleted.stderr == ""
    assert accepted == {503}
    assert refused == {401}


# Many at once


def test_commands_at_the_same_time_on_a_new_store_lose_nothing(keys: Keys) -> None:
    names = [f"key-{number}" for number in range(4)]
    processes = [
        subprocess.Popen(
            [COMMAND, "keys", "create", "-n", name, "--data", str(keys.data)],
            stdout=subprocess.PIPE,
        )
        for name in names
    ]
    for process in processes:
        process.communicate(timeout=HANG_S)

    assert [process.returncode for process in processes] == [0] * 4
    assert keys.names() == names
    assert [file.name for file in keys.data.iterdir()] == ["keys.db"]


async def _stored(path: Path) -> dict[int, KeyRecord]:
    store = sqlite_store(path)
    await store.feed.open(create=False)
    records = {record.id: record for record in (await read_all(store)).records}
    await store.feed.close()
    return records


async def test_writers_at_the_same_time_lose_nothing_that_a_running_gateway_misses(
    keys: Keys,
) -> None:
    deltas: list[KeyDelta] = []
    async with _service(keys.store, confirms=True) as running:
        running.subscribe(deltas.append)
        with key_writers(keys.store) as writers:
            ended = await asyncio.to_thread(writers.round, 4, 20)
            known = writers.acknowledged
        async with asyncio.timeout(HANG_S):
            # Both: as many live ones are there too when a create and a delete are still to come.
            while len(list(running.records())) != len(known.created) or sum(
                running.counts().values()
            ) != len(known.created) - len(known.deleted):
                await asyncio.sleep(0.01)
        seen = {int(key.key_id): key for key in running.records()}

    assert ended.statuses == [0, 0, 0, 0]
    assert len(known.created) == 80
    assert len(known.deleted) == 40
    assert seen == await _stored(keys.store)
    assert set(seen) == set(known.created)
    assert {key_id for key_id, key in seen.items() if key.state} == known.deleted
    assert [delta.revision for delta in deltas] == sorted({delta.revision for delta in deltas})


async def test_a_gateway_does_not_start_on_another_store_than_the_one_before(
    tmp_path: Path,
) -> None:
    async with running_gateway(tmp_path, {}) as gateway:
        config = gateway.config_file
        (remembered,) = tmp_path.rglob("keys-sqlite-*.store")
    (store,) = tmp_path.rglob("keys.db")
    other = tmp_path / "other"
    keys = Keys(other)
    await asyncio.to_thread(keys.run, "create", "--name", "n")
    store.unlink()

    gone = await asyncio.to_thread(_serve, config)
    (other / "keys.db").rename(store)
    replaced = await asyncio.to_thread(_serve, config)

    for started in (gone, replaced):
        assert started.returncode != 0
        assert "Traceback" not in started.stderr
        assert f"remove {remembered} and restart the gateway" in started.stderr


def _serve(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "serve", "--config", config],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
