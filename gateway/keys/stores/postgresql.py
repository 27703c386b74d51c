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
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import asyncpg
import sqlalchemy as sa
from sqlalchemy.engine import AdaptedConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, NullPool

from gateway.keys.confirmations.notifications import (
    NotificationPublisher,
    wait_for_gateways,
    wait_for_rows,
)
from gateway.keys.errors import StoreError, StoreMissingError, StoreUnavailableError
from gateway.keys.store import Confirmation
from gateway.keys.stores import schema
from gateway.keys.stores.database import PARTITION, Transactions
from gateway.keys.stores.postgresql_connector import (
    COMMAND_TIMEOUT_S,
    LOST,
    Connector,
    location_of,
    ping,
)
from gateway.keys.stores.postgresql_errors import READ_ONLY, translated
from gateway.keys.stores.postgresql_usage import PostgresqlUsage
from gateway.keys.stores.postgresql_watch import CHANNEL, POLL_S, PostgresqlWatch
from gateway.keys.stores.sql_feed import SqlFeed
from gateway.keys.stores.sql_repository import SqlRepository
from gateway.keys.stores.sql_store import SqlStore

_POOL_SIZE: Final = 4
_MIGRATION_LOCK: Final = 0x6F746B65
"""Advisory lock while the tables are made or migrated."""

_LOCK_TIMEOUT: Final = "4s"
"""How long a writer waits for other gateways' transactions."""
_IDLE_IN_TRANSACTION: Final = "15s"
"""After this the server ends a transaction of a gateway that froze while it held the lock."""
_FOR_THIS_TRANSACTION: Final = True
_WAS_USED: Final = "was used"
_BOUNDS: Final = sa.select(
    sa.func.set_config("lock_timeout", _LOCK_TIMEOUT, _FOR_THIS_TRANSACTION),
    sa.func.set_config(
        "idle_in_transaction_session_timeout", _IDLE_IN_TRANSACTION, _FOR_THIS_TRANSACTION
    ),
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
        has_snapshot=True,
    )


class PostgresqlDatabase:
    """A `Database` on a server, and the `Confirmations` of those who share it."""

    name = "postgresql"
    is_remote = True
    reading: Mapping[str, Any] = {"isolation_level": "REPEATABLE READ"}
    """Revision and records are of one moment, or a purge between would hide a deletion."""

    def __init__(self, url: str, *, poll_s: float = POLL_S) -> None:
        self.location = location_of(url)
        self._connector = Connector(url)
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

    async def open(self, *, create: bool) -> AsyncEngine:
        """See `Database`. `create` makes missing tables; the database itself must exist."""
        await self._watch.look_once()
        engine = self._engine()
        try:
            await self._bring_up_to_date(engine, create=create)
        except BaseException:
            await engine.dispose()
            raise
        return engine

    async def close(self) -> None:
        """See `Database`. No goodbyes but one: they could hang on a dead network."""
        await self._watch.close()
        self._connector.drop_all()

    def check_place(self) -> None:
        """See `Database`: the server knows what it has stored."""

    async def begun(self, connection: AsyncConnection) -> None:
        """See `Database`: no lock is waited for, or held by who is frozen, for long."""
        await connection.execute(_BOUNDS)

    async def announce(self, connection: AsyncConnection) -> None:
        """See `Database`: sent to all gateways when the transaction commits."""
        await connection.execute(sa.select(sa.func.pg_notify(CHANNEL, "")))

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

    async def rows(
        self, connection: AsyncConnection, query: sa.Select[Any]
    ) -> AsyncIterator[Sequence[Sequence[Any]]]:
        """See `Database`. Straight from the driver: SQLAlchemy would triple the time."""
        raw = (await connection.get_raw_connection()).driver_connection
        assert isinstance(raw, asyncpg.Connection)  # noqa: S101 - the connector made it
        statement = await raw.prepare(str(query.compile(dialect=connection.dialect)), name="")
        cursor = await statement.cursor()
        while rows := await cursor.fetch(PARTITION):
            yield rows

    async def wait_for_change(self, engine: AsyncEngine) -> None:  # noqa: ARG002 - others need it
        """See `Database`."""
        await self._watch.wait()

    def answering(self) -> contextlib.AbstractAsyncContextManager[None]:
        """See `Database`."""
        return self._watch.answering()

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """See `Database`."""
        return translated(self.location)

    def _engine(self) -> AsyncEngine:
        """Make the engine, without named statements; behind a pooler it keeps no connection."""
        connecting: dict[str, Any] = {
            "async_creator_fn": self._connector.connect,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: "",
        }
        if self._connector.is_pooled:
            return create_async_engine(
                "postgresql+asyncpg://",
                connect_args=connecting,
                poolclass=NullPool,
                hide_parameters=True,
            )
        engine = create_async_engine(
            "postgresql+asyncpg://",
            connect_args=connecting,
            poolclass=AsyncAdaptedQueuePool,
            pool_size=_POOL_SIZE,
            pool_timeout=COMMAND_TIMEOUT_S,
            hide_parameters=True,
        )
        sa.event.listen(engine.sync_engine, "checkout", _check_alive)
        return engine

    async def _bring_up_to_date(self, engine: AsyncEngine, *, create: bool) -> None:
        with self.translated(), _located(self.location):
            async with engine.connect() as connection:
                if await connection.run_sync(_is_current, create=create):
                    return
            async with engine.begin() as connection:
                await self.begun(connection)
                # Of two gateways that start at once one makes the tables, the other finds them.
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                await connection.run_sync(schema.migrate)


def _check_alive(connection: AdaptedConnection, entry: ConnectionPoolEntry, *_: object) -> None:
    """Have the pool make its connections anew unless the one that is taken from it answers.

    One that was just made is not asked: should the server be gone again, its use tells.
    """
    if not entry.info.setdefault(_WAS_USED, False):
        entry.info[_WAS_USED] = True
        return
    try:
        connection.run_async(ping)
    except LOST as error:
        raise sa.exc.InvalidatePoolError from error


def _is_current(connection: sa.Connection, *, create: bool) -> bool:
    """Whether the tables are the newest ones; else whoever asks is to make them."""
    has_store = sa.inspect(connection).has_table(schema.store_table.name)
    if has_store and schema.is_current(connection):
        return True
    if connection.execute(sa.text("SHOW transaction_read_only")).scalar_one() == "on":
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
