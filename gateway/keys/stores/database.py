"""What differs between SQL databases, and the transactions in which a store reads and writes.

Every write first takes the next revision from the one locked row of `gateway_key_store`. That
orders all writers, so what a transaction looks up afterwards stays true until its commit, and
revisions become visible in their order: a reader that has seen revision n never misses one below
it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final, Protocol

from gateway.keys.errors import AnotherStoreError, StoreUnavailableError
from gateway.keys.stores.sql import SqlConnection, SqlEngine

_NEXT_REVISIONS: Final = (
    "UPDATE gateway_key_store SET revision = revision + $1 RETURNING revision, store_id"
)


class Database(Protocol):
    """What differs between SQL databases: where it is, how to open it and to notice changes."""

    name: str
    """The `store` label of metrics."""
    location: str
    """Where it is, for people; without secrets."""
    is_remote: bool
    """See `KeyFeed.is_remote`."""

    @property
    def generation(self) -> int:
        """Changes when the database was replaced by another one, so that all must be read again."""

    @property
    def is_read_only(self) -> bool:
        """See `KeyFeed`."""

    @property
    def is_cut_off(self) -> bool:
        """See `KeyFeed`."""

    async def open(self, *, create: bool) -> SqlEngine:
        """Connect, with tables of the newest version; `create` makes a missing database."""

    async def close(self) -> None:
        """Release everything but the engine's connections, which `Transactions` drops."""

    def check_place(self) -> None:
        """Raise `StoreError` if what is written would not be stored where others find it."""

    async def begun(self, connection: SqlConnection) -> None:
        """Bound, at the beginning of a transaction that writes, how long it waits for others."""

    async def announce(self, connection: SqlConnection) -> None:
        """Notify all gateways of a change, within the transaction that makes it."""

    async def wait_for_change(self, engine: SqlEngine) -> None:
        """See `KeyFeed.wait_for_change`."""

    def answering(self) -> contextlib.AbstractAsyncContextManager[None]:
        """While something is read, end it with an error soon after the database is out of reach."""

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """Turn errors of the driver into `StoreError`s."""


class Transactions:
    """One open database, shared by a store's feed and repository."""

    def __init__(self, database: Database) -> None:
        self.database: Final = database
        self.only: str | None = None
        """The id of the only store that may be used; None = any."""
        self._engine: SqlEngine | None = None

    @property
    def engine(self) -> SqlEngine:
        """The engine of the open database. Raises `StoreUnavailableError` when it is not open."""
        if self._engine is None:
            msg = f"{self.database.location}: it is not open: it could not be reached yet"
            raise StoreUnavailableError(msg)
        return self._engine

    async def open(self, *, create: bool) -> None:
        """Connect; `create` makes a missing database. Raises `StoreError`."""
        self._engine = await self.database.open(create=create)

    async def close(self) -> None:
        """Release all connections."""
        await self.database.close()
        if self._engine is not None:
            await self._engine.drop_connections()
            self._engine = None

    def check_id(self, store_id: str) -> None:
        """Raise `AnotherStoreError` unless the store with this id may be used."""
        if self.only is not None and store_id != self.only:
            raise AnotherStoreError(another_store(self.database.location))

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[SqlConnection]:
        """Read, all of one moment. Raises `StoreError`."""
        with self.database.translated():
            async with self.database.answering(), self.engine.reading() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqlConnection]:
        """Begin a transaction that makes no revision. Raises `StoreError`."""
        with self.database.translated():
            async with self.engine.writing() as connection:
                await self.database.begun(connection)
                yield connection

    @contextlib.asynccontextmanager
    async def writing(self, count: int = 1) -> AsyncIterator[tuple[SqlConnection, int]]:
        """Begin a transaction that holds the next `count` revisions, and with them the right to
        write. Returns the connection and the last of them.

        Raises `StoreError`; after the commit too, if it may not be stored.
        """
        self.database.check_place()
        async with self.transaction() as connection:
            ((revision, store_id),) = await connection.fetch(_NEXT_REVISIONS, count)
            self.check_id(store_id)
            yield connection, revision
            await self.database.announce(connection)
        self.database.check_place()


def another_store(location: str) -> str:
    """Say that a store was replaced by one with another id."""
    return (
        f"{location}: another key store was put in its place, which is not used: put the one back"
        " that was there"
    )
