"""Noticing that another connection or process has changed a SQLite file.

`PRAGMA data_version` changes when any other connection commits, whatever it changed, and costs some
microseconds: so it is asked all the time, and the database itself only when it says so. It is only
a trigger; what changed is asked of the store (`KeyFeed.changes`).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import Final

from gateway.keys.stores.sqlite_engine import file_uri
from gateway.keys.stores.sqlite_file import translated

INTERVAL_S: Final = 0.04
"""Time between two looks: a change must be in force within 100 ms. Each costs some 20 µs of CPU."""
RECHECK_S: Final = 5.0
"""The longest wait: should a file system hide changes, they are found all the same."""

_FILE_EVERY: Final = 8
"""Looks from one check that the path still leads to the watched file to the next."""


class SqliteWatch:
    """Watches one file through a connection of its own, which data_version requires."""

    def __init__(
        self, path: Path, interval_s: float = INTERVAL_S, recheck_s: float = RECHECK_S
    ) -> None:
        self._path = path
        self._interval_s = interval_s
        self._looks = max(1, round(recheck_s / interval_s))
        self._connection: sqlite3.Connection | None = None
        self._version = 0
        self._identity = (0, 0)

    @property
    def is_open(self) -> bool:
        """Whether changes are noticed."""
        return self._connection is not None

    def open(self) -> None:
        """Begin to watch: changes from now on count. Raises `StoreError`."""
        self.close()
        with translated(self._path):
            self._identity = self._look_at_file()
            # No waiting for locks: this runs between two turns of the event loop.
            self._connection = sqlite3.connect(
                file_uri(self._path), uri=True, timeout=0, isolation_level=None
            )
            self._version = self._data_version(self._connection)

    def close(self) -> None:
        """Stop watching."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def is_replaced(self) -> bool:
        """Whether the path leads to another file than the one that is watched.

        Raises `StoreUnavailableError` where it leads to none.
        """
        with translated(self._path):
            return self._look_at_file() != self._identity

    async def wait(self) -> None:
        """Return when the file was changed or replaced, and now and then without.

        Raises `StoreError` when it can be watched no longer, `RuntimeError` when it is not open.
        """
        for look in range(self._looks):
            if self._is_changed() or (look % _FILE_EVERY == 0 and self.is_replaced()):
                return
            await asyncio.sleep(self._interval_s)

    def _is_changed(self) -> bool:
        if self._connection is None:
            msg = "the watch is not open"
            raise RuntimeError(msg)
        with translated(self._path):
            before, self._version = self._version, self._data_version(self._connection)
        return before != self._version

    def _data_version(self, connection: sqlite3.Connection) -> int:
        try:
            (version,) = connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return self._version  # locked for a moment, for recovery after a crash: look again
        return int(version)

    def _look_at_file(self) -> tuple[int, int]:
        status = os.stat(self._path)  # noqa: PTH116 - all the time: three times cheaper than Path's
        return status.st_dev, status.st_ino
