"""A PostgreSQL with very many keys, and what can happen to it while gateways use it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from bench import keys
from gateway.keys.api_key import ApiKey
from gateway.keys.commands import KeyCommands
from gateway.keys.store import KeySpec
from gateway.keys.stores.postgresql import postgresql_store
from gateway.keys.stores.postgresql_watch import CHANNEL

_INSERT = (
    "INSERT INTO gateway_keys (id, digest, name, created_ms, updated_ms, revision, enabled)"
    " SELECT number, sha256(convert_to('scale ' || number, 'UTF8')), 'agent-' || number,"
    " $3::bigint, $3::bigint, $4::bigint, true FROM generate_series($1::bigint, $2::bigint) number"
)


async def fill(url: str, count: int) -> None:
    """Make the tables, and `count` keys in them; besides the first of the bench's keys."""
    store = postgresql_store(url)
    await store.feed.open(create=True)
    await KeyCommands(store.repository).adopt(ApiKey.adopt(keys.key(0)), KeySpec("bench"))
    await store.feed.close()
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


async def forget_changes(url: str) -> None:
    """Have gateways read everything again, as if they had missed what was deleted for good."""
    async with _connected(url) as connection, connection.transaction():
        await connection.execute(
            "UPDATE gateway_key_store SET revision = revision + 1, purged_revision = revision + 1"
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
