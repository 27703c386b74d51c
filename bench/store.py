"""The gateway's own key store, filled for a run: what `gateway keys create --key-file -` does.

Through the product's library instead of its command, because 1,000 starts of a process take
minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from gateway.keys.embedded import sqlite_store
from gateway.keys.manage import KeyManager
from gateway.keys.material import KeyMaterial
from gateway.keys.sql import SqlStore


@contextlib.asynccontextmanager
async def opened(database: Path) -> AsyncIterator[SqlStore]:
    """Open the SQLite store in the file `database`, making a missing one."""
    store = sqlite_store(database)
    await store.open(create=True)
    try:
        yield store
    finally:
        await store.close()


async def _adopt(database: Path, keys: Iterable[str]) -> None:
    async with opened(database) as store:
        manager = KeyManager(store)
        for number, key in enumerate(keys):
            await manager.adopt(KeyMaterial.adopt(key), f"bench {number}")


def adopt(database: Path, keys: Iterable[str]) -> None:
    """Store existing keys in the SQLite store `database`."""
    asyncio.run(_adopt(database, keys))
