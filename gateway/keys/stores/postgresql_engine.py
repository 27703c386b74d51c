"""Connections to PostgreSQL as what SQL stores run on.

No statement has a name, and none is kept: a pooler in between may give each transaction another
connection to the server. Behind one no connection is kept either.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final, Literal

import asyncpg

from gateway.keys.stores.connection_pool import ConnectionPool
from gateway.keys.stores.postgresql_connector import COMMAND_TIMEOUT_S, LOST, Connector, ping
from gateway.keys.stores.sql import PARTITION, Row

_KEPT: Final = 4
_MOST: Final = 14

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


class PostgresqlConnection:
    """An `SqlConnection`."""

    def __init__(self, raw: Connection) -> None:
        self._raw = raw

    async def execute(self, statement: str, *values: object) -> None:
        """See `SqlConnection`."""
        await self._raw.execute(statement, *values)

    async def fetch(self, statement: str, *values: object) -> Sequence[Row]:
        """See `SqlConnection`."""
        return await self._raw.fetch(statement, *values)

    async def parts(self, query: str, *values: object) -> AsyncGenerator[Sequence[Row], None]:
        """See `SqlConnection`."""
        statement = await self._raw.prepare(query, name="")
        cursor = await statement.cursor(*values)
        while rows := await cursor.fetch(PARTITION):
            yield rows


class PostgresqlEngine:
    """An `SqlEngine` on the database that `connector` leads to."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            connect=connector.connect,
            close=_close,
            is_reusable=self._is_reusable,
            lives=_lives,
            kept=_KEPT,
            most=_MOST,
            wait_s=COMMAND_TIMEOUT_S,
        )

    def reading(self) -> contextlib.AbstractAsyncContextManager[PostgresqlConnection]:
        """See `SqlEngine`."""
        return self._transaction("repeatable_read")

    def writing(self) -> contextlib.AbstractAsyncContextManager[PostgresqlConnection]:
        """See `SqlEngine`."""
        return self._transaction(None)

    async def drop_connections(self) -> None:
        """See `SqlEngine`. No goodbyes: one could hang on a dead network."""
        await self._pool.drop_all()

    @contextlib.asynccontextmanager
    async def _transaction(
        self, isolation: Literal["repeatable_read"] | None
    ) -> AsyncIterator[PostgresqlConnection]:
        async with self._pool.connection() as raw:
            transaction = raw.transaction(isolation=isolation)
            await transaction.start()
            try:
                yield PostgresqlConnection(raw)
            except Exception:
                if not raw.is_closed():
                    with contextlib.suppress(*LOST):  # then it is not kept, and the server ends it
                        await transaction.rollback()
                raise
            await transaction.commit()

    def _is_reusable(self, raw: Connection) -> bool:
        return not (raw.is_closed() or raw.is_in_transaction() or self._connector.is_pooled)


async def _lives(raw: Connection) -> bool:
    try:
        await ping(raw)
    except LOST:
        return False
    return True


async def _close(raw: Connection) -> None:
    raw.terminate()
