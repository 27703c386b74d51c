"""How a command that changes the store learns that the running gateways have taken it over.

Each gateway on the host keeps one small file in the folder `STORE.gateways` and holds a lock on it
(flock) for as long as it lives: the kernel releases it however the gateway ends, so a file without
a lock is a dead gateway's, without clocks or process ids. In the file stands the store's revision
that all its workers have confirmed, and the store's id: a command must not change a store that was
put in the place of the one that the gateway holds. The store itself is not touched, or its watchers
would wake.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from gateway.keys.errors import StoreError, StoreForeignError, os_errors_translated
from gateway.keys.state_file import StateFileError, make_state_folder
from gateway.keys.store import Confirmation

POLL_S: Final = 0.01
_MOST_BYTES: Final = 128
_DRAFT_PREFIX: Final = "."
_NAME: Final = re.compile(r"\d+-[0-9a-f]{8}")
"""Of a gateway's file: nothing else is read or removed."""
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def folder_of(store: Path) -> Path:
    """Where the gateways that use `store` keep their files."""
    return store.with_name(store.name + ".gateways")


class LockFiles:
    """The `Confirmations` of gateways on this host, beside the store in the file `store`.

    `store_id` returns the id of the store once it is open.
    """

    def __init__(self, store: Path, store_id: Callable[[], str] = lambda: "") -> None:
        self._store = store
        self._store_id = store_id
        self._own: LockFile | None = None

    def publisher(self, on_problem: Callable[[str], None]) -> LockFile:  # noqa: ARG002 - others do
        """See `Confirmations`. Raises `StoreUnavailableError`."""
        self._own = LockFile(self._store, self._store_id())
        return self._own

    def announce_again(self) -> None:
        """Have this gateway, if it is one, announced where commands look for it now.

        The folder of the store may have been moved away or come back. Raises nothing: it is tried
        again by whoever looks for the store again.
        """
        if self._own is not None:
            with contextlib.suppress(StoreError):
                self._own.announce()

    def hold_other_than(self, store_id: str | None) -> bool:
        """Whether a running gateway holds another store than this one; None: any store."""
        for file in _running(folder_of(self._store)):
            held = _read(file)
            if store_id is None or (held is not None and held.store_id not in {"", store_id}):
                return True
        return False

    async def wait(self, revision: int, timeout_s: float) -> Confirmation:
        """See `Confirmations`. Raises nothing: what cannot be read counts as not confirmed."""
        folder = folder_of(self._store)
        running = pending = _running(folder)
        deadline = time.monotonic() + timeout_s
        while True:
            pending = {file for file in pending if _is_behind(file, revision)}
            if not pending or time.monotonic() >= deadline:
                return Confirmation(_names(running - pending), _names(pending))
            await asyncio.sleep(POLL_S)


class LockFile:
    """A `ConfirmationPublisher` in one file."""

    def __init__(self, store: Path, store_id: str = "") -> None:
        """Announce this gateway, at revision 0.

        Raises `StoreUnavailableError`, and `StoreForeignError` where the folder is another user's.
        """
        self._folder = folder_of(store)
        self._file = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._store_id = store_id
        self._revision = 0
        self._descriptor: int | None = None
        self.announce()

    def announce(self) -> None:
        """Make the file unless it is there. No folder is made but its own: another one that was
        moved away must be free to come back. Raises as the constructor does.
        """
        with os_errors_translated(self._folder):
            if self._is_there():
                return
            _make(self._folder)
            _sweep(self._folder)
            draft = self._folder / (_DRAFT_PREFIX + self._file.name)
            before, self._descriptor = (
                self._descriptor,
                os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600),
            )
            if before is not None:
                os.close(before)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.publish(self._revision)
            # It gets its name when it is locked and filled: nobody mistakes it for a dead one's.
            draft.rename(self._file)

    def _is_there(self) -> bool:
        """Whether the file has its name. Raises `FileNotFoundError` without the store's folder."""
        if self._descriptor is None:
            return False
        self._folder.parent.stat()
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(self._file.stat(), os.fstat(self._descriptor))
        return False

    def publish(self, revision: int) -> None:
        """Say that every live worker has the store's `revision`, or that none lives.

        A failure to write is silent: those who wait then say that they were not answered.
        """
        self._revision = revision
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._descriptor, _line(revision, self._store_id), 0)

    def close(self) -> None:
        """Take this gateway's file away."""
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _make(folder: Path) -> None:
    """Make the folder; never a link: dead gateways' files are removed from it."""
    try:
        make_state_folder(folder)
    except StateFileError as error:
        raise StoreForeignError(str(error)) from error
    if folder.is_symlink():
        msg = f"{folder}: it is a symbolic link: delete it, and the gateway makes a folder"
        raise StoreForeignError(msg)


def _running(folder: Path) -> set[Path]:
    return {file for file in _files(folder) if not _is_dead(file)}


def _names(files: set[Path]) -> frozenset[str]:
    return frozenset(file.name for file in files)


def _files(folder: Path) -> list[Path]:
    try:
        return [file for file in folder.iterdir() if _NAME.fullmatch(file.name)]
    except OSError:
        return []


class _Line(NamedTuple):
    """What stands in a gateway's file."""

    revision: int
    store_id: str


def _is_behind(file: Path, revision: int) -> bool:
    """Whether `file` is a running gateway's that has not confirmed `revision`."""
    line = _read(file)
    return (line is None or line.revision < revision) and not _is_dead(file)


def _read(file: Path) -> _Line | None:
    """Read a gateway's file; None where that cannot be."""
    try:
        descriptor = os.open(file, _FLAGS)
        try:
            return _parsed(os.read(descriptor, _MOST_BYTES))
        finally:
            os.close(descriptor)
    except OSError:
        return None


def _is_dead(file: Path) -> bool:
    """Whether nobody holds the lock on `file` any more."""
    try:
        descriptor = os.open(file, _FLAGS)
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


def _line(revision: int, store_id: str) -> bytes:
    """Write the number twice and always as long: a reader can tell when it saw half a write."""
    return b"%020d %020d %s\n" % (revision, revision, store_id.encode())


def _parsed(line: bytes) -> _Line | None:
    match line.split():
        case [first, second, *rest] if first == second and first.isdigit():
            return _Line(int(first), rest[0].decode("ascii", "replace") if rest else "")
        case _:
            return None
