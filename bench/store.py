"""The gateway's own key store, opened beside it as `gateway keys` does.

Through the product's library instead of its command, because what is measured there takes less
time than the start of a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable
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


def fill(database: Path, keys: Iterable[str]) -> None:
    """Make the SQLite store `database` with very many keys, in one transaction."""

    async def make() -> None:
        async with opened(database):
            pass

    asyncio.run(make())
    now_ms = time.time_ns() // 1_000_000
    rows = (
        (number, hashlib.sha256(key.encode()).digest(), f"bench {number}", now_ms, now_ms)
        for number, key in enumerate(keys, 1)
    )
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE gateway_key_store SET revision = revision + 1")
        connection.executemany(
            "INSERT INTO gateway_keys (id, digest, name, created_ms, updated_ms, revision, enabled)"
            " SELECT ?, ?, ?, ?, ?, revision, 1 FROM gateway_key_store",
            rows,
        )
