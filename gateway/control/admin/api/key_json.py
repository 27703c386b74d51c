"""A key as JSON: the one place, for the management API and for `gateway keys --output json`.

The types are those of `shapes`; how they are sent or printed does not belong here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.control.admin.api import shapes
from gateway.keys.audit import AuditRecord
from gateway.keys.commands import Issued, Rotated
from gateway.keys.record import KeyRecord, KeyUsage, limits_as_json
from gateway.keys.tenancy import tenancy_as_json


def key_json(record: KeyRecord, usage: KeyUsage | None = None) -> shapes.IngestionApiKey:
    """Make of a key what lists show."""
    return shapes.IngestionApiKey(**_members(record, usage))


def portable_json(record: KeyRecord) -> shapes.PortableIngestionApiKey:
    """Make of a key what another store can take over."""
    members = _members(record, None)
    del members["last_update_timestamp"]
    return shapes.PortableIngestionApiKey(digest=f"sha256:{record.digest.hex()}", **members)


def issued_json(issued: Issued) -> shapes.GeneratedIngestionApiKeyResponse:
    """Make of a new key what its maker gets: the key itself, this once."""
    return shapes.GeneratedIngestionApiKeyResponse(
        **_members(issued.record, None), api_key=issued.key.reveal()
    )


def rotated_json(
    rotated: Rotated, predecessor_usage: KeyUsage | None = None
) -> shapes.RotatedIngestionApiKeyResponse:
    """Make of a rotation what its maker gets: the successor, and the old key."""
    return shapes.RotatedIngestionApiKeyResponse(
        **_members(rotated.issued.record, None),
        api_key=rotated.issued.key.reveal(),
        predecessor=key_json(rotated.predecessor, predecessor_usage),
    )


def audit_json(record: AuditRecord) -> shapes.AuditEntry:
    """Make of a change what the audit log shows."""
    return shapes.AuditEntry(
        id=record.id,
        timestamp=record.at_ms,
        action=record.action,
        key_id=record.key_id,
        key_name=record.key_name,
        who=record.by.who,
        origin=record.by.origin,
        changes=dict(record.changes),
    )


def members_of(value: msgspec.Struct) -> dict[str, Any]:
    """Turn any of these into the members of its JSON object."""
    members: dict[str, Any] = msgspec.to_builtins(value)
    return members


def _members(record: KeyRecord, usage: KeyUsage | None) -> dict[str, Any]:
    members: dict[str, Any] = {
        "id": record.id,
        "last_update_timestamp": record.updated_ms,
        "name": record.name,
        "enabled": record.enabled,
    }
    if record.description is not None:
        members["description"] = record.description
    if record.expires_at_ms is not None:
        members["expiration"] = record.expires_at_ms
    if record.signals is not None:
        members["signals"] = sorted(record.signals)
    if record.limits is not None:
        members["limits"] = shapes.KeyLimits(**limits_as_json(record.limits))
    members |= tenancy_as_json(record.tenancy)
    if usage is not None:
        if usage.last_used_ms:
            members["last_used_timestamp"] = usage.last_used_ms
        members["usage"] = shapes.KeyTraffic(usage.requests, usage.bytes, usage.refusals)
    return members
