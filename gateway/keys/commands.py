"""What people do with keys, on one repository: create, adopt, change, delete, rotate.

Works without a running gateway: commands use it directly, a running gateway through
`keys.service_commands`. What is allowed is in `keys.rules`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.keys import rules, tenancy_rules
from gateway.keys.api_key import ApiKey
from gateway.keys.audit import GATEWAY, Actor
from gateway.keys.errors import InvalidInputError, KeyNotFoundError
from gateway.keys.record import KeyRecord, limits_as_json
from gateway.keys.store import ImportedKey, KeyRepository, KeySpec, KeyUpdate, NewKey
from gateway.keys.times import DAY_MS, LATEST_MS, now_unix_ms
from gateway.model import KeyDigest, KeyLimits


@dataclass(frozen=True, slots=True)
class Issued:
    """A key that was just stored, with the key itself: the only time that it can be shown."""

    record: KeyRecord
    key: ApiKey


@dataclass(frozen=True, slots=True)
class Rotated:
    """A key's successor, and the predecessor with the expiry that it has now."""

    issued: Issued
    predecessor: KeyRecord


class KeyCommands:
    """Applies the rules and asks the repository. Every method raises `StoreError` as that does.

    `by` is who the audit log names, and which keys exist for that caller.
    """

    def __init__(
        self,
        repository: KeyRepository,
        now_ms: Callable[[], int] = now_unix_ms,
        by: Actor = GATEWAY,
    ) -> None:
        self._repository = repository
        self._now_ms = now_ms
        self._by = by

    async def create(self, spec: KeySpec) -> Issued:
        """Issue a new key. On return it is on disk.

        Raises `InvalidInputError` for a name, description, signals or limits that cannot be,
        `InvalidExpiryError` for an expiry that is not in the future.
        """
        return await self._add(ApiKey.generate(), spec, is_adopted=False)

    async def adopt(self, key: ApiKey, spec: KeySpec) -> Issued:
        """Store a key that exists elsewhere. As `create`; raises `DuplicateKeyError` besides."""
        return await self._add(key, spec, is_adopted=True)

    async def known(self, keys: Sequence[ImportedKey]) -> list[KeyRecord]:
        """Return the records that have the digest or the id of one of these."""
        ids = [key.id for key in keys if key.id is not None]
        return await self._repository.known([key.digest for key in keys], ids)

    async def find_key(self, key: ApiKey) -> KeyRecord:
        """Return whose key it is, be it deleted. Raises `KeyNotFoundError`."""
        for record in await self._repository.known([key.digest], []):
            return record
        msg = "no key of this store is this one"
        raise KeyNotFoundError(msg)

    async def add_all(self, keys: Sequence[ImportedKey]) -> list[KeyRecord]:
        """Store checked keys that are not known yet, all or none; return those."""
        return await self._repository.add_all(keys, self._now_ms(), self._by)

    async def update(self, key_id: int, update: KeyUpdate) -> KeyRecord:
        """Change a key's name, description, whether it is enabled, what and how much it may send,
        whose data it sends.

        Raises `KeyNotFoundError`, and `InvalidInputError` as `create` does.
        """
        rules.check_limits(update.limits or {})
        if not update.fields(None):
            msg = (
                "nothing is to be changed: give a name, description, enabled, signals, limits,"
                " owner, labels or headers"
            )
            raise InvalidInputError(msg)
        rules.check_name(update.name)
        rules.check_description(update.description)
        rules.normal_signals(update.signals)
        texts = [update.name, update.description]
        if update.tenancy is not None:
            tenancy = self._by.scope.of_update(update.tenancy)
            update = dataclasses.replace(update, tenancy=tenancy)
            tenancy_rules.check_update(tenancy)
            texts += tenancy_rules.texts_of(tenancy.owner, tenancy.labels, tenancy.headers)
        found = await self._repository.find(key_id)
        if found is not None and self._by.scope.covers(found.tenancy):
            rules.check_not_the_key(found.digest, *texts)
        return await self._repository.update(key_id, update, self._now_ms(), self._by)

    async def delete(self, key_id: int) -> KeyRecord:
        """Delete a key; return its tombstone. Raises `KeyNotFoundError`."""
        return await self._repository.delete(key_id, self._now_ms(), self._by)

    async def rotate(
        self, key_id: int, overlap_ms: int, expires_at_ms: int | None = None
    ) -> Rotated:
        """Issue a successor; the predecessor expires after `overlap_ms`.

        Without `expires_at_ms` the successor lives for as many days as the predecessor was
        meant to. Raises `KeyNotFoundError`, `InvalidExpiryError`, `InvalidInputError`.
        """
        if overlap_ms < 0:
            msg = "the overlap cannot be negative"
            raise InvalidInputError(msg)
        now_ms = self._now_ms()
        rules.check_expiry(expires_at_ms, now_ms)
        if expires_at_ms is None:
            expires_at_ms = await self._same_lifetime(key_id, now_ms)
        key = ApiKey.generate()
        successor, predecessor = await self._repository.rotate(
            key_id, key.digest, expires_at_ms, overlap_ms, now_ms, self._by
        )
        return Rotated(Issued(successor, key), predecessor)

    async def _add(self, key: ApiKey, spec: KeySpec, *, is_adopted: bool) -> Issued:
        now_ms = self._now_ms()
        spec = dataclasses.replace(spec, tenancy=self._by.scope.of_new(spec.tenancy))
        new = NewKey(key.digest, _checked(key.digest, spec, now_ms), is_adopted)
        return Issued(await self._repository.create(new, now_ms, self._by), key)

    async def _same_lifetime(self, key_id: int, now_ms: int) -> int | None:
        found = await self._repository.find(key_id)
        if found is None:
            msg = f"there is no key with id {key_id}: `gateway keys list` shows all"
            raise KeyNotFoundError(msg)
        if found.expires_at_ms is None:
            return None
        # In whole days, because an expiry is the beginning of a day.
        days = -(-found.expires_at_ms // DAY_MS) - found.created_ms // DAY_MS
        return min((now_ms // DAY_MS + max(days, 1)) * DAY_MS, LATEST_MS)


def check_import(key: ImportedKey, now_ms: int) -> ImportedKey:
    """Return a key as it would be stored. Raises as `KeyCommands.adopt` does."""
    return dataclasses.replace(key, spec=_checked(key.digest, key.spec, now_ms))


def _checked(digest: KeyDigest, spec: KeySpec, now_ms: int) -> KeySpec:
    signals = rules.normal_signals(spec.signals)
    rules.check_name(spec.name)
    rules.check_description(spec.description)
    texts = [spec.name, spec.description]
    if (tenancy := spec.tenancy) is not None:
        tenancy_rules.check_tenancy(tenancy)
        maps = dict(tenancy.labels), dict(tenancy.headers)
        texts += tenancy_rules.texts_of(tenancy.owner, *maps)
    rules.check_not_the_key(digest, *texts)
    rules.check_expiry(spec.expires_at_ms, now_ms)
    rules.check_limits(limits_as_json(spec.limits or KeyLimits()))
    limits = None if spec.limits == KeyLimits() else spec.limits
    return dataclasses.replace(
        spec, description=spec.description or None, signals=signals, limits=limits
    )
