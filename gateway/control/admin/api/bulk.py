"""The operations on many keys, and on a key that somebody has found.

What of an import is new in a store is `keys.importing`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.control.admin.api import shapes
from gateway.control.admin.api.errors import Reply
from gateway.control.admin.api.key_json import key_json, portable_json
from gateway.control.admin.api.keys import KeysApi, next_page, spec_of
from gateway.control.admin.api.operations import Call
from gateway.control.admin.api.paths import EXPORT_PATH
from gateway.keys.api_key import ApiKey, key_id_of
from gateway.keys.errors import KeyNotFoundError
from gateway.keys.store import ImportedKey
from gateway.keys.times import describe_day
from gateway.model import KeyDigest


@dataclass(frozen=True, slots=True)
class BulkApi:
    """Many keys by HTTP; one key by what it is."""

    keys: KeysApi

    async def bring_in(self, call: Call) -> Reply:
        """Store keys that the store does not know."""
        body: shapes.ImportIngestionApiKeysRequest = call.body
        commands = self.keys.keys.commands
        given = [_imported(each) for each in body.keys]
        done = await commands.bring_in(given, is_dry_run=body.dry_run, by=call.by)
        response = shapes.ImportIngestionApiKeysResponse(done.new, done.existing, done.deleted)
        headers = await self.keys.confirmation(done.records[-1]) if done.records else {}
        return Reply(200, response, headers)

    async def export(self, call: Call) -> Reply:
        """Return a page of keys with their digests."""
        limit = call.parameters.get("limit", shapes.MOST_PER_PAGE)
        after = call.parameters.get("after", 0)
        records = await self.keys.keys.commands.export(after, limit + 1)
        headers = {}
        if len(records) > limit:
            records = records[:limit]
            headers = next_page(EXPORT_PATH, limit=limit, after=records[-1].id)
        scope = call.by.scope
        shown = [portable_json(each) for each in records if scope.covers(each.tenancy)]
        return Reply(200, shown, headers)

    async def find(self, call: Call) -> Reply:
        """Say whose key it is."""
        body: shapes.FindIngestionApiKeyRequest = call.body
        record = await self.keys.keys.commands.whose(ApiKey.adopt(body.api_key), call.by.scope)
        if record.deleted_at_ms is not None:
            day = describe_day(record.deleted_at_ms)
            msg = f"it is the key {record.id}, which was already deleted on {day}"
            raise KeyNotFoundError(msg)
        return Reply(200, key_json(record))


def _imported(each: shapes.PortableIngestionApiKey) -> ImportedKey:
    digest = KeyDigest(bytes.fromhex(each.digest.partition(":")[2]))
    key_id = key_id_of(digest) if each.id is None else each.id
    return ImportedKey(digest, spec_of(each), key_id, each.enabled)
