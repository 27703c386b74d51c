"""A connection for what gateways keep in PostgreSQL beside the keys: limits and quotas.

It is kept open, except behind a pooler. What has not come within `ANSWER_S` is of no use any more:
the connection is dropped, and the next call makes another one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

import asyncpg

from gateway.keys.errors import StoreUnavailableError
from gateway.keys.stores.postgresql_connector import Connector
from gateway.keys.stores.postgresql_errors import READ_ONLY

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

ANSWER_S: Final = 2.0
_HAS_TABLES: Final = (
    "SELECT to_regclass('gateway_limit_reports') IS NOT NULL"
    " AND to_regclass('gateway_key_quota_use') IS NOT NULL"
)
_CREATE: Final = """
CREATE UNLOGGED TABLE IF NOT EXISTS gateway_limit_reports (
    gateway text PRIMARY KEY,
    written_at timestamptz NOT NULL,
    report bytea NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS gateway_key_quota_use (
    key_hash bytea NOT NULL,
    period text NOT NULL,
    requests bigint NOT NULL,
    bytes bigint NOT NULL,
    PRIMARY KEY (key_hash, period)
) WITH (fillfactor = 70)"""
_TIDY: Final = """
DELETE FROM gateway_limit_reports WHERE written_at < now() - interval '1 hour';
DELETE FROM gateway_key_quota_use
WHERE left(period, 7) < to_char((now() - interval '62 days') AT TIME ZONE 'UTC', 'YYYY-MM')"""


class SideConnection:
    """One connection for all who use it in turn; its arguments are the store's."""

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
        self._is_tidy = False
        self._using = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def using(self) -> AsyncIterator[Connection]:
        """Use the connection for some statements. Raises `StoreError`."""
        if self._is_read_only():
            msg = f"{READ_ONLY}, and limits can only be shared through the primary"
            raise StoreUnavailableError(msg)
        async with self._using:
            try:
                with self._translated():
                    async with asyncio.timeout(ANSWER_S):
                        yield await self._living()
            except BaseException:
                self.close()
                raise
            if self._connector.is_pooled:
                self.close()

    def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _living(self) -> Connection:
        connection = self._connection
        if connection is not None and not connection.is_closed():
            return connection
        connection = self._connection = await self._connector.connect()
        if not await connection.fetchval(_HAS_TABLES):
            # Of two that make them at once one may fail, and tries again.
            await connection.execute(_CREATE)
        if not self._is_tidy:
            await connection.execute(_TIDY)
            self._is_tidy = True
        return connection
