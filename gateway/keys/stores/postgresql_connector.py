"""Connections to PostgreSQL: what the url says, and how one is made and dropped.

The url is libpq's: `postgresql://user@host:5432/database?sslmode=verify-full`, several hosts
included; a password may stand in it, in PGPASSWORD or in PGPASSFILE. It is never shown. Some of its
parameters the driver does not know, and would send to the server: those are taken out of it.

A pooler (PgBouncer) may stand in between, which in transaction mode gives each transaction another
connection to the server, and in session mode has few for everybody. So no connection has a state of
its own: no named statements, no settings beyond a transaction. Whether there is one shows in the
number of the server's process: a pooler greets with a number of its own. Then no connection is kept
(`Connector.is_pooled`).
"""

from __future__ import annotations

import asyncio
import math
import time
import urllib.parse
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import asyncpg

from gateway.keys.confirmations.gateway_rows import APPLICATION

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

CONNECT_TIMEOUT_S: Final = 5.0
COMMAND_TIMEOUT_S: Final = 10.0
POOLED_COMMAND_TIMEOUT_S: Final = 5.0
"""The same behind a pooler, where no other connection notices earlier that the server is away."""
ANSWER_S: Final = 2.0
"""How long a connection that stood idle may take to answer; else another one is made."""
SHARED: Final = 2
"""Connections at once behind a pooler, where all gateways may have to share three."""
AGAIN_S: Final = 0.75
"""Time between two attempts, while the earlier ones go on."""

LOST: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # used between the server's last word and its hanging up
    TimeoutError,
    OSError,
)
"""What asyncpg raises where a connection, or the server, cannot be used."""

_OURS: Final = frozenset({"application_name", "channel_binding", "connect_timeout"})
"""Parameters that are taken out of the url. `channel_binding=prefer`: the driver has none."""


def location_of(url: str) -> str:
    """Write a database's url without what may be secret: its password and its parameters."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if not host:
        host = dict(urllib.parse.parse_qsl(parts.query)).get("host", "")
    user = parts.username or ""
    return f"postgresql://{user}{'@' if user else ''}{host}{parts.path}"


class Connector:
    """Makes connections to the database at `url`, and can drop all that it made."""

    def __init__(self, url: str) -> None:
        address, _, query = url.partition("?")
        ours = dict(urllib.parse.parse_qsl(query))
        rest = [each for each in query.split("&") if each.partition("=")[0] not in _OURS]
        self.is_pooled = False
        """Whether a pooler was met: no connection is to be kept, and none hears notifications."""
        self._url = f"{address}?{'&'.join(rest)}" if rest != [""] and rest else address
        self._name = ours.get("application_name", APPLICATION)
        self._timeout_s = float(ours.get("connect_timeout", CONNECT_TIMEOUT_S))
        self._made: weakref.WeakKeyDictionary[Connection, float] = weakref.WeakKeyDictionary()
        """Each connection → when it was there; seconds of the monotonic clock."""
        self._shared = asyncio.Semaphore(SHARED)

    async def connect(self) -> Connection:
        """Connect for some statements. Raises what asyncpg does.

        Behind a pooler it waits until there are fewer than `SHARED`. Whoever has one must not wait
        for another one.
        """
        if not self.is_pooled:
            return await self.connect_beside(self._name)
        async with asyncio.timeout(self._timeout_s):
            await self._shared.acquire()
        try:
            connection = await self.connect_beside(self._name)
        except BaseException:
            self._shared.release()
            raise
        connection.add_termination_listener(lambda _: self._shared.release())
        return connection

    async def connect_beside(self, name: str) -> Connection:
        """Connect under the `application_name` `name`, however many connections there are.

        An attempt whose packets were lost is repeated by the kernel only after seconds: so another
        one begins every `AGAIN_S`, and the first to succeed is used.
        """
        async with asyncio.timeout(self._timeout_s):
            connection = await _first(lambda: self._attempt(name))
            try:
                process = await connection.fetchval("SELECT pg_backend_pid()")
            except BaseException:
                connection.terminate()
                raise
        self.note_process(connection, process)
        self._made[connection] = time.monotonic()
        return connection

    def note_process(self, connection: Connection, process: int) -> None:
        """Take note of the number of the server's process that has answered on `connection`."""
        if process != connection.get_server_pid():
            self.is_pooled = True

    def drop_all(self, before_s: float = math.inf) -> None:
        """Close all connections that were there before: who waits on one gets an error.

        `before_s`: seconds of the monotonic clock. Where a connection that was kept does not answer
        any more, those made since it last did may have reached the server after it was lost.
        """
        for connection, made_s in list(self._made.items()):
            if made_s < before_s:
                connection.terminate()

    async def _attempt(self, name: str) -> Connection:
        connection: Connection = await asyncpg.connect(
            self._url,
            timeout=self._timeout_s,
            command_timeout=POOLED_COMMAND_TIMEOUT_S if self.is_pooled else COMMAND_TIMEOUT_S,
            statement_cache_size=0,
            server_settings={"application_name": name},
        )
        return connection


async def ping(connection: Connection) -> None:
    """Make sure that a connection that stood idle lives; else close it and raise what asyncpg does.

    A network may have forgotten it without a word.
    """
    try:
        async with asyncio.timeout(ANSWER_S):
            await connection.execute("SELECT")
    except BaseException:
        connection.terminate()
        raise


async def _first(attempt: Callable[[], Awaitable[Connection]]) -> Connection:
    """Return the first connection; an attempt that fails ends all of them."""
    running: set[asyncio.Future[Connection]] = set()
    try:
        while True:
            running.add(asyncio.ensure_future(attempt()))
            done, _ = await asyncio.wait(
                running, timeout=AGAIN_S, return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                winner = next(iter(done))
                running.discard(winner)
                return winner.result()
    finally:
        for other in running:
            other.cancel()
            other.add_done_callback(_discard)


def _discard(attempt: asyncio.Future[Connection]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()
