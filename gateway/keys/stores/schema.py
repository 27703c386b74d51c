"""The tables of an SQL store and how older ones are brought up to date.

In words that SQLite and PostgreSQL both understand. A store carries its schema's version; each
migration leads from one version to the next and is never edited after a release. What is read from
the tables and written to them belongs to `keys.stores.sql`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from gateway.keys.errors import StoreDamagedError, StoreTooNewError

_BIG: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""64 bits; SQLite makes a rowid only of what is called INTEGER, which has 64 bits there."""

metadata: Final = sa.MetaData()

store_table: Final = sa.Table(
    "gateway_key_store",
    metadata,
    sa.Column("one", sa.Integer, sa.CheckConstraint("one = 1"), primary_key=True),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("store_id", sa.String(32), nullable=False),
    sa.Column("revision", _BIG, nullable=False),
    sa.Column("purged_revision", _BIG, nullable=False),
    comment="One row. Writers lock it first (UPDATE ... RETURNING revision), so revisions become"
    " visible in order; readers behind purged_revision must read everything.",
)


def _first_columns_of_keys() -> list[sa.Column[Any]]:
    """Version 1's. What came later is a migration's, and stands in `keys_table`."""
    return [
        sa.Column("id", _BIG, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("created_ms", _BIG, nullable=False),
        sa.Column("updated_ms", _BIG, nullable=False),
        sa.Column("expires_at_ms", _BIG),
        sa.Column("deleted_at_ms", _BIG),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("signals", sa.JSON(none_as_null=True)),
        sa.Column("limits", sa.JSON(none_as_null=True)),
        sa.Column("revision", _BIG, nullable=False, index=True),
    ]


keys_table: Final = sa.Table(
    "gateway_keys",
    metadata,
    *_first_columns_of_keys(),
    sa.Column("tenancy", sa.JSON(none_as_null=True)),
    comment="Keys and tombstones (deleted_at_ms set). signals null = all; limits null = default.",
)

audit_table: Final = sa.Table(
    "gateway_key_audit",
    metadata,
    sa.Column("revision", _BIG, primary_key=True, autoincrement=False),
    sa.Column("at_ms", _BIG, nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("key_id", _BIG, nullable=False, index=True),
    sa.Column("key_name", sa.Text, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("changes", sa.JSON, nullable=False),
    comment="Who changed which key, when, from where. Every revision that people made is one row.",
)

Migration = Callable[[sa.Connection], None]


def _create(connection: sa.Connection) -> None:
    """Version 1: make the tables, in the form that they had then."""
    first = sa.MetaData()
    store_table.to_metadata(first)
    sa.Table(keys_table.name, first, *_first_columns_of_keys(), comment=keys_table.comment)
    first.create_all(connection)
    connection.execute(
        sa.insert(store_table).values(
            one=1,
            schema_version=0,
            store_id=secrets.token_hex(16),
            revision=0,
            purged_revision=0,
        )
    )


def _add_audit(connection: sa.Connection) -> None:
    """Version 2: keep an audit log."""
    audit_table.create(connection)


def _add_tenancy(connection: sa.Connection) -> None:
    """Version 3: keys have an owner, labels and headers (JSON; null = none of them)."""
    connection.execute(sa.text("ALTER TABLE gateway_keys ADD COLUMN tenancy JSON"))


MIGRATIONS: Final[Sequence[Migration]] = (_create, _add_audit, _add_tenancy)
"""Number n leads from version n to n + 1. Each spells out the form that its tables had then: what
stands in `metadata` is the newest one."""


def is_current(connection: sa.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> bool:
    """Whether the tables are the newest ones. Only reads.

    Raises `StoreTooNewError` where a newer gateway has been at work.
    """
    version = connection.execute(sa.select(store_table.c.schema_version)).scalar_one_or_none()
    return _checked(version, migrations) == len(migrations)


def migrate(connection: sa.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the tables to the newest version, or make them, within the caller's transaction.

    Raises `StoreTooNewError` where a newer gateway has been at work, changing nothing.
    """
    version = 0
    if sa.inspect(connection).has_table(store_table.name):
        # An update that changes nothing locks the row: of two that migrate, one finds it done.
        lock = sa.update(store_table).values(schema_version=store_table.c.schema_version)
        locked = connection.execute(lock.returning(store_table.c.schema_version))
        version = _checked(locked.scalar_one_or_none(), migrations)
    for migration in migrations[version:]:
        migration(connection)
    connection.execute(sa.update(store_table).values(schema_version=len(migrations)))


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
