"""How a command that changes the store learns that the running gateways have taken it over.

Each gateway on the host keeps one small file in the folder `STORE.gateways` and holds a lock on it
(flock) for as long as it lives: the kernel releases it however the gateway ends, so a file without
a lock is a dead gateway's, without clocks or process ids. In the file stands the store's revision
that all its workers have confirmed. The store itself is not touched, or its watchers would wake.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import fcntl
import os
import secrets
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from gateway.keys.sqlite import translated

POLL_S: Final = 0.01
_DRAFT_PREFIX: Final = "."


class Confirmation(enum.Enum):
    """What became of waiting."""

    CONFIRMED = "confirmed"
    """Every worker of every running gateway decides by the change."""
    PENDING = "pending"
    """At least one gateway has not confirmed in time."""
    NO_GATEWAY = "no gateway"
    """No gateway runs on this store: there is nothing to wait for."""


class Board(Protocol):
    """A running gateway's end, wherever commands look."""

    def publish(self, revision: int) -> None:
        """Say that every live worker has the store's `revision`, or that none lives."""

    def close(self) -> None:
        """Say nothing any more."""


def folder_of(store: Path) -> Path:
    """Where the gateways that use `store` keep their files."""
    return store.with_name(store.name + ".gateways")


class ConfirmationBoard:
    """A running gateway's end. Use as a context manager, or `close` it."""

    def __init__(self, store: Path) -> None:
        """Announce this gateway, at revision 0. Raises `StoreUnavailableError`."""
        folder = folder_of(store)
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        draft = folder / (_DRAFT_PREFIX + name)
        self._file = folder / name
        with translated(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sweep(folder)
            self._descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.publish(0)
            # It gets its name when it is locked and filled: nobody mistakes it for a dead one's.
            draft.rename(self._file)

    def publish(self, revision: int) -> None:
        """Say that every live worker has the store's `revision`, or that none lives.

        A failure to write is silent: those who wait then say that they were not answered.
        """
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, _line(revision), 0)

    def close(self) -> None:
        """Take this gateway's file away."""
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


async def wait_confirmed(store: Path, revision: int, timeout_s: float) -> Confirmation:
    """Wait until all gateways that now run on `store` have confirmed its `revision`.

    For commands, after their change is on disk. A gateway that ends meanwhile is not waited for.
    Raises nothing: what cannot be read counts as not confirmed.
    """
    folder = folder_of(store)
    waiting = _running(folder)
    if not waiting:
        return Confirmation.NO_GATEWAY
    deadline = time.monotonic() + timeout_s
    while True:
        waiting = {file for file in waiting if _is_behind(file, revision)}
        if not waiting:
            return Confirmation.CONFIRMED
        if time.monotonic() >= deadline:
            return Confirmation.PENDING
        await asyncio.sleep(POLL_S)


def _running(folder: Path) -> set[Path]:
    return {file for file in _files(folder) if not _is_dead(file)}


def _files(folder: Path) -> list[Path]:
    try:
        return [file for file in folder.iterdir() if not file.name.startswith(_DRAFT_PREFIX)]
    except OSError:
        return []


def _is_behind(file: Path, revision: int) -> bool:
    """Whether `file` is a running gateway's that has not confirmed `revision`."""
    try:
        line = file.read_bytes()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    confirmed = _parsed(line)
    return (confirmed is None or confirmed < revision) and not _is_dead(file)


def _is_dead(file: Path) -> bool:
    """Whether nobody holds the lock on `file` any more."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _sweep(folder: Path) -> None:
    """Remove dead gateways' files. Two that sweep at once do no harm."""
    for file in _files(folder):
        if _is_dead(file):
            with contextlib.suppress(OSError):
                file.unlink()


def _line(revision: int) -> bytes:
    """Write the number twice and always as long: a reader can tell when it saw half a write."""
    return b"%020d %020d\n" % (revision, revision)


def _parsed(line: bytes) -> int | None:
    match line.split():
        case [first, second] if first == second and first.isdigit():
            return int(first)
        case _:
            return None
