"""`gateway keys` as users run it: the installed command, real processes, real files."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.keys.embedded import sqlite_store
from gateway.keys.manage import KeyManager
from gateway.keys.record import KeyDelta, KeyRecord
from gateway.keys.service import KeyService
from gateway.model import digest_of
from tests.support.process import COMMAND, running_gateway
from tests.unit.keys.conftest import read_all

CANARY = "canary-91f2-never-shown"
ROUNDS = int(os.environ.get("KEYS_CRASH_ROUNDS", "20"))
"""How often three writers are killed (each round kills all three)."""
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


async def test_the_list_shows_when_keys_were_last_used(keys: Keys) -> None:
    async with _service(keys.store, confirms=True) as running:
        issued = await running.create("n")
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


async def _statuses(url: str, key: str) -> set[int]:
    """Send with `key` on so many new connections that each worker gets some; what is answered."""
    headers = {"Authorization": f"StackState {key}", "Content-Type": "application/json"}
    statuses: set[int] = set()
    for _ in range(6):
        connector = aiohttp.TCPConnector(force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector, headers=headers) as session,
            session.post(f"{url}/v1/traces", data=b"{}") as answer,
        ):
            statuses.add(answer.status)
    return statuses


async def test_senders_are_accepted_and_refused_as_commands_say(keys: Keys, tmp_path: Path) -> None:
    store = {"keys": {"stores": [f"sqlite://{keys.store}"]}}
    async with running_gateway(tmp_path, store) as gateway:
        url = f"http://127.0.0.1:{gateway.port}"
        created = await asyncio.to_thread(keys.create, "n")
        # 503: the key is good, and no backend is configured.
        accepted = await _statuses(url, created["apiKey"])
        deleted = await asyncio.to_thread(keys.run, "delete", "--id", str(created["id"]))
        refused = await _statuses(url, created["apiKey"])

    assert deleted.stderr == ""
    assert accepted == {503}
    assert refused == {401}


# Many at once, and killed


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


_WRITER = """
import asyncio, os, random, signal, sys, threading
from pathlib import Path
from gateway.keys.embedded import sqlite_store
from gateway.keys.manage import KeyManager

async def write(path, count):
    say = lambda *words: os.write(1, (" ".join(map(str, words)) + "\\n").encode())
    store = sqlite_store(path)
    await store.open(create=True)
    manager = KeyManager(store)
    for number in range(count):
        issued = await manager.create(f"{os.getpid()}-{number}")
        say("created", issued.record.id, issued.key.reveal())
        if number % 2:
            say("deleting", issued.record.id, "-")
            await manager.delete(issued.record.id)
            say("deleted", issued.record.id, "-")
    await store.close()

def fork(path, count, kill_within_s):
    child = os.fork()
    if child:
        return child
    if kill_within_s is not None:
        delay = random.uniform(0, kill_within_s)
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    asyncio.run(write(path, count))
    os._exit(0)

# Each line that comes asks for one round: three or four processes that write at the same time.
path = Path(sys.argv[1])
for line in sys.stdin:
    writers, count, kill_within_s = line.split()
    limit = None if kill_within_s == "-" else float(kill_within_s)
    children = [fork(path, int(count), limit) for _ in range(int(writers))]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    os.write(1, ("round " + " ".join(map(str, statuses)) + " -\\n").encode())
"""


@dataclass(slots=True)
class Acknowledged:
    """What writers said was done, and what they were about to do when they were killed."""

    created: dict[int, str] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    deleting: set[int] = field(default_factory=set)

    def note(self, line: str) -> None:
        what, key_id, key = line.split()
        if what == "created":
            self.created[int(key_id)] = key
        elif what == "deleting":
            self.deleting.add(int(key_id))
        else:
            self.deleted.add(int(key_id))


class Writers:
    """A process that forks others, which write to one store with the code of `gateway keys`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.acknowledged = Acknowledged()

    def round(self, writers: int, count: int, kill_within_s: float | None = None) -> list[int]:
        """Let some write at the same time; give the statuses that `waitpid` had for them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        limit = "-" if kill_within_s is None else kill_within_s
        self._process.stdin.write(f"{writers} {count} {limit}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("round "):
                return [int(status) for status in line.split()[1:-1]]
            self.acknowledged.note(line)
        pytest.fail("the writers ended")


@pytest.fixture(name="writers")
def _writers(keys: Keys) -> Iterator[Writers]:
    with _writing(keys.store) as writers:
        yield writers


@contextmanager
def _writing(store: Path) -> Iterator[Writers]:
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Writers(process)
        assert process.stdin is not None
        process.stdin.close()


async def _stored(path: Path) -> dict[int, KeyRecord]:
    store = sqlite_store(path)
    await store.open(create=False)
    records = {record.id: record for record in (await read_all(store)).records}
    await store.close()
    return records


async def test_writers_at_the_same_time_lose_nothing_that_a_running_gateway_misses(
    keys: Keys, writers: Writers
) -> None:
    deltas: list[KeyDelta] = []
    async with _service(keys.store, confirms=True) as running:
        running.subscribe(deltas.append)
        statuses = await asyncio.to_thread(writers.round, 4, 20)
        known = writers.acknowledged
        async with asyncio.timeout(HANG_S):
            # Both: as many live ones are there too when a create and a delete are still to come.
            while len(list(running.records())) != len(known.created) or sum(
                running.counts().values()
            ) != len(known.created) - len(known.deleted):
                await asyncio.sleep(0.01)
        seen = {int(key.key_id): key for key in running.records()}

    assert statuses == [0, 0, 0, 0]
    assert len(known.created) == 80
    assert len(known.deleted) == 40
    assert seen == await _stored(keys.store)
    assert set(seen) == set(known.created)
    assert {key_id for key_id, key in seen.items() if key.state} == known.deleted
    assert [delta.revision for delta in deltas] == sorted({delta.revision for delta in deltas})


async def test_a_killed_writer_leaves_a_sound_store_with_all_that_it_acknowledged(
    keys: Keys, writers: Writers
) -> None:
    killed = 0
    for number in range(ROUNDS):
        # The first rounds are short: they hit the creation of the store as well.
        statuses = await asyncio.to_thread(writers.round, 3, 100_000, 0.02 * (1 + number % 12))
        killed += statuses.count(9)
        if not keys.store.exists():
            assert not writers.acknowledged.created
            continue
        _check_soundness(keys.store)
        _check_acknowledged(await _stored(keys.store), writers.acknowledged)

    assert killed == 3 * ROUNDS
    assert writers.acknowledged.created
    assert writers.acknowledged.deleted


def _check_soundness(store: Path) -> None:
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def _check_acknowledged(stored: dict[int, KeyRecord], acknowledged: Acknowledged) -> None:
    gone = {key_id for key_id, record in stored.items() if record.deleted_at_ms is not None}
    for key_id, key in acknowledged.created.items():
        assert stored[key_id].digest == digest_of(key.encode())
    assert acknowledged.deleted <= gone
    assert gone <= acknowledged.deleting


async def test_a_store_whose_first_writer_was_killed_can_be_used(keys: Keys) -> None:
    with _writing(keys.store) as writers:
        await asyncio.to_thread(writers.round, 1, 100_000, 0.001)

    store = sqlite_store(keys.store)
    await store.open(create=True)
    issued = await KeyManager(store).create("after")
    assert issued.record in await KeyManager(store).live_keys()
    await store.close()
