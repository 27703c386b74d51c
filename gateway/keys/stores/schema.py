"""The tables of an SQL store and how older ones are brought up to date.

A store carries its schema's version; each migration leads from one version to the next and is never
edited after a release. What is read from the tables and written to them belongs to
`keys.stores.rows` and those that use it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from gateway.keys.errors import StoreDamagedError, StoreTooNewError
from gateway.keys.stores.sql import SqlConnection, fetch_value


class Dialect(NamedTuple):
    """What a database calls things, where databases differ."""

    big: str
    """A type of 64 bits. SQLite makes a rowid only of what is called INTEGER, which has them."""
    binary: str
    has_store: str
    """A query that has a row if there is a table gateway_key_store."""
    has_comments: bool


SQLITE: Final = Dialect(
    big="INTEGER",
    binary="BLOB",
    has_store="SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'gateway_key_store'",
    has_comments=False,
)
POSTGRESQL: Final = Dialect(
    big="BIGINT",
    binary="BYTEA",
    has_store="SELECT 1 FROM pg_class WHERE relname = 'gateway_key_store'"
    " AND relkind IN ('r', 'p') AND pg_table_is_visible(oid)",
    has_comments=True,
)

Migration = Callable[[Dialect], Iterable[str]]
"""Gives the statements that lead from one version to the next."""


def _create(dialect: Dialect) -> Iterator[str]:
    """Version 1: make the tables."""
    big = dialect.big
    yield f"""
CREATE TABLE gateway_key_store (
    one INTEGER NOT NULL CHECK (one = 1),
    schema_version INTEGER NOT NULL,
    store_id VARCHAR(32) NOT NULL,
    revision {big} NOT NULL,
    purged_revision {big} NOT NULL,
    PRIMARY KEY (one)
)"""
    yield f"""
CREATE TABLE gateway_keys (
    id {big} NOT NULL,
    digest {dialect.binary} NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    created_ms {big} NOT NULL,
    updated_ms {big} NOT NULL,
    expires_at_ms {big},
    deleted_at_ms {big},
    enabled BOOLEAN NOT NULL,
    signals JSON,
    limits JSON,
    revision {big} NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (digest)
)"""
    yield "CREATE INDEX ix_gateway_keys_revision ON gateway_keys (revision)"
    if dialect.has_comments:
        yield (
            "COMMENT ON TABLE gateway_key_store IS 'One row. Writers lock it first (UPDATE ..."
            " RETURNING revision), so revisions become visible in order; readers behind"
            " purged_revision must read everything.'"
        )
        yield (
            "COMMENT ON TABLE gateway_keys IS 'Keys and tombstones (deleted_at_ms set)."
            " signals null = all; limits null = default.'"
        )
    yield f"INSERT INTO gateway_key_store VALUES (1, 0, '{secrets.token_hex(16)}', 0, 0)"  # noqa: S608 - hexadecimal digits


def _add_audit(dialect: Dialect) -> Iterator[str]:
    """Version 2: keep an audit log."""
    big = dialect.big
    yield f"""
CREATE TABLE gateway_key_audit (
    revision {big} NOT NULL,
    at_ms {big} NOT NULL,
    action VARCHAR(16) NOT NULL,
    key_id {big} NOT NULL,
    key_name TEXT NOT NULL,
    who TEXT NOT NULL,
    origin TEXT NOT NULL,
    changes JSON NOT NULL,
    PRIMARY KEY (revision)
)"""
    yield "CREATE INDEX ix_gateway_key_audit_key_id ON gateway_key_audit (key_id)"
    if dialect.has_comments:
        yield (
            "COMMENT ON TABLE gateway_key_audit IS 'Who changed which key, when, from where."
            " Every revision that people made is one row.'"
        )


def _add_tenancy(dialect: Dialect) -> Iterator[str]:  # noqa: ARG001 - the same for both
    """Version 3: keys have an owner, labels and headers (JSON; null = none of them)."""
    yield "ALTER TABLE gateway_keys ADD COLUMN tenancy JSON"


MIGRATIONS: Final[Sequence[Migration]] = (_create, _add_audit, _add_tenancy)
"""Number n leads from version n to n + 1."""


async def is_current(
    connection: SqlConnection, migrations: Sequence[Migration] = MIGRATIONS
) -> bool:
    """Whether the tables are the newest ones. Only reads.

    Raises `StoreTooNewError` where a newer gateway has been at work.
    """
    version = await fetch_value(connection, "SELECT schema_version FROM gateway_key_store")
    return _checked(version, migrations) == len(migrations)


async def has_store(connection: SqlConnection, dialect: Dialect) -> bool:
    """Whether there are tables of a store. Only reads."""
    return await fetch_value(connection, dialect.has_store) is not None


async def migrate(
    connection: SqlConnection, dialect: Dialect, migrations: Sequence[Migration] = MIGRATIONS
) -> None:
    """Bring the tables to the newest version, or make them, within the caller's transaction.

    Raises `StoreTooNewError` where a newer gateway has been at work, changing nothing.
    """
    version = 0
    if await has_store(connection, dialect):
        # An update that changes nothing locks the row: of two that migrate, one finds it done.
        lock = (
            "UPDATE gateway_key_store SET schema_version = schema_version RETURNING schema_version"
        )
        version = _checked(await fetch_value(connection, lock), migrations)
    for migration in migrations[version:]:
        for statement in migration(dialect):
            await connection.execute(statement)
    await connection.execute("UPDATE gateway_key_store SET schema_version = $1", len(migrations))


def _checked(version: int | None, migrations: Sequence[Migration]) -> int:
    if version is None:
        msg = "its table gateway_key_store is empty: restore the store from a backup"
        raise StoreDamagedError(msg)
    if version > len(migrations):
        msg = (
            f"it has schema version {version}, this gateway knows up to {len(migrations)}: use the"
            " gateway version that last opened it, or a newer one"
        )
        raise StoreTooNewError(msg)
    return version
