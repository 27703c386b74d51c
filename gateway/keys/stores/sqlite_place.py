"""Whether a SQLite file is still where it was opened: a commit into a deleted file is not stored.

SQLite goes on writing to the file that it has open, whether its name still leads there or not, and
to its log beside a file that was truncated. So this is asked before and after each write that is
acknowledged: of the names only. Nothing is opened, because closing any descriptor of a file ends
all locks that the process has on it (https://sqlite.org/howtocorrupt.html §2.2).
"""

from __future__ import annotations

import os
from pathlib import Path

from gateway.keys.errors import StoreUnavailableError
from gateway.keys.stores.sqlite_file import translated

_Identity = tuple[int, int]
"""Device and inode."""


class SqlitePlace:
    """Which file is at `path`, with which log, and how long it was."""

    def __init__(self, path: Path) -> None:
        self.has_shrunk = False
        """Whether the same file was longer before, so that a part of it may be missing."""
        self._path = path
        self._log = path.with_name(path.name + "-wal")
        self._identity: _Identity | None = None
        self._log_identity: _Identity | None = None
        self._size = 0

    def note(self) -> None:
        """Take note of the file that is there. Raises `StoreError`."""
        with translated(self._path):
            status = self._path.stat()
        self._identity = _identity(status)
        self._size = status.st_size

    def again(self) -> SqlitePlace:
        """Take note of the file that is there now. Raises `StoreError`.

        Another file must not be read together with the log of the one before: SQLite would take
        the pages in it for its own.
        """
        place = SqlitePlace(self._path)
        place.note()
        if place._identity == self._identity:
            place.has_shrunk = place._size < self._size
            return place
        log = self._log_status()
        if log is not None and log.st_size and _identity(log) == self._log_identity:
            msg = (
                f"{self._log}: it belongs to the file that was here before; remove it, and the file"
                " that was put in its place can be read"
            )
            raise StoreUnavailableError(msg)
        return place

    def check(self) -> None:
        """Raise `StoreUnavailableError` unless the file that was noted is there, and whole."""
        with translated(self._path):
            status = self._path.stat()
        if _identity(status) != self._identity:
            msg = f"{self._path}: another file was put in its place; nothing is stored in it"
            raise StoreUnavailableError(msg)
        if status.st_size < self._size:
            msg = f"{self._path}: it became smaller; nothing is stored until it was checked"
            raise StoreUnavailableError(msg)
        log = self._log_status()
        if log is None and self._log_identity is not None:
            msg = f"{self._log}: it was deleted; nothing is stored. Try again"
            raise StoreUnavailableError(msg)
        self._size = status.st_size
        self._log_identity = None if log is None else _identity(log)

    def _log_status(self) -> os.stat_result | None:
        with translated(self._log):
            try:
                return self._log.stat()
            except FileNotFoundError:
                return None


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino
