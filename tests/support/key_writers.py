"""Processes that write to one SQLite store with the code of `gateway keys`, at the same time, until
they are done or killed; and what they said was done.

A server process has everything imported and forks each writer, which so begins within milliseconds.
It kills them, too: from outside, at any point of their code.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_SERVER = """
import asyncio, os, random, signal, sys, time
from pathlib import Path
from gateway.keys.stores.sqlite import sqlite_store
from gateway.keys.commands import KeyCommands
from gateway.keys.store import KeySpec

async def write(path, count):
    say = lambda *words: os.write(1, (" ".join(map(str, [os.getpid(), *words])) + "\\n").encode())
    store = sqlite_store(path)
    await store.feed.open(create=True)
    manager = KeyCommands(store.repository)
    for number in range(count):
        say("creating", "-", "-")
        issued = await manager.create(KeySpec(f"{os.getpid()}-{number}"))
        say("created", issued.record.id, issued.key.reveal())
        if number % 2:
            say("deleting", issued.record.id, "-")
            await manager.delete(issued.record.id)
            say("deleted", issued.record.id, "-")
    await store.feed.close()

def fork(path, count):
    child = os.fork()
    if not child:
        asyncio.run(write(path, count))
        os._exit(0)
    return child

# Each line that comes asks for one round.
path = Path(sys.argv[1])
for line in sys.stdin:
    writers, count, kill_within_s = line.split()
    children = [fork(path, int(count)) for _ in range(int(writers))]
    began_s = time.monotonic()
    if kill_within_s != "-":
        delays_s = sorted(random.uniform(0, float(kill_within_s)) for _ in children)
        for child, delay_s in zip(children, delays_s):
            time.sleep(max(0.0, began_s + delay_s - time.monotonic()))
            os.kill(child, signal.SIGKILL)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    os.write(1, ("0 round " + ",".join(map(str, statuses)) + " -\\n").encode())
"""


@dataclass(slots=True)
class Acknowledged:
    """What writers said was done, and what they were about to do when they were killed."""

    created: dict[int, str] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    deleting: set[int] = field(default_factory=set)

    def note(self, what: str, key_id: str, key: str) -> None:
        """Take what a writer said."""
        if what == "created":
            self.created[int(key_id)] = key
        elif what == "deleting":
            self.deleting.add(int(key_id))
        elif what == "deleted":
            self.deleted.add(int(key_id))


@dataclass(frozen=True, slots=True)
class Round:
    """How some writers ended."""

    statuses: list[int]
    """As `waitpid` had them."""
    in_flight: int
    """How many had begun a create or delete and had not said that it was done."""


class Writers:
    """The server. `acknowledged` is what all its writers have said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.acknowledged = Acknowledged()

    def round(self, writers: int, count: int, kill_within_s: float | None = None) -> Round:
        """Let some write `count` keys each at the same time; kill each within so many seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        limit = "-" if kill_within_s is None else kill_within_s
        self._process.stdin.write(f"{writers} {count} {limit}\n")
        self._process.stdin.flush()
        last: dict[str, str] = {}
        for line in self._process.stdout:
            pid, what, key_id, key = line.split()
            if what == "round":
                in_flight = sum(word in {"creating", "deleting"} for word in last.values())
                return Round([int(status) for status in key_id.split(",")], in_flight)
            last[pid] = what
            self.acknowledged.note(what, key_id, key)
        pytest.fail("the writers ended")


@contextmanager
def key_writers(store: Path) -> Iterator[Writers]:
    """Run a server for writers to the SQLite store at this path."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Writers(process)
        assert process.stdin is not None
        process.stdin.close()
