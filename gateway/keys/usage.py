"""When keys were last used, and how much: gathered in memory, written now and then.

In a file of its own beside the store (`STORE.usage`), because whoever watches the store would wake
at every write, and because losing it loses no key: a damaged or missing one is no reason not to
start. Commits survive the end of the process; a power loss may cost the last seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.keys import sqlite
from gateway.keys.errors import StoreError, StoreTooNewError
from gateway.keys.record import KeyUsage

APPLICATION_ID: Final = 0x6F746B75
SCHEMA_VERSION: Final = 1
FLUSH_S: Final = 5.0
"""The longest time until usage is written, and the shortest between two writes."""

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


class UsageKeeper(Protocol):
    """Where usage is kept: a file beside the store, or a table in its database."""

    async def open(self, *, create: bool) -> None:
        """Make it usable; `create` makes a missing one. Raises `StoreError`."""

    async def close(self) -> None:
        """Let go of files and connections."""

    async def load(self, key_ids: Collection[str] | None = None) -> dict[str, KeyUsage]:
        """Read all sums, or those of some keys. Raises `StoreError`."""

    async def add(self, usage: Mapping[str, KeyUsage]) -> None:
        """Add to the sums, in one transaction. Raises `StoreError`; then the same must be part of
        what is added next.
        """

    async def forget(self, key_ids: Collection[str]) -> None:
        """Drop the sums of keys that no longer exist. Raises `StoreError`."""


class UsageStore:
    """Key id → sums since the beginning. Several gateways may add to one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine: AsyncEngine | None = None

    async def open(self, *, create: bool) -> None:
        """Make the file usable; `create` makes a missing one. Raises `StoreError`."""
        if create and not self.path.exists():
            await asyncio.to_thread(sqlite.create_file, self.path, APPLICATION_ID, _create)
        sqlite.check_file(self.path, APPLICATION_ID)
        engine = sqlite.open_engine(self.path, synchronous="NORMAL")
        with sqlite.translated(self.path):
            async with engine.connect() as connection:
                version = (await connection.exec_driver_sql("PRAGMA user_version")).scalar_one()
        if version != SCHEMA_VERSION:
            await engine.dispose()
            msg = f"{self.path}: another version of the gateway wrote this file"
            raise StoreTooNewError(msg)
        self._engine = engine

    async def close(self) -> None:
        """Let go of the file."""
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    async def load(self, key_ids: Collection[str] | None = None) -> dict[str, KeyUsage]:
        """Read all sums, or those of some keys. Raises `StoreError`."""
        query = sa.select(_usage)
        if key_ids is not None:
            query = query.where(_usage.c.key_id.in_(key_ids))
        with sqlite.translated(self.path):
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
        with sqlite.translated(self.path):
            async with self._opened().begin() as connection:
                await connection.execute(statement, rows)

    async def forget(self, key_ids: Collection[str]) -> None:
        """Drop the sums of keys that no longer exist. Raises `StoreError`."""
        statement = sa.delete(_usage).where(_usage.c.key_id == sa.bindparam("gone"))
        with sqlite.translated(self.path):
            async with self._opened().begin() as connection:
                await connection.execute(statement, [{"gone": key_id} for key_id in key_ids])

    def _opened(self) -> AsyncEngine:
        if self._engine is None:
            msg = "the usage store is not open"
            raise RuntimeError(msg)
        return self._engine


class UsageRecorder:
    """Gathers what workers report and writes it every `FLUSH_S`.

    `on_problem` is told when writing begins to fail; what could not be written is kept and added to
    the next attempt.
    """

    def __init__(self, store: UsageKeeper, on_problem: Callable[[str], None]) -> None:
        self._store = store
        self._on_problem = on_problem
        self._pending: dict[str, KeyUsage] = {}
        self._failing = False

    def note(self, key_id: str, usage: KeyUsage) -> None:
        """Add to what will be written. The caller passes only ids of known keys."""
        known = self._pending.get(key_id)
        self._pending[key_id] = usage if known is None else known.plus(usage)

    def pending(self, key_id: str) -> KeyUsage:
        """What is known of a key's usage and not yet written."""
        return self._pending.get(key_id, KeyUsage())

    async def flush(self) -> None:
        """Write what was gathered; a failure is told once, and tried again the next time."""
        if not self._pending:
            return
        batch, self._pending = self._pending, {}
        try:
            await self._store.add(batch)
        except StoreError as error:
            for key_id, usage in batch.items():
                self.note(key_id, usage)
            if not self._failing:
                self._on_problem(f"usage of keys cannot be written: {error}")
            self._failing = True
        else:
            self._failing = False

    async def run(self) -> None:
        """Write for ever."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()


def _create(connection: sa.Connection) -> None:
    _metadata.create_all(connection)
    connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
