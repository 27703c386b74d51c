"""Keys in PostgreSQL: several gateways on several machines share one database.

The tables and statements are those of `keys.schema` and `keys.sql`; here stands what PostgreSQL has
of its own: how to connect, how changes are noticed, what its errors mean. A change is announced
with NOTIFY in the transaction that makes it. A notification is only a hint: whoever misses one (a
connection that died, a pooler between) looks at the revision every `POLL_S` anyway.

The url is libpq's: `postgresql://user@host:5432/database?sslmode=verify-full`, several hosts
included; a password may stand in it, in PGPASSWORD or in PGPASSFILE. It is never shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import urllib.parse
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from gateway.keys import schema
from gateway.keys.errors import (
    StoreDamagedError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from gateway.keys.shared_board import (
    APPLICATION,
    ASK_CHANNEL,
    Answers,
    SharedBoard,
    ask_gateways,
)
from gateway.keys.shared_usage import SharedUsage
from gateway.keys.sql import PARTITION, SqlStore

CHANNEL: Final = "otlp_gateway_keys"
POLL_S: Final = 2.0
"""The longest time until a change is seen without its notification."""
CONNECT_TIMEOUT_S: Final = 5.0
COMMAND_TIMEOUT_S: Final = 10.0
LOCK_TIMEOUT_S: Final = 5.0
"""How long a writer waits for other gateways' transactions."""
_IDLE_IN_TRANSACTION_S: Final = 15
"""After this the server ends a transaction of a gateway that froze while it held the lock."""
_POOL_SIZE: Final = 4
_MIGRATION_LOCK: Final = 0x6F746B65
"""Advisory lock of whoever makes or migrates the tables."""

_SETTINGS: Final = (
    f"SET lock_timeout = '{LOCK_TIMEOUT_S:.0f}s';"
    f"SET idle_in_transaction_session_timeout = '{_IDLE_IN_TRANSACTION_S}s';"
    "SET jit = off"
)
_IDENTITY: Final = (
    "SELECT pg_postmaster_start_time()::text, pg_relation_filenode('gateway_key_store')::bigint"
)
"""What changes when the tables may be others than before: a restart, a failover, a restore."""

_DENIED: Final = {
    "28000": "it refuses the user; check the url's user and the server's pg_hba.conf",
    "28P01": "it refuses the password; check the url, PGPASSWORD or PGPASSFILE",
    "3D000": "there is no such database; create it, or correct the url",
    "3F000": "there is no schema to use; create it, or set the user's search_path",
    "42501": "the user lacks the right; grant it, on the schema for the first start",
}
_ADVICE: Final = {
    "25006": "it is read-only: a standby? Add target_session_attrs=read-write to the url",
    "53300": "it has too many connections; raise max_connections or use fewer",
    "55P03": "another transaction holds the lock; try again, or find out which one",
    "57014": "it took too long; try again",
    "57P03": "it is starting up or shutting down; try again",
}
_TABLES_ARE_GONE: Final = {"42P01", "42703"}


def postgresql_store(url: str, *, poll_s: float = POLL_S) -> SqlStore:
    """Make a store of the keys in the PostgreSQL database at `url`."""
    return SqlStore(PostgresqlDatabase(url, poll_s=poll_s))


def location_of(url: str) -> str:
    """Write a database's url without what may be secret: its password and its parameters."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if not host:
        host = dict(urllib.parse.parse_qsl(parts.query)).get("host", "")
    user = parts.username or ""
    return f"postgresql://{user}{'@' if user else ''}{host}{parts.path}"


class PostgresqlDatabase:
    """A `sql.Database` on a server."""

    name = "postgresql"
    file: Path | None = None
    is_remote = True
    reading: Mapping[str, Any] = {"isolation_level": "REPEATABLE READ"}
    """Revision and records are of one moment, or a purge between would hide a deletion."""

    def __init__(self, url: str, *, poll_s: float = POLL_S) -> None:
        self.location = location_of(url)
        self.generation = 0
        self._url = url
        self._poll_s = poll_s
        self._listener: asyncpg.Connection[asyncpg.Record] | None = None
        self._told = asyncio.Event()
        self._identity: asyncpg.Record | None = None
        self._board = SharedBoard(self._told.set)

    async def open(self, *, create: bool) -> AsyncEngine:
        """See `sql.Database`. `create` makes missing tables; the database itself must exist."""
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,
            poolclass=AsyncAdaptedQueuePool,
            pool_size=_POOL_SIZE,
            pool_pre_ping=True,
            pool_timeout=COMMAND_TIMEOUT_S,
            hide_parameters=True,
        )
        try:
            await self._bring_up_to_date(engine, create=create)
        except BaseException:
            await engine.dispose()
            raise
        return engine

    async def close(self) -> None:
        """See `sql.Database`."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.terminate()  # a goodbye could hang on a dead network

    async def announce(self, connection: AsyncConnection) -> None:
        """See `sql.Database`: told to all gateways when the transaction commits."""
        await connection.execute(sa.select(sa.func.pg_notify(CHANNEL, "")))

    def usage(self) -> SharedUsage:
        """See `sql.Database`: in a table beside, over a connection of its own."""
        return SharedUsage(self._connect, self.translated)

    def board(self) -> SharedBoard:
        """See `sql.Database`. It works over the connection that `wait_for_change` keeps."""
        return self._board

    async def ask_gateways(self, revision: int, timeout_s: float) -> Answers:
        """See `KeyStore.ask_gateways`, over a connection of its own."""
        with self.translated():
            connection = await self._connect()
            try:
                return await ask_gateways(connection, revision, timeout_s)
            finally:
                connection.terminate()

    async def rows(
        self, connection: AsyncConnection, query: sa.Select[Any]
    ) -> AsyncIterator[Sequence[Sequence[Any]]]:
        """See `sql.Database`. Straight from the driver: SQLAlchemy would triple the time."""
        raw = (await connection.get_raw_connection()).driver_connection
        assert isinstance(raw, asyncpg.Connection)  # noqa: S101 - `_connect` made it
        cursor = await raw.cursor(str(query.compile(dialect=connection.dialect)))
        while rows := await cursor.fetch(PARTITION):
            yield rows

    async def wait_for_change(self, engine: AsyncEngine) -> None:  # noqa: ARG002 - others need it
        """See `sql.Database`."""
        if self._listener is None or self._listener.is_closed():
            return await self._listen()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll_s):
                await self._told.wait()
        self._told.clear()
        return await self._check(self._listener)

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """See `sql.Database`."""
        return _translated(self.location)

    async def _connect(self, name: str = APPLICATION) -> asyncpg.Connection[asyncpg.Record]:
        connection = await asyncpg.connect(
            self._url,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            server_settings={"application_name": name},
        )
        await connection.execute(_SETTINGS)
        return connection

    async def _bring_up_to_date(self, engine: AsyncEngine, *, create: bool) -> None:
        with self.translated(), _located(self.location):
            async with engine.connect() as connection:
                if await connection.run_sync(_is_current, create=create):
                    return
            async with engine.begin() as connection:
                # Of two gateways that start at once one makes the tables, the other finds them.
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                await connection.run_sync(schema.migrate)

    async def _listen(self) -> None:
        """Connect and listen from now on. Counts as a change: the store is read after the call."""
        with self.translated():
            connection = await self._connect(f"{APPLICATION} {self._board.name}")
            try:
                await connection.add_listener(CHANNEL, self._on_notification)
                await connection.add_listener(ASK_CHANNEL, self._board.take_question)
                await self._check(connection)
            except BaseException:
                connection.terminate()
                raise
        connection.add_termination_listener(lambda _: self._told.set())
        self._listener = connection

    async def _check(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Answer who asks; make sure that the connection lives, and of which tables it speaks."""
        try:
            with self.translated():
                await self._board.answer(connection)
                identity = await connection.fetchrow(_IDENTITY)
        except StoreError:
            connection.terminate()
            raise
        if self._identity is not None and identity != self._identity:
            self.generation += 1
        self._identity = identity

    def _on_notification(self, *_: object) -> None:
        self._told.set()


def _is_current(connection: sa.Connection, *, create: bool) -> bool:
    if sa.inspect(connection).has_table(schema.store_table.name):
        return schema.is_current(connection)
    if not create:
        msg = (
            "there is no key store in this database; `gateway serve` and `gateway keys create`"
            " make one (is the url right?)"
        )
        raise StoreUnavailableError(msg)
    return False


@contextlib.contextmanager
def _located(location: str) -> Iterator[None]:
    """Say in errors of the tables' versions which database they are of."""
    try:
        yield
    except StoreError as error:
        text = str(error)
        raise type(error)(text if text.startswith(location) else f"{location}: {text}") from error


@contextlib.contextmanager
def _translated(location: str) -> Iterator[None]:
    """Turn errors of SQLAlchemy, asyncpg and the network into `StoreError`s."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise _named(location, _original(error)) from error
    except (
        sa.exc.TimeoutError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,  # used between the server's last word and its hanging up
        TimeoutError,
        OSError,
    ) as error:
        raise _named(location, error) from error


def _original(error: sa.exc.DBAPIError) -> BaseException:
    """Find asyncpg's own exception, which SQLAlchemy wraps twice."""
    found: BaseException = error
    while not isinstance(found, asyncpg.PostgresError | OSError):
        inner = getattr(found, "orig", None) or found.__cause__
        if inner is None:
            break
        found = inner
    return found


def _named(location: str, error: BaseException) -> StoreError:
    state: Any = getattr(error, "sqlstate", None)
    if state in _DENIED:
        return StoreDeniedError(f"{location}: {_DENIED[state]} ({error})")
    if state in _TABLES_ARE_GONE:
        return StoreDamagedError(f"{location}: its tables are gone or changed ({error})")
    if state in _ADVICE:
        return StoreUnavailableError(f"{location}: {_ADVICE[state]} ({error})")
    if isinstance(error, TimeoutError | sa.exc.TimeoutError):
        return StoreUnavailableError(f"{location}: it does not answer in time")
    advice = "it cannot be reached" if state is None else "it cannot be used"
    return StoreUnavailableError(f"{location}: {advice} ({error})")
