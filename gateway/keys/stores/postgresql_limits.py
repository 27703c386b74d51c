"""Where gateways that share a PostgreSQL divide their keys' limits: one row for each gateway.

A gateway writes its row and reads the others' in one statement, about once a second. The table has
no log: after a crash of the server it is empty, and is full again within a second. It is beside the
keys' and touches nothing of theirs: nobody is woken by it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Final

import asyncpg

from gateway.keys.errors import StoreUnavailableError
from gateway.keys.limit_board import FRESH_S
from gateway.keys.stores.postgresql_connector import Connector
from gateway.keys.stores.postgresql_errors import READ_ONLY

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

ANSWER_S: Final = 2.0
"""So long the server may take; what it says later is too old to be of use."""
_CREATE: Final = """
CREATE UNLOGGED TABLE IF NOT EXISTS gateway_limit_reports (
    gateway text PRIMARY KEY,
    written_at timestamptz NOT NULL,
    report bytea NOT NULL
) WITH (fillfactor = 50);
DELETE FROM gateway_limit_reports WHERE written_at < now() - interval '1 hour'"""
_HAS_TABLE: Final = "SELECT to_regclass('gateway_limit_reports') IS NOT NULL"
_EXCHANGE: Final = """
WITH mine AS (
    INSERT INTO gateway_limit_reports (gateway, written_at, report) VALUES ($1, now(), $2)
    ON CONFLICT (gateway) DO UPDATE SET
        written_at = excluded.written_at, report = excluded.report
)
SELECT gateway, report FROM gateway_limit_reports
WHERE gateway <> $1 AND written_at > now() - make_interval(secs => $3)"""


class PostgresqlLimitBoard:
    """A `LimitBoard` in a database. `connector`, `translated`, `is_read_only` are the store's."""

    def __init__(
        self,
        connector: Connector,
        translated: Callable[[], contextlib.AbstractContextManager[None]],
        is_read_only: Callable[[], bool],
    ) -> None:
        self._connector = connector
        self._translated = translated
        self._is_read_only = is_read_only
        self._connection: Connection | None = None
        self._using = asyncio.Lock()

    async def exchange(self, name: str, report: bytes) -> Mapping[str, bytes]:
        """See `LimitBoard`."""
        if self._is_read_only():
            msg = f"{READ_ONLY}, and gateways can only share limits on the primary"
            raise StoreUnavailableError(msg)
        async with self._connected() as connection:
            rows = await connection.fetch(_EXCHANGE, name, report, FRESH_S)
        return {row["gateway"]: row["report"] for row in rows}

    async def leave(self, name: str) -> None:
        """See `LimitBoard`."""
        if not self._is_read_only():
            async with self._connected() as connection:
                await connection.execute(
                    "DELETE FROM gateway_limit_reports WHERE gateway = $1", name
                )

    async def close(self) -> None:
        """See `LimitBoard`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        async with self._using:
            try:
                with self._translated():
                    async with asyncio.timeout(ANSWER_S):
                        yield await self._living()
            except BaseException:
                await self.close()
                raise
            if self._connector.is_pooled:
                await self.close()

    async def _living(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            connection = self._connection = await self._connector.connect()
            if not await connection.fetchval(_HAS_TABLE):
                # Of two that make it at once one may fail, and tries again.
                await connection.execute(_CREATE)
        return self._connection
