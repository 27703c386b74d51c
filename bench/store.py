"""The gateway's own key store, opened beside it as `gateway keys` does.

Through the product's library instead of its command, because what is measured there takes less
time than the start of a process.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from gateway.keys.stores.sql_store import SqlStore
from gateway.keys.stores.sqlite import sqlite_store


@contextlib.asynccontextmanager
async def opened(database: Path) -> AsyncIterator[SqlStore]:
    """Open the SQLite store in the file `database`, making a missing one."""
    store = sqlite_store(database)
    await store.feed.open(create=True)
    try:
        yield store
    finally:
        await store.feed.close()
