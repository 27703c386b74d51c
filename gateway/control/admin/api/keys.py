"""The operations on keys: each asks the key service and says how the answer looks.

How requests are read belongs to `operations`, the rules of keys to `keys.commands`.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import hdrs
from msgspec import UNSET

from gateway.control.admin.api import shapes
from gateway.control.admin.api.errors import Reply
from gateway.control.admin.api.key_filter import KeyFilter
from gateway.control.admin.api.key_json import audit_json, issued_json, key_json, rotated_json
from gateway.control.admin.api.operations import Call, Pages
from gateway.control.admin.api.paths import (
    AUDIT_PATH,
    CONFIRMED,
    EXCEPT_STANDBYS,
    KEYS_PATH,
    UNCONFIRMED,
    USAGE_PATH,
)
from gateway.control.admin.api.usage import UsageChoice, place_of, usage_rows
from gateway.keys.api_key import ApiKey
from gateway.keys.errors import KeyNotFoundError, StoreError
from gateway.keys.record import KeyRecord, KnownKey
from gateway.keys.service import KeyService
from gateway.keys.store import Confirmation, KeySpec, KeyUpdate
from gateway.keys.tenancy import Tenancy, TenancyUpdate, tenancy
from gateway.keys.tenancy_rules import check_headers
from gateway.model import KeyLimits, Signal

_PAGE: Final = 1_000
"""Keys that are read and sent at once where no page is asked for."""
_AUDIT_PAGE: Final = 100
_CONFIRM_S: Final = 1.0
_CONFIRM_REMOTE_S: Final = 5.0
"""The same for a store that hosts share: behind a pooler a gateway looks for changes every 2 s."""
_ASK_S: Final = 6.0
"""The longest time for asking gateways, connecting to a database included."""


@dataclass(frozen=True, slots=True)
class KeysApi:
    """Keys by HTTP. `confirmed` waits until the workers of this gateway decide by a revision."""

    keys: KeyService
    confirmed: Callable[[int], Awaitable[bool]]

    async def list_keys(self, call: Call) -> Reply | Pages:
        """Return all keys that are chosen, or a page of them: `limit` keys after the id `after`."""
        limit = call.parameters.get("limit")
        after = call.parameters.get("after", 0)
        owner, labels = call.parameters.get("owner"), call.parameters.get("label", ())
        chosen = KeyFilter.of(owner, labels, call.by.scope)
        if limit is None:
            return Pages(self._parts(after, chosen))
        # One more than asked for tells whether there is a next page.
        records = await self._first(limit + 1, after, chosen)
        headers = {}
        if len(records) > limit:
            records = records[:limit]
            headers = next_page(KEYS_PATH, limit=limit, after=records[-1].id, **chosen.parameters())
        return Reply(200, await self._shown(records), headers)

    async def _first(self, count: int, after: int, chosen: KeyFilter) -> list[KeyRecord]:
        if chosen.takes_all:
            return await self.keys.commands.live(after, count)
        found: list[KeyRecord] = []
        while len(found) < count:
            records = await self.keys.commands.live(after, _PAGE)
            found += [record for record in records if chosen.takes(record.tenancy)]
            if len(records) < _PAGE:
                break
            after = records[-1].id
        return found[:count]

    async def _parts(self, after: int, chosen: KeyFilter) -> AsyncIterator[list[Any]]:
        while True:
            records = await self.keys.commands.live(after, _PAGE)
            taken = [record for record in records if chosen.takes(record.tenancy)]
            if taken:
                yield await self._shown(taken)
            if len(records) < _PAGE:
                return
            after = records[-1].id

    async def get(self, call: Call) -> Reply:
        """Return one key."""
        key_id = call.parameters["id"]
        records = await self.keys.commands.live(key_id - 1, 1)
        is_there = bool(records) and records[0].id == key_id
        if not is_there or not call.by.scope.covers(records[0].tenancy):
            msg = f"there is no key with id {key_id}: list the keys to see all"
            raise KeyNotFoundError(msg)
        return Reply(200, (await self._shown(records))[0])

    async def create(self, call: Call) -> Reply:
        """Make a key and show it, this once."""
        body: shapes.CreateIngestionApiKeyRequest = call.body
        issued = await self.keys.commands.create(spec_of(body), call.by)
        return Reply(200, issued_json(issued), await self.confirmation(issued.record))

    async def adopt(self, call: Call) -> Reply:
        """Take over a key that exists elsewhere."""
        body: shapes.AdoptIngestionApiKeyRequest = call.body
        key = ApiKey.adopt(body.api_key)
        issued = await self.keys.commands.adopt(key, spec_of(body), call.by)
        return Reply(200, key_json(issued.record), await self.confirmation(issued.record))

    async def update(self, call: Call) -> Reply:
        """Change what is named of a key."""
        body: shapes.UpdateIngestionApiKeyRequest = call.body
        update = KeyUpdate(
            name=None if body.name is UNSET else body.name,
            description=None if body.description is UNSET else body.description or "",
            enabled=None if body.enabled is UNSET else body.enabled,
            signals=None if body.signals is UNSET else frozenset(body.signals or Signal),
            limits=None if body.limits is UNSET else _limits_update(body.limits),
            tenancy=_tenancy_update(body),
        )
        updated = await self.keys.commands.update(call.parameters["id"], update, call.by)
        headers = await self.confirmation(updated)
        return Reply(200, (await self._shown([updated]))[0], headers)

    async def rotate(self, call: Call) -> Reply:
        """Make a successor; the old key goes on for the overlap."""
        body: shapes.RotateIngestionApiKeyRequest = call.body
        rotated = await self.keys.commands.rotate(
            call.parameters["id"], body.overlap, body.expiration, call.by
        )
        key_id = rotated.predecessor.key_id
        usage = await self.keys.usage.sums([key_id])
        response = rotated_json(rotated, usage.get(key_id))
        return Reply(200, response, await self.confirmation(rotated.predecessor))

    async def delete(self, call: Call) -> Reply:
        """Delete a key."""
        deleted = await self.keys.commands.delete(call.parameters["id"], call.by)
        return Reply(204, None, await self.confirmation(deleted))

    async def audit(self, call: Call) -> Reply:
        """Return changes, newest first."""
        limit = call.parameters.get("limit", _AUDIT_PAGE)
        key_id = call.parameters.get("keyId")
        before, scope = call.parameters.get("before"), call.by.scope
        entries = await self.keys.commands.audit(limit + 1, before, key_id, scope)
        headers = {}
        if len(entries) > limit:
            entries = entries[:limit]
            query = {"limit": limit, "before": entries[-1].id}
            headers = next_page(AUDIT_PATH, **query, **({"keyId": key_id} if key_id else {}))
        return Reply(200, [audit_json(entry) for entry in entries], headers)

    async def usage(self, call: Call) -> Reply | Pages:
        """Return usage by day, month or key: all of it, or the `limit` rows after `after`."""
        limit = call.parameters.get("limit")
        choice = UsageChoice.of(call.parameters, scope=call.by.scope)
        rows = usage_rows(self.keys.usage.periods, self._find, choice)
        if limit is None:
            return Pages(rows)
        found: list[shapes.KeyUsageRow] = []
        async for part in rows:
            found += part
            if len(found) > limit:
                break
        headers = {}
        if len(found) > limit:
            found = found[:limit]
            headers = next_page(USAGE_PATH, **{**call.parameters, "after": place_of(found[-1])})
        return Reply(200, found, headers)

    async def _find(self, key_ids: Collection[str]) -> Mapping[str, KnownKey]:
        known = ((each, self.keys.record(each)) for each in key_ids)
        return {key_id: key for key_id, key in known if key is not None}

    async def _shown(self, records: Sequence[KeyRecord]) -> list[Any]:
        usage = await self.keys.usage.sums([record.key_id for record in records])
        return [key_json(record, usage.get(record.key_id)) for record in records]

    async def confirmation(self, changed: KeyRecord) -> dict[str, str]:
        """Wait for all gateways that share the store; say whether all of them decide by the change,
        or which do not.
        """
        is_here, shared = await asyncio.gather(
            self._is_in_force_here(changed), self._shared(changed)
        )
        if shared is None or shared.pending or not is_here:
            late = sorted(shared.pending) if shared is not None else []
            return {CONFIRMED: "false", **({UNCONFIRMED: ", ".join(late)} if late else {})}
        return {CONFIRMED: EXCEPT_STANDBYS if shared.has_standbys else "true"}

    async def _is_in_force_here(self, changed: KeyRecord) -> bool:
        known = self.keys.record(changed.key_id)
        # The service may have failed to read back what it has just stored: it tries again.
        is_known = isinstance(known, KeyRecord) and known.revision >= changed.revision
        return is_known and await self.confirmed(self.keys.revision)

    async def _shared(self, changed: KeyRecord) -> Confirmation | None:
        """None where nobody could be asked."""
        try:
            async with asyncio.timeout(_ASK_S):
                return await self.keys.commands.in_force(changed, _CONFIRM_S, _CONFIRM_REMOTE_S)
        except (StoreError, TimeoutError):
            return None


Described = (
    shapes.CreateIngestionApiKeyRequest
    | shapes.AdoptIngestionApiKeyRequest
    | shapes.PortableIngestionApiKey
)
"""What describes a key that is not stored yet."""


def spec_of(body: Described) -> KeySpec:
    """Return what a request says of a key. Raises `InvalidInputError`."""
    return KeySpec(
        body.name,
        body.description,
        body.expiration,
        None if body.signals is None else frozenset(body.signals),
        None if body.limits is None else KeyLimits(**_limits_update(body.limits)),
        _tenancy(body),
    )


def _tenancy(body: Described) -> Tenancy | None:
    check_headers(body.headers or {})
    return tenancy(body.owner, body.labels, body.headers)


def _tenancy_update(body: shapes.UpdateIngestionApiKeyRequest) -> TenancyUpdate | None:
    maps = {"labels": body.labels, "headers": body.headers}
    update = TenancyUpdate(
        owner=None if body.owner is UNSET else body.owner or "",
        labels=None if body.labels is UNSET else body.labels,
        headers=None if body.headers is UNSET else body.headers,
        replaced=frozenset(name for name, value in maps.items() if value is None),
    )
    return None if update == TenancyUpdate() else update


def _limits_update(limits: shapes.KeyLimits | None) -> dict[str, int | None]:
    """Return what is to be set, None = the default again."""
    if limits is None:
        return dict.fromkeys(KeyLimits._fields)
    return {
        name: value for name, value in msgspec.structs.asdict(limits).items() if value is not UNSET
    }


def next_page(path: str, **query: object) -> dict[str, str]:
    """Say where the next page is (RFC 8288): a field that old clients do not look at."""
    return {hdrs.LINK: f'<{path}?{urllib.parse.urlencode(query, doseq=True)}>; rel="next"'}
