"""Noticing changes of a PostgreSQL, and what becomes of it: away, replaced, read-only.

One connection is kept. It listens for notifications, is asked every `poll_s` whether the server is
still there and still the same, and has nothing else to do. Behind a pooler none is kept: there each
look has a connection of its own, and only looks notice changes. A standby tells nobody of changes:
it is looked at, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

from gateway.keys.confirmations.gateway_rows import APPLICATION
from gateway.keys.confirmations.notifications import ASK_CHANNEL, NotificationPublisher
from gateway.keys.errors import StoreError

if TYPE_CHECKING:
    import asyncpg

    from gateway.keys.stores.postgresql_connector import Connector

    Connection = asyncpg.Connection[asyncpg.Record]

CHANNEL: Final = "otlp_gateway_keys"
POLL_S: Final = 2.0
"""The longest time until a change is seen without its notification."""
OVERDUE_S: Final = 2.0
"""How long a look may take. A server that takes longer is away: unknown keys are undecided."""
LEAST_S: Final = 0.25
"""The least time between two looks behind a pooler: each makes a connection."""
GOODBYE_S: Final = 1.0
_PROBE_S: Final = 1.0
"""Time between two questions whether the server still answers, while something is read."""

LOOK: Final = """
SELECT
    pg_postmaster_start_time()::text AS started,
    pg_relation_filenode(to_regclass('gateway_key_store'))::bigint AS tables,
    pg_backend_pid() AS process,
    pg_is_in_recovery() AS is_standby,
    current_setting('transaction_read_only')::boolean AS is_read_only,
    pg_is_in_recovery() AND NOT EXISTS (SELECT FROM pg_stat_wal_receiver) AS is_cut_off"""
"""`started` and `tables` change when the tables may be others than before: a restart, a failover, a
restore."""


class PostgresqlWatch:
    """Watches the database of `connector`. `translated` is `Database.translated`."""

    def __init__(
        self,
        connector: Connector,
        translated: Callable[[], contextlib.AbstractContextManager[None]],
        poll_s: float,
    ) -> None:
        self.generation = 0
        self.is_read_only = False
        self.is_cut_off = False
        self.publisher: Final = NotificationPublisher(self._wake)
        self._connector = connector
        self._translated = translated
        self._poll_s = poll_s
        self._listener: Connection | None = None
        """The connection that is kept; None behind a pooler."""
        self._hears = False
        """Whether the listener is told of changes: a standby tells nobody."""
        self._has_time = False
        """Whether the last look without a listener went well."""
        self._answered_s = 0.0
        """When it was asked for the last time of those when it answered."""
        self._asking = asyncio.Lock()
        """A connection takes one question at a time."""
        self._woken = asyncio.Event()
        self._identity: tuple[str, int | None] | None = None

    async def look_once(self) -> None:
        """Learn whether it can be written, before anything is asked of it. Raises `StoreError`."""
        with self._translated():
            connection = await self._connector.connect()
            try:
                self._note_use(await self._look(connection))
            finally:
                connection.terminate()

    async def wait(self) -> None:
        """See `KeyFeed.wait_for_change`."""
        listener = self._listener
        if listener is None or listener.is_closed():
            return await self._look_anew()
        await self._until_woken()
        return await self._check(listener)

    async def _until_woken(self) -> None:
        """Return when there may be something to do, or after `poll_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll_s):
                await self._woken.wait()
        self._woken.clear()

    @contextlib.asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """See `Database`: the listening connection is asked, which has nothing else to do."""
        listener = self._listener
        if listener is None or listener.is_closed():
            yield
            return
        async with asyncio.timeout(None) as limit:
            probing = asyncio.ensure_future(self._probe(listener, limit))
            try:
                yield
            finally:
                probing.cancel()

    async def close(self) -> None:
        """Let go of the connection. A gateway's row is taken away, if that is soon done."""
        listener, self._listener = self._listener, None
        try:
            if self.publisher.may_be_signed:
                with contextlib.suppress(StoreError), self._translated():
                    async with asyncio.timeout(GOODBYE_S):
                        await self._leave(listener)
        finally:
            if listener is not None:
                listener.terminate()

    async def _leave(self, listener: Connection | None) -> None:
        if listener is not None and not listener.is_closed():
            return await self.publisher.leave(listener)
        connection = await self._connector.connect_beside(APPLICATION)
        try:
            return await self.publisher.leave(connection)
        finally:
            connection.terminate()

    async def _probe(self, listener: Connection, limit: asyncio.Timeout) -> None:
        """Drop all connections and end `limit` when the server does not answer any more."""
        try:
            with self._translated():
                while True:
                    await asyncio.sleep(_PROBE_S)
                    async with asyncio.timeout(OVERDUE_S), self._asking:
                        await self._look(listener)
        except StoreError:
            self._connector.drop_all(self._answered_s)
            limit.reschedule(asyncio.get_running_loop().time())

    async def _look_anew(self) -> None:
        """Look over a new connection, and keep it to listen, unless a pooler is in between.

        Counts as a change: the store is read after the call.
        """
        has_time, self._has_time = self._has_time, False
        if has_time:
            await asyncio.sleep(min(LEAST_S, self._poll_s))
            await self._until_woken()
        with self._translated():
            async with asyncio.timeout(OVERDUE_S if has_time else None):
                # A pooler would leave the name on connections that it keeps.
                is_named = not self._connector.is_pooled
                name = f"{APPLICATION} {self.publisher.name}" if is_named else APPLICATION
                connection = await self._connector.connect_beside(name)
                try:
                    await self._look_over(connection)
                except BaseException:
                    connection.terminate()
                    raise

    async def _look_over(self, connection: Connection) -> None:
        self.publisher.is_deaf = self._connector.is_pooled
        if not self._connector.is_pooled:
            return await self._listen(connection)
        async with asyncio.timeout(OVERDUE_S):
            look = await self._look(connection)
            self._note(look)
            await self._sign(connection, look)
        connection.terminate()
        self._has_time = True
        return None

    async def _listen(self, connection: Connection) -> None:
        async with asyncio.timeout(OVERDUE_S):
            self._hears = not (await self._look(connection))["is_standby"]
            if self._hears:
                await connection.add_listener(CHANNEL, self._wake)
                await connection.add_listener(ASK_CHANNEL, self.publisher.take_question)
        await self._check(connection)
        connection.add_termination_listener(self._wake)
        self._listener = connection

    async def _check(self, connection: Connection) -> None:
        """Answer who asks; make sure that the connection lives, and of which tables it speaks.

        Where it does not, nothing else may wait for the server either.
        """
        try:
            with self._translated():
                async with asyncio.timeout(OVERDUE_S), self._asking:
                    await self.publisher.answer(connection)
                    look = await self._look(connection)
                    await self._sign(connection, look)
        except StoreError:
            self._connector.drop_all(self._answered_s)
            raise
        self._note(look)
        self._connector.note_process(connection, look["process"])
        if self._connector.is_pooled or self._hears == look["is_standby"]:
            connection.terminate()  # it hears nothing; or it could, as the standby was promoted

    async def _sign(self, connection: Connection, look: asyncpg.Record) -> None:
        if not look["is_read_only"]:
            await self.publisher.sign(connection)

    def _note(self, look: asyncpg.Record) -> None:
        self._note_use(look)
        identity = (look["started"], look["tables"])
        if self._identity is not None and identity != self._identity:
            self.generation += 1
        self._identity = identity

    def _note_use(self, look: asyncpg.Record) -> None:
        self.is_read_only = look["is_read_only"]
        self.is_cut_off = look["is_cut_off"]

    def _wake(self, *_: object) -> None:
        self._woken.set()

    async def _look(self, connection: Connection) -> asyncpg.Record:
        asked_s = time.monotonic()
        look = await connection.fetchrow(LOOK)
        assert look is not None  # noqa: S101 - it always has one row
        self._answered_s = asked_s
        return look
