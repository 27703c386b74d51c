"""Changing keys in an SQL database, each change with its record in the audit log."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import msgspec

from gateway.keys.api_key import new_key_id
from gateway.keys.audit import GATEWAY, Action, Actor, AuditRecord
from gateway.keys.errors import DuplicateKeyError, KeyNotFoundError
from gateway.keys.record import KeyRecord
from gateway.keys.store import ImportedKey, KeySpec, KeyUpdate, NewKey
from gateway.keys.stores import audit_log
from gateway.keys.stores.database import Transactions
from gateway.keys.stores.rows import (
    INSERT_KEYS,
    SELECT_KEYS,
    UPDATE_KEY,
    columns_of,
    read,
    read_one,
    values_of,
)
from gateway.keys.stores.sql import SqlConnection, insert_all, places
from gateway.keys.tenancy import tenancy_as_json
from gateway.keys.tenancy_rules import check_tenancy
from gateway.keys.times import describe_day
from gateway.model import KeyDigest

_AT_ONCE: Final = 5_000
"""Keys that one statement looks for: SQLite takes 32,766 parameters at most."""


class SqlRepository:
    """A `KeyRepository` in an SQL database."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def find(self, key_id: int) -> KeyRecord | None:
        """See `KeyRepository`."""
        async with self._transactions.reading() as connection:
            return await read_one(connection, "id", key_id)

    async def create(self, key: NewKey, now_ms: int, by: Actor = GATEWAY) -> KeyRecord:
        """See `KeyRepository`."""
        async with self._transactions.writing() as (connection, revision):
            record = await _insert(connection, key, revision, now_ms, by)
            action = Action.ADOPT if key.is_adopted else Action.CREATE
            await audit_log.write(connection, action, record, by, _facts(record))
            return record

    async def known(self, digests: Collection[bytes], ids: Collection[int]) -> list[KeyRecord]:
        """See `KeyRepository`."""
        async with self._transactions.reading() as connection:
            return await _known(connection, digests, ids)

    async def add_all(
        self, keys: Sequence[ImportedKey], now_ms: int, by: Actor = GATEWAY
    ) -> list[KeyRecord]:
        """See `KeyRepository`."""
        async with self._transactions.writing(len(keys)) as (connection, last):
            given = [new_key_id() if key.id is None else key.id for key in keys]
            found = await _known(connection, [key.digest for key in keys], given)
            digests, ids = ({each.digest for each in found}, {each.id for each in found})
            records = []
            for number, (key, key_id) in enumerate(zip(keys, given, strict=True)):
                if key.digest in digests:
                    continue
                if key_id in ids:
                    msg = f"the id {key_id} is another key's: leave it out"
                    raise DuplicateKeyError(msg, key_id)
                revision = last - len(keys) + 1 + number
                records.append(_imported(key, key_id, revision, now_ms))
            if records:
                rows = [values_of(record) for record in records]
                await insert_all(connection, INSERT_KEYS, rows)
                facts = [(record, _facts(record)) for record in records]
                await audit_log.write_all(connection, Action.ADOPT, facts, by)
            return records

    async def update(
        self, key_id: int, update: KeyUpdate, now_ms: int, by: Actor = GATEWAY
    ) -> KeyRecord:
        """See `KeyRepository`."""
        async with self._transactions.writing() as (connection, revision):
            found = await _not_deleted(connection, key_id, by)
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
            found = await _not_deleted(connection, key_id, by)
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
            found = await _not_deleted(connection, key_id, by)
            spec = KeySpec(
                found.name,
                found.description,
                expires_at_ms,
                found.signals,
                found.limits,
                found.tenancy,
            )
            key = NewKey(digest, spec)
            successor = await _insert(connection, key, revision, now_ms, by)
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


async def _known(
    connection: SqlConnection, digests: Collection[bytes], ids: Collection[int]
) -> list[KeyRecord]:
    found: dict[int, KeyRecord] = {}
    for column, values in (("digest", list(digests)), ("id", list(ids))):
        for first in range(0, len(values), _AT_ONCE):
            some = values[first : first + _AT_ONCE]
            query = f"{SELECT_KEYS} WHERE {column} IN {places(1, len(some))}"
            found.update((record.id, record) for record in await read(connection, query, *some))
    return list(found.values())


def _imported(key: ImportedKey, key_id: int, revision: int, now_ms: int) -> KeyRecord:
    spec = key.spec
    record = KeyRecord(
        id=key_id,
        digest=key.digest,
        name=spec.name,
        created_ms=now_ms,
        updated_ms=now_ms,
        revision=revision,
        description=spec.description,
        expires_at_ms=spec.expires_at_ms,
        enabled=key.enabled,
        signals=spec.signals,
        limits=spec.limits,
    )
    return record if spec.tenancy is None else record.replaced(tenancy=spec.tenancy)


async def _not_deleted(connection: SqlConnection, key_id: int, by: Actor) -> KeyRecord:
    found = await read_one(connection, "id", key_id)
    if found is None or not by.scope.covers(found.tenancy):
        msg = f"there is no key with id {key_id}: `gateway keys list` shows all"
        raise KeyNotFoundError(msg)
    if found.deleted_at_ms is not None:
        msg = f"the key {key_id} was already deleted on {describe_day(found.deleted_at_ms)}"
        raise KeyNotFoundError(msg)
    return found


async def _insert(
    connection: SqlConnection, key: NewKey, revision: int, now_ms: int, by: Actor
) -> KeyRecord:
    twin = await read_one(connection, "digest", key.digest)
    if twin is not None:
        raise DuplicateKeyError(_twin_text(twin, by), twin.id)
    same = ImportedKey(key.digest, key.spec)
    record = _imported(same, await _free_id(connection), revision, now_ms)
    await insert_all(connection, INSERT_KEYS, [values_of(record)])
    return record


async def _free_id(connection: SqlConnection) -> int:
    while True:
        key_id = new_key_id()
        if await read_one(connection, "id", key_id) is None:
            return key_id


async def _update(connection: SqlConnection, record: KeyRecord) -> None:
    await connection.execute(UPDATE_KEY, *values_of(record))


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


def _twin_text(twin: KeyRecord, by: Actor) -> str:
    if not by.scope.covers(twin.tenancy):
        return "this key cannot be taken over with this token: ask an administrator"
    if twin.deleted_at_ms is not None:
        day = describe_day(twin.deleted_at_ms)
        return (
            f"this key existed with id {twin.id} and was deleted on {day}: a deleted key is not"
            " taken again, create another one"
        )
    return f"this key exists already with id {twin.id}: `gateway keys list` shows it"
