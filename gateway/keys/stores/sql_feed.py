"""Reading keys from an SQL database: SQLite (`stores.sqlite`) or PostgreSQL (`stores.postgresql`).

Statements are neutral; what differs between databases stands behind `database.Database`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, NamedTuple

from gateway.keys.errors import StoreDamagedError
from gateway.keys.record import KeyRecord
from gateway.keys.store import Changes
from gateway.keys.stores.database import Transactions
from gateway.keys.stores.rows import SELECT_KEYS, read, records_of
from gateway.keys.stores.sql import SqlConnection, fetch_value

_NEWER: Final = f"{SELECT_KEYS} WHERE revision > $1"
_LIVE: Final = f"{SELECT_KEYS} WHERE deleted_at_ms IS NULL AND id > $1 ORDER BY id"
_HEAD: Final = "SELECT store_id, revision, purged_revision FROM gateway_key_store"
_NEWEST_DUE: Final = "SELECT max(revision) FROM gateway_keys WHERE deleted_at_ms < $1"
_DELETE_DUE: Final = "DELETE FROM gateway_keys WHERE deleted_at_ms < $1"
_LOCK: Final = "UPDATE gateway_key_store SET purged_revision = purged_revision"
"""An update of the row by itself: a purge makes no revision."""
_PURGED: Final = "UPDATE gateway_key_store SET purged_revision = $1 WHERE purged_revision < $1"


class _Head(NamedTuple):
    """The one row of the store."""

    store_id: str
    revision: int
    purged_revision: int


class SqlFeed:
    """A `KeyFeed` of an SQL database."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._database = transactions.database
        self._read_from: tuple[str, int] | None = None
        """Store id and generation of what `everything` last read."""

    @property
    def name(self) -> str:
        """See `KeyFeed`."""
        return self._database.name

    @property
    def location(self) -> str:
        """See `KeyFeed`."""
        return self._database.location

    @property
    def is_remote(self) -> bool:
        """See `KeyFeed`."""
        return self._database.is_remote

    @property
    def is_read_only(self) -> bool:
        """See `KeyFeed`."""
        return self._database.is_read_only

    @property
    def is_cut_off(self) -> bool:
        """See `KeyFeed`."""
        return self._database.is_cut_off

    @property
    def store_id(self) -> str | None:
        """See `KeyFeed`."""
        return self._transactions.only

    def use_only(self, store_id: str) -> None:
        """See `KeyFeed`."""
        self._transactions.only = store_id

    async def open(self, *, create: bool) -> None:
        """See `KeyFeed`."""
        await self._transactions.open(create=create)

    async def close(self) -> None:
        """See `KeyFeed`."""
        await self._transactions.close()

    async def changes(self, since: int) -> Changes | None:
        """See `KeyFeed`."""
        async with self._transactions.reading() as connection:
            # The revision before the records: what is committed in between is read twice, not never
            head = await self._head(connection)
            is_other = (head.store_id, self._database.generation) != self._read_from
            if is_other or not head.purged_revision <= since <= head.revision:
                return None
            return Changes(head.revision, await read(connection, _NEWER, since))

    async def everything(self) -> AsyncGenerator[Changes, None]:
        """See `KeyFeed`."""
        async with self._transactions.reading() as connection:
            head = await self._head(connection)
            self._read_from = (head.store_id, self._database.generation)
            self._transactions.only = head.store_id
            yield Changes(head.revision, [])
            async with aclosing(connection.parts(SELECT_KEYS)) as parts:
                async for rows in parts:
                    yield Changes(head.revision, records_of(rows))

    async def wait_for_change(self) -> None:
        """See `KeyFeed`."""
        await self._database.wait_for_change(self._transactions.engine)

    async def live(self, after: int = 0, limit: int | None = None) -> list[KeyRecord]:
        """See `KeyFeed`."""
        async with self._transactions.reading() as connection:
            if limit is None:
                return await read(connection, _LIVE, after)
            return await read(connection, f"{_LIVE} LIMIT $2", after, limit)

    async def purge(self, deleted_before_ms: int) -> None:
        """See `KeyFeed`."""
        if self._database.is_read_only:
            return
        async with self._transactions.reading() as connection:
            if await fetch_value(connection, _NEWEST_DUE, deleted_before_ms) is None:
                return  # the usual case: no write lock is taken for nothing
        async with self._transactions.transaction() as connection:
            await connection.execute(_LOCK)
            revision = await fetch_value(connection, _NEWEST_DUE, deleted_before_ms) or 0
            await connection.execute(_DELETE_DUE, deleted_before_ms)
            await connection.execute(_PURGED, revision)

    async def _head(self, connection: SqlConnection) -> _Head:
        rows = await connection.fetch(_HEAD)
        if not rows:
            msg = f"{self.location}: its table gateway_key_store is empty; restore it from a backup"
            raise StoreDamagedError(msg)
        head = _Head(*rows[0])
        self._transactions.check_id(head.store_id)
        return head
