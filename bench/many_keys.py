"""A PostgreSQL with very many keys, and what can happen to it while gateways use it."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from bench import keys
from gateway.keys.manage import KeyManager
from gateway.keys.material import KeyMaterial
from gateway.keys.postgresql import CHANNEL, postgresql_store

_INSERT = (
    "INSERT INTO gateway_keys (id, digest, name, created_ms, updated_ms, revision, enabled)"
    " SELECT number, sha256(convert_to('scale ' || number, 'UTF8')), 'agent-' || number,"
    " $3::bigint, $3::bigint, $4::bigint, true FROM generate_series($1::bigint, $2::bigint) number"
)


async def fill(url: str, count: int) -> None:
    """Make the tables, and `count` keys in them; besides the first of the bench's keys."""
    store = postgresql_store(url)
    await store.open(create=True)
    await KeyManager(store).adopt(KeyMaterial.adopt(keys.key(0)), "bench")
    await store.close()
    await add(url, 1, count)
    async with _connected(url) as connection:
        await connection.execute("ANALYZE")


async def add(url: str, first: int, count: int) -> None:
    """Add the keys number `first` and the following in one transaction, and announce them."""
    async with _connected(url) as connection, connection.transaction():
        revision: int = await connection.fetchval(
            "UPDATE gateway_key_store SET revision = revision + 1 RETURNING revision"
        )
        now_ms = time.time_ns() // 1_000_000
        # The server makes them: the bench must not be busy while it measures.
        await connection.execute(_INSERT, first, first + count - 1, now_ms, revision)
        await connection.execute("SELECT pg_notify($1, '')", CHANNEL)


async def become_another_store(url: str) -> None:
    """Have gateways read everything again, as after the restore of a backup."""
    async with _connected(url) as connection, connection.transaction():
        await connection.execute(
            "UPDATE gateway_key_store SET store_id = $1", secrets.token_hex(16)
        )
        await connection.execute("SELECT pg_notify($1, '')", CHANNEL)


async def rows_read(url: str) -> int:
    """Count the rows that the server has read from the table of keys so far."""
    async with _connected(url) as connection:
        count: int = await connection.fetchval(
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables"
            " WHERE relname = 'gateway_keys'"
        )
        return count


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
