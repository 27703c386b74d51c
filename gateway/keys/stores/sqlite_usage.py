"""Usage of keys in a SQLite file.

It is a file of its own beside the store (`STORE.usage`): gateways that watch the store would wake
at every write, and losing it loses no key. Commits survive the end of the process; a power loss may
cost the last seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.keys.errors import StoreTooNewError
from gateway.keys.record import KeyUsage
from gateway.keys.stores import sqlite_file

APPLICATION_ID: Final = 0x6F746B75
SCHEMA_VERSION: Final = 1

_metadata: Final = sa.MetaData()
_usage: Final = sa.Table(
    "gateway_key_usage",
    _metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("refusals", sa.BigInteger, nullable=False),
    sa.Column("last_used_ms", sa.BigInteger, nullable=False),
)


def path_for(store: Path) -> Path:
    """Where the usage of the keys in `store` is kept."""
    return store.with_name(store.name + ".usage")


class SqliteUsage:
    """A `UsageStore` in one file. Several gateways may add to it."""

    def __init__(self, path: Path, *, own_only: bool = False) -> None:
        self.path = path
        self._own_only = own_only
        self._engine: AsyncEngine | None = None
        self._creates = True

    async def open(self, *, create: bool) -> None:
        """See `UsageStore`. Raises `StoreError`."""
        self._creates = create
        if not self.path.exists():
            if not create:
                return
            await asyncio.to_thread(sqlite_file.create_file, self.path, APPLICATION_ID, _create)
        sqlite_file.check_file(self.path, APPLICATION_ID, own_only=self._own_only)
        engine = sqlite_file.open_engine(self.path, synchronous="NORMAL")
        try:
            await self._check_version(engine)
        except BaseException:
            await engine.dispose()
            raise
        self._engine = engine

    async def _check_version(self, engine: AsyncEngine) -> None:
        with sqlite_file.translated(self.path):
            async with engine.connect() as connection:
                version = (await connection.exec_driver_sql("PRAGMA user_version")).scalar_one()
        if version != SCHEMA_VERSION:
            msg = f"{self.path}: another version of the gateway wrote this file"
            raise StoreTooNewError(msg)

    async def close(self) -> None:
        """Let go of the file."""
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    async def load(self, key_ids: Collection[str] | None = None) -> dict[str, KeyUsage]:
        """Read all sums, or those of some keys. Raises `StoreError`."""
        if self._engine is None and not self._creates:
            return {}  # no gateway has written any yet
        query = sa.select(_usage)
        if key_ids is not None:
            query = query.where(_usage.c.key_id.in_(key_ids))
        with sqlite_file.translated(self.path):
            async with self._opened().connect() as connection:
                rows = (await connection.execute(query)).all()
        return {
            row.key_id: KeyUsage(row.requests, row.bytes, row.refusals, row.last_used_ms)
            for row in rows
        }

    async def add(self, usage: Mapping[str, KeyUsage]) -> None:
        """Add to the sums, in one transaction. Raises `StoreError`, and then nothing was added."""
        statement = insert(_usage)
        new = statement.excluded
        statement = statement.on_conflict_do_update(
            index_elements=[_usage.c.key_id],
            set_={
                "requests": _usage.c.requests + new.requests,
                "bytes": _usage.c.bytes + new.bytes,
                "refusals": _usage.c.refusals + new.refusals,
                "last_used_ms": sa.case(
                    (new.last_used_ms > _usage.c.last_used_ms, new.last_used_ms),
                    else_=_usage.c.last_used_ms,
                ),
            },
        )
        rows = [{"key_id": key_id, **sums._asdict()} for key_id, sums in usage.items()]
        with sqlite_file.translated(self.path):
            async with self._opened().begin() as connection:
                await connection.execute(statement, rows)

    async def forget(self, key_ids: Collection[str]) -> None:
        """Drop the sums of keys that no longer exist. Raises `StoreError`."""
        statement = sa.delete(_usage).where(_usage.c.key_id == sa.bindparam("gone"))
        with sqlite_file.translated(self.path):
            async with self._opened().begin() as connection:
                await connection.execute(statement, [{"gone": key_id} for key_id in key_ids])

    def _opened(self) -> AsyncEngine:
        if self._engine is None:
            msg = "the usage store is not open"
            raise RuntimeError(msg)
        return self._engine


def _create(connection: sa.Connection) -> None:
    _metadata.create_all(connection)
    connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
