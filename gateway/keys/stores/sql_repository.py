"""Changing keys in an SQL database, each change with its record in the audit log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.keys.api_key import new_key_id
from gateway.keys.audit import GATEWAY, Action, Actor, AuditRecord
from gateway.keys.errors import DuplicateKeyError, KeyNotFoundError
from gateway.keys.record import KeyRecord
from gateway.keys.store import KeySpec, KeyUpdate, NewKey
from gateway.keys.stores import audit_log
from gateway.keys.stores.database import Transactions
from gateway.keys.stores.rows import columns_of, read_one
from gateway.keys.stores.schema import keys_table
from gateway.keys.tenancy import tenancy_as_json
from gateway.keys.tenancy_rules import check_tenancy
from gateway.keys.times import describe_day
from gateway.model import KeyDigest


class SqlRepository:
    """A `KeyRepository` in an SQL database."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def find(self, key_id: int) -> KeyRecord | None:
        """See `KeyRepository`."""
        async with self._transactions.reading() as connection:
            return await read_one(connection, keys_table.c.id == key_id)

    async def create(self, key: NewKey, now_ms: int, by: Actor = GATEWAY) -> KeyRecord:
        """See `KeyRepository`."""
        async with self._transactions.writing() as (connection, revision):
            record = await _insert(connection, key, revision, now_ms)
            action = Action.ADOPT if key.is_adopted else Action.CREATE
            await audit_log.write(connection, action, record, by, _facts(record))
            return record

    async def update(
        self, key_id: int, update: KeyUpdate, now_ms: int, by: Actor = GATEWAY
    ) -> KeyRecord:
        """See `KeyRepository`."""
        async with self._transactions.writing() as (connection, revision):
            found = await _not_deleted(connection, key_id)
            fields = update.fields(found.limits, found.tenancy)
            tenancy = fields.get("tenancy", found.tenancy)
            check_tenancy(tenancy)
            replaced = fields | {"tenancy": tenancy, "updated_ms": now_ms, "revision": revision}
            record = found.replaced(**replaced)
            await _update(connection, record)
            changes = _changes(found, record, fields)
            await audit_log.write(connection, Action.UPDATE, record, by, changes)
            return record

    async def delete(self, key_id: int, now_ms: int, by: Actor = GATEWAY) -> KeyRecord:
        """See `KeyRepository`."""
        async with self._transactions.writing() as (connection, revision):
            found = await _not_deleted(connection, key_id)
            tombstone = msgspec.structs.replace(
                found,
                description=None,
                deleted_at_ms=now_ms,
                updated_ms=now_ms,
                revision=revision,
            )
            await _update(connection, tombstone)
            await audit_log.write(connection, Action.DELETE, tombstone, by, {})
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
        """See `KeyRepository`."""
        async with self._transactions.writing() as (connection, revision):
            found = await _not_deleted(connection, key_id)
            spec = KeySpec(
                found.name,
                found.description,
                expires_at_ms,
                found.signals,
                found.limits,
                found.tenancy,
            )
            key = NewKey(digest, spec)
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
            await audit_log.write(connection, Action.ROTATE, predecessor, by, changes)
            return successor, predecessor

    async def audit(
        self, limit: int, before: int | None = None, key_id: int | None = None
    ) -> list[AuditRecord]:
        """See `KeyRepository`."""
        async with self._transactions.reading() as connection:
            return await audit_log.read(connection, limit, before, key_id)


async def _not_deleted(connection: AsyncConnection, key_id: int) -> KeyRecord:
    found = await read_one(connection, keys_table.c.id == key_id)
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
    twin = await read_one(connection, keys_table.c.digest == key.digest)
    if twin is not None:
        raise DuplicateKeyError(_twin_text(twin), twin.id)
    spec = key.spec
    record = KeyRecord(
        id=await _free_id(connection),
        digest=key.digest,
        name=spec.name,
        created_ms=now_ms,
        updated_ms=now_ms,
        revision=revision,
        description=spec.description,
        expires_at_ms=spec.expires_at_ms,
        signals=spec.signals,
        limits=spec.limits,
    )
    if spec.tenancy is not None:
        record = record.replaced(tenancy=spec.tenancy)
    await connection.execute(sa.insert(keys_table).values(**columns_of(record)))
    return record


async def _free_id(connection: AsyncConnection) -> int:
    while True:
        key_id = new_key_id()
        if await read_one(connection, keys_table.c.id == key_id) is None:
            return key_id


async def _update(connection: AsyncConnection, record: KeyRecord) -> None:
    statement = sa.update(keys_table).where(keys_table.c.id == record.id)
    await connection.execute(statement.values(**columns_of(record)))


def _changes(before: KeyRecord, after: KeyRecord, fields: Iterable[str]) -> dict[str, Any]:
    """What the audit log says of a change: the new values; those of a tenancy that differ."""
    columns = columns_of(after)
    changes = {name: columns[name] for name in fields if name != "tenancy"}
    old, new = tenancy_as_json(before.tenancy), tenancy_as_json(after.tenancy)
    names = ("owner", "labels", "headers")
    return changes | {name: new.get(name) for name in names if old.get(name) != new.get(name)}


def _facts(record: KeyRecord) -> dict[str, Any]:
    """What the audit log says of a new key, besides its id and name."""
    columns = columns_of(record)
    facts = {
        "expiration": record.expires_at_ms,
        "signals": columns["signals"],
        "limits": columns["limits"],
        **tenancy_as_json(record.tenancy),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _twin_text(twin: KeyRecord) -> str:
    if twin.deleted_at_ms is not None:
        day = describe_day(twin.deleted_at_ms)
        return (
            f"this key existed with id {twin.id} and was deleted on {day}: a deleted key is not"
            " taken again, create another one"
        )
    return f"this key exists already with id {twin.id}: `gateway keys list` shows it"
