"""Keys in PostgreSQL: several gateways on several machines share one database.

The tables and statements are those of every SQL store; here stands what PostgreSQL has of its own:
how to connect, how changes are noticed, what its errors mean. A change is announced with NOTIFY in
the transaction that makes it, only as a hint: a gateway that misses it (a connection that died, a
pooler between) looks at the database every `POLL_S` anyway. A server that has not answered a look
within `OVERDUE_S` is away: all connections are dropped, because what hangs on them may hang for
minutes after the network is back. How connections are made, and what a pooler changes:
`postgresql_connector`. A read-only server (a standby) is read like any other.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import asyncpg

from gateway.keys.confirmations.notifications import (
    NotificationPublisher,
    wait_for_gateways,
    wait_for_rows,
)
from gateway.keys.errors import StoreError, StoreMissingError, StoreUnavailableError
from gateway.keys.store import Confirmation
from gateway.keys.stores import schema
from gateway.keys.stores.database import Transactions
from gateway.keys.stores.postgresql_connector import Connector, location_of
from gateway.keys.stores.postgresql_engine import PostgresqlEngine
from gateway.keys.stores.postgresql_errors import READ_ONLY, translated
from gateway.keys.stores.postgresql_limits import PostgresqlLimitBoard, PostgresqlQuotaStore
from gateway.keys.stores.postgresql_side import SideConnection
from gateway.keys.stores.postgresql_usage import PostgresqlUsage
from gateway.keys.stores.postgresql_watch import CHANNEL, POLL_S, PostgresqlWatch
from gateway.keys.stores.sql import SqlConnection, SqlEngine, fetch_value
from gateway.keys.stores.sql_feed import SqlFeed
from gateway.keys.stores.sql_repository import SqlRepository
from gateway.keys.stores.sql_store import SqlStore

_MIGRATION_LOCK: Final = 0x6F746B65
"""Advisory lock while the tables are made or migrated."""

_LOCK_TIMEOUT: Final = "4s"
"""How long a writer waits for other gateways' transactions."""
_IDLE_IN_TRANSACTION: Final = "15s"
"""After this the server ends a transaction of a gateway that froze while it held the lock."""
_BOUNDS: Final = (
    "SELECT set_config('lock_timeout', $1, true),"  # true: for this transaction
    " set_config('idle_in_transaction_session_timeout', $2, true)"
)


def postgresql_store(url: str, *, poll_s: float = POLL_S) -> SqlStore:
    """Make a store of the keys in the PostgreSQL database at `url`."""
    database = PostgresqlDatabase(url, poll_s=poll_s)
    transactions = Transactions(database)
    return SqlStore(
        SqlFeed(transactions),
        SqlRepository(transactions),
        database.usage(),
        database,
        limit_board=PostgresqlLimitBoard(database.side),
        quota_store=PostgresqlQuotaStore(database.side),
        has_snapshot=True,
    )


class PostgresqlDatabase:
    """A `Database` on a server, and the `Confirmations` of those who share it."""

    name = "postgresql"
    is_remote = True

    def __init__(self, url: str, *, poll_s: float = POLL_S) -> None:
        self.location = location_of(url)
        self._connector = Connector(url)
        self.side = SideConnection(self._connector, self.translated, lambda: self.is_read_only)
        """For limits and quotas that gateways share."""
        self._watch = PostgresqlWatch(self._connector, self.translated, poll_s)

    @property
    def generation(self) -> int:
        """See `Database`."""
        return self._watch.generation

    @property
    def is_read_only(self) -> bool:
        """See `Database`."""
        return self._watch.is_read_only

    @property
    def is_cut_off(self) -> bool:
        """See `Database`."""
        return self._watch.is_cut_off

    async def open(self, *, create: bool) -> SqlEngine:
        """See `Database`. `create` makes missing tables; the database itself must exist."""
        await self._watch.look_once()
        engine = PostgresqlEngine(self._connector)
        try:
            await self._bring_up_to_date(engine, create=create)
        except BaseException:
            await engine.drop_connections()
            raise
        return engine

    async def close(self) -> None:
        """See `Database`. No goodbyes but one: they could hang on a dead network."""
        await self._watch.close()
        self._connector.drop_all()

    def check_place(self) -> None:
        """See `Database`: the server knows what it has stored."""

    async def begun(self, connection: SqlConnection) -> None:
        """See `Database`: no lock is waited for, or held by who is frozen, for long."""
        await connection.execute(_BOUNDS, _LOCK_TIMEOUT, _IDLE_IN_TRANSACTION)

    async def announce(self, connection: SqlConnection) -> None:
        """See `Database`: sent to all gateways when the transaction commits."""
        await connection.execute("SELECT pg_notify($1, '')", CHANNEL)

    def usage(self) -> PostgresqlUsage:
        """Make what keeps usage: a table beside, over a connection of its own."""
        return PostgresqlUsage(self._connector, self.translated, lambda: self.is_read_only)

    def publisher(self, on_problem: Callable[[str], None]) -> NotificationPublisher:
        """See `Confirmations`. It works over the connections that `wait_for_change` makes."""
        self._watch.publisher.begin(on_problem)
        return self._watch.publisher

    async def wait(self, revision: int, timeout_s: float) -> Confirmation:
        """See `Confirmations`, over connections of its own. Raises `StoreError`."""
        with self.translated():
            async with self._connected() as connection:
                if not self._connector.is_pooled:
                    return await wait_for_gateways(connection, revision, timeout_s)
            return await wait_for_rows(self._connected, revision, timeout_s)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await self._connector.connect()
        try:
            yield connection
        finally:
            connection.terminate()

    async def wait_for_change(self, engine: SqlEngine) -> None:  # noqa: ARG002 - others need it
        """See `Database`."""
        await self._watch.wait()

    def answering(self) -> contextlib.AbstractAsyncContextManager[None]:
        """See `Database`."""
        return self._watch.answering()

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """See `Database`."""
        return translated(self.location)

    async def _bring_up_to_date(self, engine: SqlEngine, *, create: bool) -> None:
        with self.translated(), _located(self.location):
            async with engine.reading() as connection:
                if await _is_current(connection, create=create):
                    return
            async with engine.writing() as connection:
                await self.begun(connection)
                # Of two gateways that start at once one makes the tables, the other finds them.
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
                await schema.migrate(connection, schema.POSTGRESQL)


async def _is_current(connection: SqlConnection, *, create: bool) -> bool:
    """Whether the tables are the newest ones; else whoever asks is to make them."""
    has_store = await schema.has_store(connection, schema.POSTGRESQL)
    if has_store and await schema.is_current(connection):
        return True
    if await fetch_value(connection, "SHOW transaction_read_only") == "on":
        what = "is older than this gateway" if has_store else "is not there yet"
        msg = f"the key store {what}, and {READ_ONLY}: start a gateway on the primary first"
        raise StoreUnavailableError(msg)
    if not has_store and not create:
        msg = (
            "there is no key store in this database; `gateway serve` and `gateway keys create`"
            " make one (is the url right?)"
        )
        raise StoreMissingError(msg)
    return False


@contextlib.contextmanager
def _located(location: str) -> Iterator[None]:
    """Say in errors of the tables' versions which database they are of."""
    try:
        yield
    except StoreError as error:
        text = str(error)
        raise type(error)(text if text.startswith(location) else f"{location}: {text}") from error
