"""Usage of keys in a SQLite file.

It is a file of its own beside the store (`STORE.usage`): gateways that watch the store would wake
at every write, and losing it loses no key. Commits survive the end of the process; a power loss may
cost the last seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from gateway.keys.daily_usage import DailyUsage, PeriodUsage, UsageQuery
from gateway.keys.errors import StoreTooNewError
from gateway.keys.record import KeyUsage
from gateway.keys.stores import sqlite_file, usage_tables
from gateway.keys.stores.sql import SqlConnection, fetch_value, places
from gateway.keys.stores.sqlite_engine import SqliteEngine

APPLICATION_ID: Final = 0x6F746B75
SCHEMA_VERSION: Final = 1

_COLUMNS: Final = "key_id, requests, bytes, refusals, last_used_ms"
_CREATE: Final = """
CREATE TABLE gateway_key_usage (
    key_id TEXT NOT NULL,
    requests BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    refusals BIGINT NOT NULL,
    last_used_ms BIGINT NOT NULL,
    PRIMARY KEY (key_id)
)"""
_LOAD: Final = f"SELECT {_COLUMNS} FROM gateway_key_usage"  # noqa: S608 - our own names
_ADD: Final = f"""
INSERT INTO gateway_key_usage ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (key_id) DO UPDATE SET
    requests = requests + excluded.requests,
    bytes = bytes + excluded.bytes,
    refusals = refusals + excluded.refusals,
    last_used_ms = max(last_used_ms, excluded.last_used_ms)"""  # noqa: S608 - our own names
_ADD_DAYS: Final = usage_tables.added(
    usage_tables.TRAFFIC,
    usage_tables.TRAFFIC_COLUMNS,
    f"VALUES {places(1, len(usage_tables.TRAFFIC_COLUMNS))}",
    2,
)
_ADD_ITEMS: Final = usage_tables.added(
    usage_tables.ITEMS,
    usage_tables.ITEM_COLUMNS,
    f"VALUES {places(1, len(usage_tables.ITEM_COLUMNS))}",
    3,
)
_AT_ONCE: Final = 500
"""Keys that one query names; SQLite has a limit."""


def path_for(store: Path) -> Path:
    """Where the usage of the keys in `store` is kept."""
    return store.with_name(store.name + ".usage")


class SqliteUsage:
    """A `UsageStore` in one file. Several gateways may add to it."""

    def __init__(self, path: Path, *, own_only: bool = False) -> None:
        self.path = path
        self._own_only = own_only
        self._engine: SqliteEngine | None = None
        self._creates = True
        self._has_days = False

    async def open(self, *, create: bool) -> None:
        """See `UsageStore`. Raises `StoreError`."""
        self._creates = create
        if not self.path.exists():
            if not create:
                return
            await sqlite_file.create_file(self.path, APPLICATION_ID, _create)
        sqlite_file.check_file(self.path, APPLICATION_ID, own_only=self._own_only)
        engine = SqliteEngine(self.path, synchronous="NORMAL")
        try:
            await self._check_version(engine)
            await self._find_days(engine)
        except BaseException:
            await engine.drop_connections()
            raise
        self._engine = engine

    async def _check_version(self, engine: SqliteEngine) -> None:
        with sqlite_file.translated(self.path):
            async with engine.reading() as connection:
                version = await fetch_value(connection, "PRAGMA user_version")
        if version != SCHEMA_VERSION:
            msg = f"{self.path}: another version of the gateway wrote this file"
            raise StoreTooNewError(msg)

    async def _find_days(self, engine: SqliteEngine) -> None:
        """Make the tables by day in a file that an older gateway has made."""
        find = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ($1, $2)"
        with sqlite_file.translated(self.path):
            async with engine.writing() as connection:
                tables = (usage_tables.TRAFFIC, usage_tables.ITEMS)
                self._has_days = await fetch_value(connection, find, *tables) == len(tables)
                if self._creates and not self._has_days:
                    await _create_days(connection)
                    self._has_days = True

    async def close(self) -> None:
        """Let go of the file."""
        if self._engine is not None:
            await self._engine.drop_connections()
            self._engine = None

    async def load(self, key_ids: Collection[str] | None = None) -> dict[str, KeyUsage]:
        """Read all sums, or those of some keys. Raises `StoreError`."""
        if self._engine is None and not self._creates:
            return {}  # no gateway has written any yet
        with sqlite_file.translated(self.path):
            async with self._opened().reading() as connection:
                if key_ids is None:
                    rows = list(await connection.fetch(_LOAD))
                else:
                    rows = []
                    asked = list(key_ids)
                    for start in range(0, len(asked), _AT_ONCE):
                        names = asked[start : start + _AT_ONCE]
                        places = ", ".join(f"${number}" for number in range(1, len(names) + 1))
                        rows += await connection.fetch(
                            f"{_LOAD} WHERE key_id IN ({places})", *names
                        )
        return {key_id: KeyUsage(*sums) for key_id, *sums in rows}

    async def periods(self, query: UsageQuery) -> list[PeriodUsage]:
        """See `UsageStore`. Raises `StoreError`."""
        if not self._has_days:
            return []  # no gateway has written any yet
        with sqlite_file.translated(self.path):
            async with self._opened().reading() as connection:
                statement, values = usage_tables.traffic_query(query)
                traffic = list(await connection.fetch(statement, *values))
                statement, values = usage_tables.items_query(
                    query, sorted({key_id for _, key_id, *_ in traffic})
                )
                items = await connection.fetch(statement, *values)
        return list(usage_tables.periods(map(tuple, traffic), map(tuple, items)))

    async def add(self, usage: Mapping[str, KeyUsage], daily: DailyUsage | None = None) -> None:
        """Add to the sums, in one transaction. Raises `StoreError`, and then nothing was added."""
        daily = daily or DailyUsage()
        with sqlite_file.translated(self.path):
            async with self._opened().writing() as connection:
                await connection.execute_many(
                    _ADD, ((key_id, *sums) for key_id, sums in usage.items())
                )
                await connection.execute_many(
                    _ADD_DAYS, ((*where, *sums) for where, sums in daily.traffic.items())
                )
                await connection.execute_many(
                    _ADD_ITEMS, ((*where, *sums) for where, sums in daily.items.items())
                )

    async def forget_days(self, before: str) -> None:
        """See `UsageStore`. Raises `StoreError`."""
        with sqlite_file.translated(self.path):
            async with self._opened().writing() as connection:
                for table in (usage_tables.TRAFFIC, usage_tables.ITEMS):
                    await connection.execute(f"DELETE FROM {table} WHERE day < $1", before)  # noqa: S608 - our own names

    async def forget(self, key_ids: Collection[str]) -> None:
        """Drop the sums of keys that no longer exist. Raises `StoreError`."""
        with sqlite_file.translated(self.path):
            async with self._opened().writing() as connection:
                await connection.execute_many(
                    "DELETE FROM gateway_key_usage WHERE key_id = $1",
                    ((key_id,) for key_id in key_ids),
                )

    def _opened(self) -> SqliteEngine:
        if self._engine is None:
            msg = "the usage store is not open"
            raise RuntimeError(msg)
        return self._engine


async def _create(connection: SqlConnection) -> None:
    await connection.execute(_CREATE)
    await _create_days(connection)
    await connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


async def _create_days(connection: SqlConnection) -> None:
    for statement in usage_tables.CREATE:
        await connection.execute(statement)
