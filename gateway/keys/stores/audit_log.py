"""The audit log in an SQL database: written in the transaction that makes the change."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from gateway.keys.audit import Action, Actor, AuditRecord
from gateway.keys.record import KeyRecord
from gateway.keys.stores.sql import SqlConnection, insert_all

MOST_RECORDS: Final = 1_000
"""That are read at once."""
_COLUMNS: Final = "revision, at_ms, action, key_id, key_name, who, origin, changes"
_INSERT: Final = f"INSERT INTO gateway_key_audit ({_COLUMNS})"
_SELECT: Final = f"SELECT {_COLUMNS} FROM gateway_key_audit WHERE revision < $1"  # noqa: S608 - our own names
_OF_KEY: Final = " AND key_id = $3"
_NEWEST: Final = " ORDER BY revision DESC LIMIT $2"
_NO_BOUND: Final = (1 << 63) - 1


async def write(
    connection: SqlConnection,
    action: Action,
    record: KeyRecord,
    by: Actor,
    changes: Mapping[str, Any],
) -> None:
    """Add a record of a change that has just made `record` what it is."""
    await write_all(connection, action, [(record, changes)], by)


async def write_all(
    connection: SqlConnection,
    action: Action,
    changed: Iterable[tuple[KeyRecord, Mapping[str, Any]]],
    by: Actor,
) -> None:
    """Add a record for each of several keys; each has a revision of its own."""
    rows = [
        (
            record.revision,
            record.updated_ms,
            action.value,
            record.id,
            record.name,
            by.who,
            by.origin,
            json.dumps(dict(changes)),
        )
        for record, changes in changed
    ]
    await insert_all(connection, _INSERT, rows)


async def read(
    connection: SqlConnection, limit: int, before: int | None, key_id: int | None
) -> list[AuditRecord]:
    """Read the newest `limit` records, with ids below `before`, on one key; newest first."""
    bounds = (_NO_BOUND if before is None else before, min(limit, MOST_RECORDS))
    if key_id is None:
        rows = await connection.fetch(_SELECT + _NEWEST, *bounds)
    else:
        rows = await connection.fetch(_SELECT + _OF_KEY + _NEWEST, *bounds, key_id)
    return [_record(*row) for row in rows]


def _record(  # noqa: PLR0913, PLR0917 - one parameter a column
    revision: int,
    at_ms: int,
    action: str,
    key_id: int,
    key_name: str,
    who: str,
    origin: str,
    changes: str,
) -> AuditRecord:
    return AuditRecord(
        id=revision,
        at_ms=at_ms,
        action=Action(action),
        key_id=key_id,
        key_name=key_name,
        by=Actor(who, origin),
        changes=json.loads(changes),
    )
