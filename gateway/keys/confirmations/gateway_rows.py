"""One row for each gateway that shares a PostgreSQL: who they are, and how far each one is.

A gateway writes its row over whatever connection it has, through a pooler too: every `SIGN_S`, and
when its workers have confirmed another revision, if it hears no notification or is asked by who
hears none. It takes the row away when it ends. So a command knows of gateways that no notification
reaches, and of those that have lost the database. A gateway on a standby cannot write: whether
there may be such is all that the primary knows. The table is beside the keys' and touches nothing
of theirs: nobody is woken by it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

APPLICATION: Final = "otlp-gateway"
"""Every connection's `application_name`; a gateway's listening one has its name after a space."""
SIGN_S: Final = 5.0
SILENT_S: Final = 15.0
"""A gateway that has written nothing for so long, and is not connected, is not waited for."""
GONE_S: Final = 600.0
"""So long it is named all the same: it may be alive and decide by what it knew."""

_PASSING: Final = (
    asyncpg.UniqueViolationError,  # another one makes the table at this moment
    asyncpg.LockNotAvailableError,
    asyncpg.UndefinedTableError,  # it was dropped: it is made again
    asyncpg.ReadOnlySQLTransactionError,
)
_PLAIN: Final = re.compile(r"[A-Za-z0-9._? -]+")
_NAMED: Final = f"{APPLICATION} "
_HAS_TABLE: Final = "SELECT to_regclass('gateway_key_gateways') IS NOT NULL"
_CREATE: Final = """
CREATE TABLE IF NOT EXISTS gateway_key_gateways (
    name text PRIMARY KEY,
    revision bigint NOT NULL,
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 50);
GRANT SELECT ON gateway_key_gateways TO PUBLIC"""
_SIGN: Final = """
SET LOCAL lock_timeout = '500ms';
SET LOCAL synchronous_commit = off;
INSERT INTO gateway_key_gateways (name, revision, seen_at) VALUES ('{name}', {revision:d}, now())
ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, seen_at = excluded.seen_at"""
"""One transaction in one packet: whoever locks the table, or a standby that is away, must not hold
up the following of keys, nor this the others behind a pooler.
"""
_TIDY: Final = "DELETE FROM gateway_key_gateways WHERE seen_at < now() - make_interval(secs => $1)"
_LEAVE: Final = "DELETE FROM gateway_key_gateways WHERE name = $1"
_WHO: Final = """
SELECT
    ARRAY(
        SELECT application_name FROM pg_stat_activity
        WHERE datname = current_database() AND starts_with(application_name, $1)
    ) AS connected,
    EXISTS (
        SELECT FROM pg_stat_replication AS sender WHERE NOT EXISTS (
            SELECT FROM pg_replication_slots
            WHERE slot_type = 'logical' AND active_pid = sender.pid
        )
    ) OR EXISTS (SELECT FROM pg_replication_slots WHERE slot_type = 'physical') AS has_standbys,
    to_regclass('gateway_key_gateways') IS NOT NULL AS has_table"""
"""All of it is visible to every user of the database."""
_ROWS: Final = """
SELECT name, revision, seen_at > now() - make_interval(secs => $1) AS is_fresh
FROM gateway_key_gateways WHERE seen_at > now() - make_interval(secs => $2)"""


class Fleet(NamedTuple):
    """Gateways that share the database, by their names."""

    known: frozenset[str]
    confirmed: frozenset[str]
    """Of these it stands written that they have confirmed the revision that was asked for."""
    silent: frozenset[str]
    """These may be dead, or cut off from the database."""
    has_standbys: bool
    """Whether the database has standbys, from which other gateways may read."""


async def fleet(connection: Connection, revision: int) -> Fleet:
    """Read who they are, and who has confirmed `revision`. Raises what asyncpg does."""
    who = await connection.fetchrow(_WHO, _NAMED)
    assert who is not None  # noqa: S101 - it always has one row
    connected = frozenset(name.removeprefix(_NAMED) for name in who["connected"])
    rows = await connection.fetch(_ROWS, SILENT_S, GONE_S) if who["has_table"] else []
    return Fleet(
        known=connected.union(row["name"] for row in rows),
        confirmed=frozenset(row["name"] for row in rows if row["revision"] >= revision),
        silent=frozenset(row["name"] for row in rows if not row["is_fresh"]) - connected,
        has_standbys=who["has_standbys"],
    )


class GatewayRow:
    """The row of the gateway `name`. What keeps it from being written is said to `on_problem`."""

    def __init__(self, name: str, on_problem: Callable[[str], None]) -> None:
        assert _PLAIN.fullmatch(name)  # noqa: S101 - it stands in a statement as it is
        self._name = name
        self._on_problem = on_problem
        self._written: int | None = None
        """The revision that stands there; None: there may be no row yet."""
        self.may_stand = False
        """Whether it has been written, or may have been."""
        self._tried_s = -SIGN_S
        self._problem = ""

    def says(self, revision: int) -> bool:
        """Whether this revision stands there."""
        return self._written == revision

    async def sign(self, connection: Connection, revision: int, *, at_once: bool) -> None:
        """Write it every `SIGN_S`, and news `at_once`. Raises what asyncpg does if it breaks.

        A server that refuses is asked again `SIGN_S` later: keys are followed all the same.
        """
        is_due = time.monotonic() - self._tried_s >= SIGN_S
        if not is_due and (not at_once or self._problem or self.says(revision)):
            return
        self._tried_s = time.monotonic()
        try:
            if self._written is None:
                if not await connection.fetchval(_HAS_TABLE):
                    await connection.execute(_CREATE)
                await connection.execute(_TIDY, GONE_S)
            self.may_stand = True
            await connection.execute(_SIGN.format(name=self._name, revision=revision))
        except asyncpg.PostgresError as error:
            self._written = None
            if connection.is_closed():
                raise
            if not isinstance(error, _PASSING):
                self._note(str(error))
        else:
            self._written = revision
            self._problem = ""

    async def leave(self, connection: Connection) -> None:
        """Take it away. Raises what asyncpg does."""
        await connection.execute(_LEAVE, self._name)
        self.may_stand = False

    def _note(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._on_problem(
                "commands that change keys may not wait for this gateway, because it cannot write"
                f" the table gateway_key_gateways ({problem}): grant its user SELECT, INSERT,"
                " UPDATE and DELETE on it, or the right to create it"
            )
