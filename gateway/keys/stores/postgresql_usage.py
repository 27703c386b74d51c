"""Usage of keys in PostgreSQL, where several gateways add to the same sums.

Each gateway adds what it gathered in one statement; sums are added up by the database, so none is
lost and none overwritten. Rows are taken in the order of their ids, so that two gateways never wait
for each other in a circle. The table is beside the keys' and touches nothing of theirs: nobody is
woken by it. A server that is away makes a write fail, and the next one connects again.

A write whose acknowledgement is lost may have been made, or may yet be made by a server process
that has not noticed. So each write has a number, which the same statement notes beside the
gateway's name and which must be greater than the one that stands there. Before it writes again, a
gateway in doubt asks which number stands there and, in the same statement, puts a greater one: what
was not made by then never will be. Numbers of writes are even, those of doubts odd.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from gateway.keys.daily_usage import DailyUsage, PeriodUsage, UsageQuery
from gateway.keys.errors import StoreDamagedError, StoreUnavailableError
from gateway.keys.record import KeyUsage
from gateway.keys.stores import usage_tables
from gateway.keys.stores.postgresql_connector import LOST, Connector, ping
from gateway.keys.stores.postgresql_errors import READ_ONLY

_TABLES: Final = f"""
{";".join(usage_tables.CREATE)};
CREATE TABLE IF NOT EXISTS gateway_key_usage (
    key_id text PRIMARY KEY,
    requests bigint NOT NULL,
    bytes bigint NOT NULL,
    refusals bigint NOT NULL,
    last_used_ms bigint NOT NULL
) WITH (fillfactor = 70);
CREATE TABLE IF NOT EXISTS gateway_key_usage_writers (
    writer text PRIMARY KEY,
    number bigint NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now()
);
DELETE FROM gateway_key_usage_writers WHERE written_at < now() - interval '30 days'"""  # noqa: S608 - our own names


def _many(table: str, columns: Sequence[str], types: Sequence[str], keys: int, first: int) -> str:
    """Write an INSERT of arrays, one for each column, the first of them `$first`."""
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, first))
    names = ", ".join(columns)
    source = (
        f"SELECT * FROM unnest({arrays}) AS new ({names})"  # noqa: S608 - our own names
        f" WHERE EXISTS (SELECT FROM first_time) ORDER BY {', '.join(columns[:keys])}"
    )
    return usage_tables.added(table, columns, source, keys)


_DAY_TYPES: Final = ("text", "text", "bigint", "bigint", "bigint")
_ITEM_TYPES: Final = (
    *("text", "text", "text", "bigint", "bigint", "bigint"),
    *["double precision"] * (len(usage_tables.ITEM_COLUMNS) - 6),
)
_FIRST_OF_DAYS: Final = 8
_FIRST_OF_ITEMS: Final = _FIRST_OF_DAYS + len(_DAY_TYPES)
_ADD: Final = f"""
WITH first_time AS (
    INSERT INTO gateway_key_usage_writers AS old (writer, number) VALUES ($6, $7)
    ON CONFLICT (writer) DO UPDATE SET number = excluded.number, written_at = now()
        WHERE old.number < excluded.number
    RETURNING 1
), by_day AS (
    {_many(usage_tables.TRAFFIC, usage_tables.TRAFFIC_COLUMNS, _DAY_TYPES, 2, _FIRST_OF_DAYS)}
), of_items AS (
    {_many(usage_tables.ITEMS, usage_tables.ITEM_COLUMNS, _ITEM_TYPES, 3, _FIRST_OF_ITEMS)}
)
INSERT INTO gateway_key_usage AS old (key_id, requests, bytes, refusals, last_used_ms)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
    AS new (key_id, requests, bytes, refusals, last_used_ms)
WHERE EXISTS (SELECT FROM first_time) ORDER BY key_id
ON CONFLICT (key_id) DO UPDATE SET
    requests = old.requests + excluded.requests,
    bytes = old.bytes + excluded.bytes,
    refusals = old.refusals + excluded.refusals,
    last_used_ms = greatest(old.last_used_ms, excluded.last_used_ms)"""  # noqa: S608 - our own names
_SETTLE: Final = """
INSERT INTO gateway_key_usage_writers AS old (writer, number) VALUES ($1, $2 + 1)
ON CONFLICT (writer) DO UPDATE SET number = CASE old.number WHEN $2 THEN $2 ELSE $2 + 1 END
RETURNING number"""
_LOAD: Final = (
    "SELECT key_id, requests, bytes, refusals, last_used_ms FROM gateway_key_usage"
    " WHERE $1::text[] IS NULL OR key_id = ANY($1)"
)

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


class PostgresqlUsage:
    """A `UsageStore` in a database. `connector`, `translated`, `is_read_only` are the key store's.

    Behind a pooler no connection is kept. A read-only database is not asked to write.
    """

    def __init__(
        self,
        connector: Connector,
        translated: Callable[[], contextlib.AbstractContextManager[None]],
        is_read_only: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_read_only = is_read_only
        self._connector = connector
        self._translated = translated
        self._connection: Connection | None = None
        self._creates = False
        self._has_tables = False
        self._writer = secrets.token_hex(8)
        self._number = 0
        self._doubtful = _Batch()
        """What was to be written as `_number`, as long as nobody has said that it was."""
        self._written = _Batch()
        """What was written of that for which `add` raised."""
        self._using = asyncio.Lock()

    async def open(self, *, create: bool) -> None:
        """Say whether the table may be made. The server is asked when there is something to do."""
        self._creates = create

    async def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def load(self, key_ids: Collection[str] | None = None) -> dict[str, KeyUsage]:
        """Read all sums, or those of some keys. Raises `StoreError`."""
        try:
            async with self._connected() as connection:
                rows = await connection.fetch(_LOAD, None if key_ids is None else list(key_ids))
        except StoreDamagedError:
            if self._creates and not self._is_read_only():
                raise
            return {}  # no gateway has written any yet
        return {row["key_id"]: KeyUsage(*tuple(row)[1:]) for row in rows}

    async def periods(self, query: UsageQuery) -> list[PeriodUsage]:
        """See `UsageStore`. Raises `StoreError`."""
        try:
            async with self._connected() as connection:
                statement, values = usage_tables.traffic_query(query)
                traffic = await connection.fetch(statement, *values)
                statement, values = usage_tables.items_query(
                    query, sorted({row["key_id"] for row in traffic}) or [""]
                )
                items = await connection.fetch(statement, *values)
        except StoreDamagedError:
            if self._creates and not self._is_read_only():
                raise
            return []  # no gateway has written any yet
        return list(usage_tables.periods(map(tuple, traffic), map(tuple, items)))

    async def add(self, usage: Mapping[str, KeyUsage], daily: DailyUsage | None = None) -> None:
        """Add to the sums, in one statement. Raises `StoreError`.

        What it raised for must be part of what is added next.
        """
        if self._is_read_only():
            msg = f"{READ_ONLY}: it is gathered until that is over"
            raise StoreUnavailableError(msg)
        async with self._connected() as connection:
            await self._settle(connection)
            self._number += 2
            rest = self._doubtful = _Batch(dict(usage), daily or DailyUsage()).less(self._written)
            await connection.execute(
                _ADD,
                *_columns(rest.sums, 5),
                self._writer,
                self._number,
                *_columns(rest.daily.traffic, len(_DAY_TYPES)),
                *_columns(rest.daily.items, len(_ITEM_TYPES)),
            )
            self._doubtful, self._written = _Batch(), _Batch()

    async def forget_days(self, before: str) -> None:
        """See `UsageStore`. Raises `StoreError`."""
        if self._is_read_only():
            return
        async with self._connected() as connection:
            for table in (usage_tables.TRAFFIC, usage_tables.ITEMS):
                await connection.execute(f"DELETE FROM {table} WHERE day < $1", before)  # noqa: S608 - our own names

    async def _settle(self, connection: Connection) -> None:
        """Learn whether what is in doubt was written; what was not never will be."""
        if self._doubtful:
            number = await connection.fetchval(_SETTLE, self._writer, self._number)
            if number == self._number:
                self._written.add(self._doubtful)
            self._doubtful = _Batch()

    async def forget(self, key_ids: Collection[str]) -> None:
        """Drop the sums of keys that no longer exist. Raises `StoreError`."""
        if self._is_read_only():
            return
        async with self._connected() as connection:
            await connection.execute(
                "DELETE FROM gateway_key_usage WHERE key_id = ANY($1::text[])", list(key_ids)
            )

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        async with self._using:
            try:
                with self._translated():
                    yield await self._living()
            except BaseException:
                self._has_tables = False
                await self.close()
                raise
            if self._connector.is_pooled:
                await self.close()

    async def _living(self) -> Connection:
        connection = self._connection
        if connection is not None and not connection.is_closed():
            with contextlib.suppress(*LOST):
                await ping(connection)
                return connection
        connection = self._connection = await self._connector.connect()
        if self._creates and not self._has_tables and not self._is_read_only():
            # Of two that make them at once one may still fail, and tries again.
            await connection.execute(_TABLES)
            self._has_tables = True
        return connection


@dataclass(slots=True)
class _Batch:
    """What one write adds."""

    sums: dict[str, KeyUsage] = field(default_factory=dict)
    daily: DailyUsage = field(default_factory=DailyUsage)

    def __bool__(self) -> bool:
        return bool(self.sums or self.daily)

    def add(self, more: _Batch) -> None:
        """Add all of another one."""
        for key_id, sums in more.sums.items():
            self.sums[key_id] = sums.plus(self.sums.get(key_id, KeyUsage()))
        self.daily.add(more.daily)

    def less(self, part: _Batch) -> _Batch:
        """Return what remains to be written where a part was."""
        sums = {
            key_id: each.minus(part.sums.get(key_id, KeyUsage()))
            for key_id, each in self.sums.items()
        }
        return _Batch(sums, self.daily.less(part.daily))


def _columns(rows: Mapping[Any, Sequence[Any]], count: int) -> list[list[Any]]:
    """Turn rows into an array for each column; a row's place is one value or several."""
    flat = ((*(where if isinstance(where, tuple) else (where,)), *it) for where, it in rows.items())
    return list(map(list, zip(*flat, strict=True))) or [[] for _ in range(count)]
