"""The audit log in an SQL database: written in the transaction that makes the change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.keys.audit import Action, Actor, AuditRecord
from gateway.keys.record import KeyRecord
from gateway.keys.stores.schema import audit_table

MOST_RECORDS: Final = 1_000
"""That are read at once."""


async def write(
    connection: AsyncConnection,
    action: Action,
    record: KeyRecord,
    by: Actor,
    changes: Mapping[str, Any],
) -> None:
    """Add a record of a change that has just made `record` what it is."""
    await write_all(connection, action, [(record, changes)], by)


async def write_all(
    connection: AsyncConnection,
    action: Action,
    changed: Iterable[tuple[KeyRecord, Mapping[str, Any]]],
    by: Actor,
) -> None:
    """Add a record for each of several keys; each has a revision of its own."""
    rows = [
        {
            "revision": record.revision,
            "at_ms": record.updated_ms,
            "action": action.value,
            "key_id": record.id,
            "key_name": record.name,
            "who": by.who,
            "origin": by.origin,
            "changes": dict(changes),
        }
        for record, changes in changed
    ]
    await connection.execute(sa.insert(audit_table), rows)


async def read(
    connection: AsyncConnection, limit: int, before: int | None, key_id: int | None
) -> list[AuditRecord]:
    """Read the newest `limit` records, with ids below `before`, on one key; newest first."""
    query = sa.select(audit_table).order_by(audit_table.c.revision.desc())
    if before is not None:
        query = query.where(audit_table.c.revision < before)
    if key_id is not None:
        query = query.where(audit_table.c.key_id == key_id)
    rows = await connection.execute(query.limit(min(limit, MOST_RECORDS)))
    return [_record(row) for row in rows]


def _record(row: sa.Row[Any]) -> AuditRecord:
    return AuditRecord(
        id=row.revision,
        at_ms=row.at_ms,
        action=Action(row.action),
        key_id=row.key_id,
        key_name=row.key_name,
        by=Actor(row.who, row.origin),
        changes=row.changes,
    )
