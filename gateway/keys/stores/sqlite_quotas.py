"""What keys have used of their quotas on this host, in a SQLite file of the gateway's own.

Commits survive the end of the process; a power loss may cost the last seconds.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from gateway.keys.errors import StoreTooNewError
from gateway.keys.quota_store import QuotaUse, Totals
from gateway.keys.stores import sqlite_file
from gateway.keys.stores.sql import SqlConnection, fetch_value
from gateway.keys.stores.sqlite_engine import SqliteEngine

APPLICATION_ID: Final = 0x6F746B71
SCHEMA_VERSION: Final = 1

_CREATE: Final = """
CREATE TABLE gateway_key_quota_use (
    key_hash BLOB NOT NULL,
    period TEXT NOT NULL,
    requests BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    PRIMARY KEY (key_hash, period)
)"""
_ADD: Final = """
INSERT INTO gateway_key_quota_use (key_hash, period, requests, bytes) VALUES ($1, $2, $3, $4)
ON CONFLICT (key_hash, period) DO UPDATE SET
    requests = requests + excluded.requests, bytes = bytes + excluded.bytes"""
_TOTALS: Final = """
SELECT key_hash, period, requests, bytes FROM gateway_key_quota_use WHERE period IN ($1, $2)"""
_TIDY: Final = "DELETE FROM gateway_key_quota_use WHERE substr(period, 1, 7) < $1"
_KEPT_S: Final = 62 * 86_400


class SqliteQuotaStore:
    """A `QuotaStore` in one file, made when it is first needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine: SqliteEngine | None = None

    async def add(
        self, used: Mapping[bytes, QuotaUse], asked: Collection[bytes], periods: Collection[str]
    ) -> Totals:
        """See `QuotaStore`."""
        day, month = periods
        engine = await self._opened()
        with sqlite_file.translated(self._path):
            async with engine.writing() as connection:
                await connection.execute_many(
                    _ADD,
                    [(key, period, *use) for key, use in used.items() for period in periods],
                )
                rows = await connection.fetch(_TOTALS, day, month)
        wanted = set(asked)
        return {
            (key, period): QuotaUse(requests, size)
            for key, period, requests, size in rows
            if key in wanted
        }

    async def close(self) -> None:
        """See `QuotaStore`."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.drop_connections()

    async def _opened(self) -> SqliteEngine:
        if self._engine is not None:
            return self._engine
        if not self._path.exists():
            await sqlite_file.create_file(self._path, APPLICATION_ID, _create)
        sqlite_file.check_file(self._path, APPLICATION_ID, own_only=True)
        engine = SqliteEngine(self._path, synchronous="NORMAL")
        try:
            with sqlite_file.translated(self._path):
                async with engine.writing() as connection:
                    _check(self._path, await fetch_value(connection, "PRAGMA user_version"))
                    oldest = time.strftime("%Y-%m", time.gmtime(time.time() - _KEPT_S))
                    await connection.execute(_TIDY, oldest)
        except BaseException:
            await engine.drop_connections()
            raise
        self._engine = engine
        return engine


async def _create(connection: SqlConnection) -> None:
    await connection.execute(_CREATE)
    await connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _check(path: Path, version: int) -> None:
    if version != SCHEMA_VERSION:
        msg = f"{path}: another version of the gateway wrote this file"
        raise StoreTooNewError(msg)
