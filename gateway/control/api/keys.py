"""The operations on keys: each asks the key service and says how the answer looks.

How requests are read belongs to `operations`, the rules of keys to `keys.manage`.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import hdrs
from msgspec import UNSET

from gateway.control.api import shapes
from gateway.control.api.errors import Reply
from gateway.control.api.operations import CONFIRMED, Call, Pages
from gateway.keys.audit import AuditEntry
from gateway.keys.errors import KeyNotFoundError
from gateway.keys.manage import Issued
from gateway.keys.material import KeyMaterial
from gateway.keys.record import KeyRecord, KeyUsage, limits_in_words
from gateway.keys.service import KeyService
from gateway.keys.store import KeyUpdate
from gateway.model import KeyLimits, Signal

KEYS_PATH: Final = "/api/security/ingestion/api_keys"
ADOPT_PATH: Final = "/api/security/ingestion/adopt"
AUDIT_PATH: Final = "/api/security/ingestion/audit"
_PAGE: Final = 1_000
"""Keys that are read and sent at once where no page is asked for."""
_AUDIT_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class KeysApi:
    """Keys by HTTP. `confirmed` waits until the workers decide by a revision of the service."""

    keys: KeyService
    confirmed: Callable[[int], Awaitable[bool]]

    async def list_keys(self, call: Call) -> Reply | Pages:
        """Give all keys, or a page of them: `limit` keys after the id `after`."""
        limit = call.parameters.get("limit")
        after = call.parameters.get("after", 0)
        if limit is None:
            return Pages(self._parts(after))
        # One more than asked for tells whether there is a next page.
        records = await self.keys.live_page(after, limit + 1)
        headers = {}
        if len(records) > limit:
            records = records[:limit]
            headers = _next_page(KEYS_PATH, limit=limit, after=records[-1].id)
        return Reply(200, await self._shown(records), headers)

    async def _parts(self, after: int) -> AsyncIterator[list[Any]]:
        while True:
            records = await self.keys.live_page(after, _PAGE)
            if records:
                yield await self._shown(records)
                after = records[-1].id
            if len(records) < _PAGE:
                return

    async def get(self, call: Call) -> Reply:
        """Give one key."""
        key_id = call.parameters["id"]
        records = await self.keys.live_page(key_id - 1, 1)
        if not records or records[0].id != key_id:
            msg = f"there is no key with id {key_id}: list the keys to see all"
            raise KeyNotFoundError(msg)
        return Reply(200, (await self._shown(records))[0])

    async def create(self, call: Call) -> Reply:
        """Make a key and show it, this once."""
        body: shapes.CreateIngestionApiKeyRequest = call.body
        issued = await self.keys.create(
            body.name,
            body.description,
            body.expiration,
            _signals(body.signals),
            _limits(body.limits),
            call.by,
        )
        headers = await self._confirmation(issued.record)
        return Reply(200, _generated(issued), headers)

    async def adopt(self, call: Call) -> Reply:
        """Take over a key that exists elsewhere."""
        body: shapes.AdoptIngestionApiKeyRequest = call.body
        issued = await self.keys.adopt(
            KeyMaterial.adopt(body.api_key),
            body.name,
            body.description,
            body.expiration,
            _signals(body.signals),
            _limits(body.limits),
            call.by,
        )
        return Reply(200, shown(issued.record), await self._confirmation(issued.record))

    async def update(self, call: Call) -> Reply:
        """Change what is named of a key."""
        body: shapes.UpdateIngestionApiKeyRequest = call.body
        update = KeyUpdate(
            name=None if body.name is UNSET else body.name,
            description=None if body.description is UNSET else body.description or "",
            enabled=None if body.enabled is UNSET else body.enabled,
            signals=None if body.signals is UNSET else frozenset(body.signals or Signal),
            limits=None if body.limits is UNSET else _limits_update(body.limits),
        )
        updated = await self.keys.update(call.parameters["id"], update, call.by)
        headers = await self._confirmation(updated)
        return Reply(200, (await self._shown([updated]))[0], headers)

    async def rotate(self, call: Call) -> Reply:
        """Make a successor; the old key goes on for the overlap."""
        body: shapes.RotateIngestionApiKeyRequest = call.body
        rotated = await self.keys.rotate(
            call.parameters["id"], body.overlap, body.expiration, call.by
        )
        predecessor = (await self._shown([rotated.predecessor]))[0]
        generated = _generated(rotated.issued)
        response = shapes.RotatedIngestionApiKeyResponse(
            **{name: getattr(generated, name) for name in generated.__struct_fields__},
            predecessor=predecessor,
        )
        return Reply(200, response, await self._confirmation(rotated.predecessor))

    async def delete(self, call: Call) -> Reply:
        """Delete a key."""
        deleted = await self.keys.delete(call.parameters["id"], call.by)
        return Reply(204, None, await self._confirmation(deleted))

    async def audit(self, call: Call) -> Reply:
        """Give changes, newest first."""
        limit = call.parameters.get("limit", _AUDIT_PAGE)
        key_id = call.parameters.get("keyId")
        entries = await self.keys.audit(limit + 1, call.parameters.get("before"), key_id)
        headers = {}
        if len(entries) > limit:
            entries = entries[:limit]
            query = {"limit": limit, "before": entries[-1].id}
            headers = _next_page(AUDIT_PATH, **query, **({"keyId": key_id} if key_id else {}))
        return Reply(200, [_entry(entry) for entry in entries], headers)

    async def _shown(self, records: Sequence[KeyRecord]) -> list[Any]:
        usage = await self.keys.usage_of([record.key_id for record in records])
        return [shown(record, usage.get(record.key_id)) for record in records]

    async def _confirmation(self, changed: KeyRecord) -> dict[str, str]:
        """Wait for the workers; say whether all of them decide by the change."""
        known = self.keys.record(changed.key_id)
        # The service may have failed to read back what it has just stored: it tries again.
        is_known = isinstance(known, KeyRecord) and known.revision >= changed.revision
        confirmed = is_known and await self.confirmed(self.keys.revision)
        return {CONFIRMED: "true" if confirmed else "false"}


def shown(record: KeyRecord, usage: KeyUsage | None = None) -> shapes.IngestionApiKey:
    """Write a key as lists show it."""
    return shapes.IngestionApiKey(**_members(record, usage))


def _generated(issued: Issued) -> shapes.GeneratedIngestionApiKeyResponse:
    return shapes.GeneratedIngestionApiKeyResponse(
        **_members(issued.record, None), api_key=issued.key.reveal()
    )


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
        members["limits"] = shapes.KeyLimits(**limits_in_words(record.limits))
    if usage is not None:
        if usage.last_used_ms:
            members["last_used_timestamp"] = usage.last_used_ms
        members["usage"] = shapes.KeyTraffic(usage.requests, usage.bytes, usage.refusals)
    return members


def _signals(signals: Sequence[Signal] | None) -> frozenset[Signal] | None:
    return None if signals is None else frozenset(signals)


def _limits(limits: shapes.KeyLimits | None) -> KeyLimits | None:
    return None if limits is None else KeyLimits(**_limits_update(limits))


def _limits_update(limits: shapes.KeyLimits | None) -> dict[str, int | None]:
    """Give what is to be set, None = the default again."""
    if limits is None:
        return dict.fromkeys(KeyLimits._fields)
    return {
        name: value for name, value in msgspec.structs.asdict(limits).items() if value is not UNSET
    }


def _entry(entry: AuditEntry) -> shapes.AuditEntry:
    return shapes.AuditEntry(
        id=entry.id,
        timestamp=entry.at_ms,
        action=entry.action,
        key_id=entry.key_id,
        key_name=entry.key_name,
        who=entry.by.who,
        origin=entry.by.origin,
        changes=dict(entry.changes),
    )


def _next_page(path: str, **query: int) -> dict[str, str]:
    """Say where the next page is (RFC 8288): a field that old clients do not look at."""
    return {hdrs.LINK: f'<{path}?{urllib.parse.urlencode(query)}>; rel="next"'}
