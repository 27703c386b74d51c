"""Who changed which key, when and from where: the audit log's words.

Every store that can be changed keeps the log itself, in the transaction that makes the change:
there is no change without its entry, and no entry without its change. An entry never contains a
key. What is written into an SQL database and read from it stands here too, next to `keys.sql`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.keys.record import KeyRecord
from gateway.keys.schema import audit_table

MOST_ENTRIES: Final = 1_000
"""That are read at once."""


class Action(enum.StrEnum):
    """What was done to a key."""

    CREATE = "create"
    ADOPT = "adopt"
    UPDATE = "update"
    ROTATE = "rotate"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change, as far as can be told."""

    who: str
    """The name of a token of the admin API, or `user NAME` for commands on the store itself."""
    origin: str
    """Where from: an address, or `host NAME`."""


GATEWAY: Final = Actor("gateway", "itself")
"""Changes that nobody asked for by command or API, such as the demo's first key."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change of one key."""

    id: int
    """The store's revision that made the change: later ones are greater."""
    at_ms: int
    """Unix milliseconds, by the clock of whoever made the change."""
    action: Action
    key_id: int
    key_name: str
    """As it was called after the change."""
    by: Actor
    changes: Mapping[str, Any]
    """What was set, by the API's names; JSON values."""


async def write(
    connection: AsyncConnection,
    action: Action,
    record: KeyRecord,
    by: Actor,
    changes: Mapping[str, Any],
) -> None:
    """Add an entry about a change that has just made `record` what it is."""
    await connection.execute(
        sa.insert(audit_table).values(
            revision=record.revision,
            at_ms=record.updated_ms,
            action=action.value,
            key_id=record.id,
            key_name=record.name,
            who=by.who,
            origin=by.origin,
            changes=dict(changes),
        )
    )


async def read(
    connection: AsyncConnection, limit: int, before: int | None, key_id: int | None
) -> list[AuditEntry]:
    """Read the newest `limit` entries, with ids below `before`, on one key; newest first."""
    query = sa.select(audit_table).order_by(audit_table.c.revision.desc())
    if before is not None:
        query = query.where(audit_table.c.revision < before)
    if key_id is not None:
        query = query.where(audit_table.c.key_id == key_id)
    rows = await connection.execute(query.limit(min(limit, MOST_ENTRIES)))
    return [_entry(row) for row in rows]


def _entry(row: sa.Row[Any]) -> AuditEntry:
    return AuditEntry(
        id=row.revision,
        at_ms=row.at_ms,
        action=Action(row.action),
        key_id=row.key_id,
        key_name=row.key_name,
        by=Actor(row.who, row.origin),
        changes=row.changes,
    )
