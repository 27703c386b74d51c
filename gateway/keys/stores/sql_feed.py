"""Reading keys from an SQL database: SQLite (`stores.sqlite`) or PostgreSQL (`stores.postgresql`).

Statements are neutral; what differs between databases stands behind `database.Database`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.keys.errors import StoreDamagedError
from gateway.keys.record import KeyRecord
from gateway.keys.store import Changes
from gateway.keys.stores.database import Transactions
from gateway.keys.stores.rows import COLUMNS, read, records_of
from gateway.keys.stores.schema import keys_table, store_table


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
            newer = sa.select(*COLUMNS).where(keys_table.c.revision > since)
            return Changes(head.revision, await read(connection, newer))

    async def everything(self) -> AsyncGenerator[Changes, None]:
        """See `KeyFeed`."""
        async with self._transactions.reading() as connection:
            head = await self._head(connection)
            self._read_from = (head.store_id, self._database.generation)
            self._transactions.only = head.store_id
            yield Changes(head.revision, [])
            async for rows in self._database.rows(connection, sa.select(*COLUMNS)):
                yield Changes(head.revision, records_of(rows))

    async def wait_for_change(self) -> None:
        """See `KeyFeed`."""
        await self._database.wait_for_change(self._transactions.engine)

    async def live(self, after: int = 0, limit: int | None = None) -> list[KeyRecord]:
        """See `KeyFeed`."""
        query = sa.select(*COLUMNS).where(keys_table.c.deleted_at_ms.is_(None))
        query = query.where(keys_table.c.id > after).order_by(keys_table.c.id).limit(limit)
        async with self._transactions.reading() as connection:
            return await read(connection, query)

    async def purge(self, deleted_before_ms: int) -> None:
        """See `KeyFeed`."""
        if self._database.is_read_only:
            return
        is_due = keys_table.c.deleted_at_ms < deleted_before_ms
        newest = sa.select(sa.func.max(keys_table.c.revision)).where(is_due)
        async with self._transactions.reading() as connection:
            if (await connection.execute(newest)).scalar() is None:
                return  # the usual case: no write lock is taken for nothing
        async with self._transactions.transaction() as connection:
            # The row is locked by an update of itself: a purge makes no revision.
            await connection.execute(
                sa.update(store_table).values(purged_revision=store_table.c.purged_revision)
            )
            revision = (await connection.execute(newest)).scalar() or 0
            await connection.execute(sa.delete(keys_table).where(is_due))
            await connection.execute(
                sa.update(store_table)
                .where(store_table.c.purged_revision < revision)
                .values(purged_revision=revision)
            )

    async def _head(self, connection: AsyncConnection) -> sa.Row[Any]:
        head = (await connection.execute(sa.select(store_table))).one_or_none()
        if head is None:
            msg = f"{self.location}: its table gateway_key_store is empty; restore it from a backup"
            raise StoreDamagedError(msg)
        self._transactions.check_id(head.store_id)
        return head
