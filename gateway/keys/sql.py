"""Keys in an SQL database: SQLite (`keys.embedded`) or PostgreSQL (`keys.postgresql`).

Statements are dialect-neutral; what differs between databases stands behind `Database`. Every write
first takes the next revision from the one locked row of `gateway_key_store`. That orders all
writers, so what a transaction looks up afterwards stays true until its commit, and revisions become
visible in their order: a reader that has seen revision n never misses one below it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.keys import audit
from gateway.keys.audit import GATEWAY, Action, Actor, AuditEntry
from gateway.keys.board import Board
from gateway.keys.errors import DuplicateKeyError, KeyNotFoundError, StoreDamagedError
from gateway.keys.material import new_key_id
from gateway.keys.record import KeyRecord, describe_day, limits_in_words
from gateway.keys.schema import keys_table, store_table
from gateway.keys.shared_board import Answers
from gateway.keys.store import Changes, KeyUpdate, NewKey
from gateway.keys.usage import UsageKeeper
from gateway.model import KeyDigest, KeyLimits, Signal

PARTITION = 2_000
"""Rows that are turned into records at once: other tasks go on in between."""
_DIGEST_BYTES = 32
_SIGNALS = {signal.value: signal for signal in Signal}
_COLUMNS = [keys_table.c[name] for name in KeyRecord.__struct_fields__]
"""In the order of a record's fields."""


class Database(Protocol):
    """What differs between SQL databases: where it is, how to open it and to notice changes."""

    name: str
    """The `store` label of metrics."""
    location: str
    """Where it is, for people; without secrets."""
    file: Path | None
    """See `KeyStore.file`."""
    is_remote: bool
    """See `KeyStore.is_remote`."""
    generation: int
    """Changes when the database was replaced by another one, so that all must be read again."""
    reading: Mapping[str, Any]
    """Execution options with which all reads of one transaction see one moment."""

    async def open(self, *, create: bool) -> AsyncEngine:
        """Connect, with tables of the newest version; `create` makes a missing database."""

    async def close(self) -> None:
        """Let go of everything but the engine, which the store disposes of."""

    async def announce(self, connection: AsyncConnection) -> None:
        """Tell all watchers of a change, within the transaction that makes it."""

    def usage(self) -> UsageKeeper:
        """See `KeyStore.usage`."""

    def board(self) -> Board:
        """See `KeyStore.board`."""

    async def ask_gateways(self, revision: int, timeout_s: float) -> Answers | None:
        """See `KeyStore.ask_gateways`."""

    def rows(
        self, connection: AsyncConnection, query: sa.Select[Any]
    ) -> AsyncIterator[Sequence[Sequence[Any]]]:
        """Read a great many rows, `PARTITION` at once; JSON may come as text."""

    async def wait_for_change(self, engine: AsyncEngine) -> None:
        """See `KeyStore.wait_for_change`."""

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """Turn errors of the driver into `StoreError`s."""


class SqlStore:
    """A `KeyStore` in an SQL database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._engine: AsyncEngine | None = None
        self._read_from: tuple[str, int] | None = None
        """Store id and generation of what `changes` last read."""

    @property
    def name(self) -> str:
        """See `KeyStore`."""
        return self._database.name

    @property
    def location(self) -> str:
        """See `KeyStore`."""
        return self._database.location

    @property
    def file(self) -> Path | None:
        """See `KeyStore`."""
        return self._database.file

    @property
    def is_writable(self) -> bool:
        """See `KeyStore`."""
        return True

    @property
    def is_remote(self) -> bool:
        """See `KeyStore`."""
        return self._database.is_remote

    async def open(self, *, create: bool) -> None:
        """See `KeyStore`."""
        self._engine = await self._database.open(create=create)

    async def close(self) -> None:
        """See `KeyStore`."""
        await self._database.close()
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    async def changes(self, since: int) -> Changes | None:
        """See `KeyStore`."""
        async with self._reading() as connection:
            # The revision before the records: what is committed in between is read twice, not never
            head = await self._head(connection)
            is_other = (head.store_id, self._database.generation) != self._read_from
            if is_other or not head.purged_revision <= since <= head.revision:
                return None
            newer = sa.select(*_COLUMNS).where(keys_table.c.revision > since)
            return Changes(head.revision, await _read(connection, newer))

    async def everything(self) -> AsyncGenerator[Changes, None]:
        """See `KeyStore`."""
        async with self._reading() as connection:
            head = await self._head(connection)
            self._read_from = (head.store_id, self._database.generation)
            yield Changes(head.revision, [])
            async for rows in self._database.rows(connection, sa.select(*_COLUMNS)):
                yield Changes(head.revision, _records(rows))

    async def wait_for_change(self) -> None:
        """See `KeyStore`."""
        await self._database.wait_for_change(self._opened())

    def usage(self) -> UsageKeeper | None:
        """See `KeyStore`."""
        return self._database.usage()

    def board(self) -> Board:
        """See `KeyStore`."""
        return self._database.board()

    async def ask_gateways(self, revision: int, timeout_s: float) -> Answers | None:
        """See `KeyStore`."""
        return await self._database.ask_gateways(revision, timeout_s)

    async def find(self, key_id: int) -> KeyRecord | None:
        """See `KeyStore`."""
        async with self._reading() as connection:
            return await _one(connection, keys_table.c.id == key_id)

    async def live(self, after: int = 0, limit: int | None = None) -> list[KeyRecord]:
        """See `KeyStore`."""
        query = sa.select(*_COLUMNS).where(keys_table.c.deleted_at_ms.is_(None))
        query = query.where(keys_table.c.id > after).order_by(keys_table.c.id).limit(limit)
        async with self._reading() as connection:
            return await _read(connection, query)

    async def create(self, key: NewKey, now_ms: int, by: Actor = GATEWAY) -> KeyRecord:
        """See `KeyStore`."""
        async with self._writing() as (connection, revision):
            record = await _insert(connection, key, revision, now_ms)
            action = Action.ADOPT if key.adopted else Action.CREATE
            await audit.write(connection, action, record, by, _facts(record))
            return record

    async def update(
        self, key_id: int, update: KeyUpdate, now_ms: int, by: Actor = GATEWAY
    ) -> KeyRecord:
        """See `KeyStore`."""
        async with self._writing() as (connection, revision):
            found = await _not_deleted(connection, key_id)
            fields = update.fields(found.limits)
            record = msgspec.structs.replace(found, **fields, updated_ms=now_ms, revision=revision)
            await _update(connection, record)
            columns = _columns(record)
            changes = {name: columns[name] for name in fields}
            await audit.write(connection, Action.UPDATE, record, by, changes)
            return record

    async def audit(
        self, limit: int, before: int | None = None, key_id: int | None = None
    ) -> list[AuditEntry]:
        """See `KeyStore`."""
        async with self._reading() as connection:
            return await audit.read(connection, limit, before, key_id)

    async def delete(self, key_id: int, now_ms: int, by: Actor = GATEWAY) -> KeyRecord:
        """See `KeyStore`."""
        async with self._writing() as (connection, revision):
            found = await _not_deleted(connection, key_id)
            tombstone = msgspec.structs.replace(
                found,
                description=None,
                deleted_at_ms=now_ms,
                updated_ms=now_ms,
                revision=revision,
            )
            await _update(connection, tombstone)
            await audit.write(connection, Action.DELETE, tombstone, by, {})
            return tombstone

    async def rotate(
        self,
        key_id: int,
        digest: KeyDigest,
        expires_at_ms: int | None,
        overlap_ms: int,
        now_ms: int,
        by: Actor = GATEWAY,
    ) -> tuple[KeyRecord, KeyRecord]:
        """See `KeyStore`."""
        async with self._writing() as (connection, revision):
            found = await _not_deleted(connection, key_id)
            key = NewKey(
                digest,
                found.name,
                found.description,
                expires_at_ms,
                found.signals,
                limits=found.limits,
            )
            successor = await _insert(connection, key, revision, now_ms)
            ends_at_ms = now_ms + overlap_ms
            predecessor = msgspec.structs.replace(
                found,
                expires_at_ms=min(found.expires_at_ms or ends_at_ms, ends_at_ms),
                updated_ms=now_ms,
                revision=revision,
            )
            await _update(connection, predecessor)
            changes = {"expiration": predecessor.expires_at_ms, "successor": successor.id}
            await audit.write(connection, Action.ROTATE, predecessor, by, changes)
            return successor, predecessor

    async def purge(self, deleted_before_ms: int) -> None:
        """See `KeyStore`."""
        is_due = keys_table.c.deleted_at_ms < deleted_before_ms
        newest = sa.select(sa.func.max(keys_table.c.revision)).where(is_due)
        async with self._reading() as connection:
            if (await connection.execute(newest)).scalar() is None:
                return  # the usual case: no write lock is taken for nothing
        async with self._transaction() as connection:
            # The row is locked by an update of itself: a purge makes no revision.
            await connection.execute(
                sa.update(store_table).values(purged_revision=store_table.c.purged_revision)
            )
            revision = (await connection.execute(newest)).scalar() or 0
            await connection.execute(sa.delete(keys_table).where(is_due))
            await connection.execute(
                sa.update(store_table)
                .where(store_table.c.purged_revision < revision)
                .values(purged_revision=revision)
            )

    async def _head(self, connection: AsyncConnection) -> sa.Row[Any]:
        head = (await connection.execute(sa.select(store_table))).one_or_none()
        if head is None:
            msg = f"{self.location}: its table gateway_key_store is empty; restore it from a backup"
            raise StoreDamagedError(msg)
        return head

    def _opened(self) -> AsyncEngine:
        if self._engine is None:
            msg = "the store is not open"
            raise RuntimeError(msg)
        return self._engine

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        with self._database.translated():
            async with self._opened().connect() as connection:
                yield await connection.execution_options(**self._database.reading)

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        with self._database.translated():
            async with self._opened().begin() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def _writing(self) -> AsyncIterator[tuple[AsyncConnection, int]]:
        """Begin a transaction that holds the next revision, and with it the right to write."""
        async with self._transaction() as connection:
            following = sa.update(store_table).values(revision=store_table.c.revision + 1)
            result = await connection.execute(following.returning(store_table.c.revision))
            yield connection, result.scalar_one()
            await self._database.announce(connection)


async def _read(connection: AsyncConnection, query: sa.Select[Any]) -> list[KeyRecord]:
    """Read keys in parts, so that other tasks go on in between."""
    records: list[KeyRecord] = []
    result = await connection.stream(query)
    async for rows in result.partitions(PARTITION):
        records.extend(_records(rows))
    return records


def _records(rows: Iterable[Sequence[Any]]) -> list[KeyRecord]:
    """Turn rows of `_COLUMNS` into records.

    Raises `StoreDamagedError` for what cannot have been written by us.
    """
    try:
        return [_record(*row) for row in rows]
    except (TypeError, ValueError) as error:
        msg = f"a row of gateway_keys makes no sense ({error}): restore the store from a backup"
        raise StoreDamagedError(msg) from error


async def _one(connection: AsyncConnection, condition: sa.ColumnElement[bool]) -> KeyRecord | None:
    found = await _read(connection, sa.select(*_COLUMNS).where(condition))
    return found[0] if found else None


async def _not_deleted(connection: AsyncConnection, key_id: int) -> KeyRecord:
    found = await _one(connection, keys_table.c.id == key_id)
    if found is None:
        msg = f"there is no key with id {key_id}: `gateway keys list` shows all"
        raise KeyNotFoundError(msg)
    if found.deleted_at_ms is not None:
        msg = f"the key {key_id} was already deleted on {describe_day(found.deleted_at_ms)}"
        raise KeyNotFoundError(msg)
    return found


async def _insert(
    connection: AsyncConnection, key: NewKey, revision: int, now_ms: int
) -> KeyRecord:
    twin = await _one(connection, keys_table.c.digest == key.digest)
    if twin is not None:
        raise DuplicateKeyError(_twin_text(twin), twin.id)
    record = KeyRecord(
        id=await _free_id(connection),
        digest=key.digest,
        name=key.name,
        created_ms=now_ms,
        updated_ms=now_ms,
        revision=revision,
        description=key.description,
        expires_at_ms=key.expires_at_ms,
        signals=key.signals,
        limits=key.limits,
    )
    await connection.execute(sa.insert(keys_table).values(**_columns(record)))
    return record


async def _free_id(connection: AsyncConnection) -> int:
    while True:
        key_id = new_key_id()
        if await _one(connection, keys_table.c.id == key_id) is None:
            return key_id


async def _update(connection: AsyncConnection, record: KeyRecord) -> None:
    statement = sa.update(keys_table).where(keys_table.c.id == record.id)
    await connection.execute(statement.values(**_columns(record)))


def _columns(record: KeyRecord) -> dict[str, Any]:
    columns = msgspec.structs.asdict(record)
    if record.signals is not None:
        columns["signals"] = sorted(record.signals)
    if record.limits is not None:
        columns["limits"] = limits_in_words(record.limits)
    return columns


def _facts(record: KeyRecord) -> dict[str, Any]:
    """What the audit log says of a new key, besides its id and name."""
    columns = _columns(record)
    facts = {
        "expiration": record.expires_at_ms,
        "signals": columns["signals"],
        "limits": columns["limits"],
    }
    return {name: value for name, value in facts.items() if value is not None}


def _record(  # noqa: PLR0913, PLR0917 - one parameter a column: fast for a million
    key_id: int,
    digest: bytes,
    name: str,
    created_ms: int,
    updated_ms: int,
    revision: int,
    description: str | None,
    expires_at_ms: int | None,
    deleted_at_ms: int | None,
    enabled: bool,  # noqa: FBT001 - as above
    signals: list[str] | str | None,
    limits: dict[str, Any] | str | None,
) -> KeyRecord:
    if len(digest) != _DIGEST_BYTES:
        msg = f"the digest of key {key_id} has {len(digest)} bytes"
        raise ValueError(msg)
    return KeyRecord(
        key_id,
        KeyDigest(digest),
        name,
        created_ms,
        # One object for both times, as long as the key was not changed.
        created_ms if updated_ms == created_ms else updated_ms,
        revision,
        description,
        expires_at_ms,
        deleted_at_ms,
        enabled,
        None if signals is None else _signals(signals),
        None if limits is None else _limits(limits),
    )


def _signals(names: list[str] | str) -> frozenset[Signal]:
    """Read the names of signals (or their JSON); those of later versions mean nothing here."""
    if isinstance(names, str):
        names = json.loads(names)
    return frozenset(_SIGNALS[name] for name in names if name in _SIGNALS)


def _limits(given: dict[str, Any] | str) -> KeyLimits | None:
    """Read limits (or their JSON); those of later versions mean nothing here."""
    members = json.loads(given) if isinstance(given, str) else given
    limits = KeyLimits(*(members.get(name) for name in KeyLimits._fields))
    if any(each is not None and (type(each) is not int or each < 0) for each in limits):
        msg = f"limits {limits} are no numbers"
        raise ValueError(msg)
    return None if limits == KeyLimits() else limits


def _twin_text(twin: KeyRecord) -> str:
    if twin.deleted_at_ms is not None:
        day = describe_day(twin.deleted_at_ms)
        return (
            f"this key existed with id {twin.id} and was deleted on {day}: a deleted key is not"
            " taken again, create another one"
        )
    return f"this key exists already with id {twin.id}: `gateway keys list` shows it"
