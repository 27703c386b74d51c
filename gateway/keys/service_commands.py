"""Commands on the keys of a running gateway: which store is meant, and what its workers learn.

What a command changed is taken over without reading it again: subscribers of the service have been
told when it returns. The rules are in `keys.commands`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

from gateway.keys.api_key import ApiKey
from gateway.keys.audit import GATEWAY, Actor, AuditRecord
from gateway.keys.commands import Issued, KeyCommands, Rotated, check_import
from gateway.keys.errors import InvalidInputError, KeyNotFoundError, KeyRefusedError
from gateway.keys.following.follower import StoreFollower
from gateway.keys.following.registry import Registry
from gateway.keys.importing import Imported, InvalidBatchError, import_batch
from gateway.keys.record import KeyRecord
from gateway.keys.scope import EVERYTHING, Scope
from gateway.keys.store import Confirmation, ImportedKey, KeyRepository, KeySpec, KeyUpdate

_AUDIT_PAGE: Final = 1_000
"""Changes that are read at once where those of some keys are looked for."""


class ServiceCommands:
    """Changes keys in the store that holds them; new keys go to the first that has a repository.

    Methods raise what those of `KeyCommands` do, and `KeyRefusedError` where keys are not changed
    by commands.
    """

    def __init__(
        self, followers: Sequence[StoreFollower], registry: Registry, now_ms: Callable[[], int]
    ) -> None:
        self._followers = followers
        self._registry = registry
        self._now_ms = now_ms

    async def create(self, spec: KeySpec, by: Actor = GATEWAY) -> Issued:
        """As `KeyCommands.create`."""
        follower, repository = self._first()
        issued = await self._commands(repository, by).create(spec)
        follower.take_over([issued.record])
        return issued

    async def adopt(self, key: ApiKey, spec: KeySpec, by: Actor = GATEWAY) -> Issued:
        """As `KeyCommands.adopt`."""
        follower, repository = self._first()
        issued = await self._commands(repository, by).adopt(key, spec)
        follower.take_over([issued.record])
        return issued

    async def update(self, key_id: int, update: KeyUpdate, by: Actor = GATEWAY) -> KeyRecord:
        """As `KeyCommands.update`."""
        follower, repository = self._holding(key_id, by.scope)
        updated = await self._commands(repository, by).update(key_id, update)
        follower.take_over([updated])
        return updated

    async def delete(self, key_id: int, by: Actor = GATEWAY) -> KeyRecord:
        """As `KeyCommands.delete`."""
        follower, repository = self._holding(key_id, by.scope)
        deleted = await self._commands(repository, by).delete(key_id)
        follower.take_over([deleted])
        return deleted

    async def rotate(
        self,
        key_id: int,
        overlap_ms: int,
        expires_at_ms: int | None = None,
        by: Actor = GATEWAY,
    ) -> Rotated:
        """As `KeyCommands.rotate`."""
        follower, repository = self._holding(key_id, by.scope)
        commands = self._commands(repository, by)
        rotated = await commands.rotate(key_id, overlap_ms, expires_at_ms)
        follower.take_over([rotated.issued.record, rotated.predecessor])
        return rotated

    async def bring_in(
        self, keys: Sequence[ImportedKey], *, is_dry_run: bool, by: Actor = GATEWAY
    ) -> Imported:
        """Store those of some keys that the first store does not know, all or none.

        Raises `InvalidBatchError`, `InvalidInputError`, `InvalidExpiryError`, `StoreError`.
        """
        follower, repository = self._first()
        checked, errors = [], {}
        for place, key in enumerate(keys):
            try:
                owned = by.scope.of_new(key.spec.tenancy)
                spec = dataclasses.replace(key.spec, tenancy=owned)
                checked.append(check_import(dataclasses.replace(key, spec=spec), self._now_ms()))
            except (InvalidInputError, KeyRefusedError) as error:
                errors[place] = str(error)
        if errors:
            raise InvalidBatchError(errors)
        commands = self._commands(repository, by)
        imported = await import_batch(commands, checked, is_dry_run=is_dry_run)
        if imported.records:
            follower.take_over(imported.records)
        return imported

    async def export(self, after: int, limit: int) -> list[KeyRecord]:
        """Return `limit` keys of the store that new keys go to, by id, after the id `after`."""
        return await self._first()[0].store.feed.live(after, limit)

    async def whose(self, key: ApiKey, scope: Scope = EVERYTHING) -> KeyRecord:
        """Return whose key it is, of the stores that commands change, be it deleted.

        Keys outside of `scope` do not exist.

        Raises `KeyNotFoundError`, `StoreError`.
        """
        found: KeyRecord | None = None
        for follower in self._followers:
            repository = follower.store.repository
            if repository is not None and found is None:
                found = next(iter(await repository.known([key.digest], [])), None)
        if found is None or not scope.covers(found.tenancy):
            msg = "no key of this gateway's stores is this one"
            raise KeyNotFoundError(msg)
        return found

    async def live(self, after: int = 0, limit: int | None = None) -> list[KeyRecord]:
        """As `KeyFeed.live`, of all stores."""
        keys = [key for each in self._followers for key in await each.store.feed.live(after, limit)]
        return sorted(keys, key=lambda key: key.id)[:limit]

    async def audit(
        self,
        limit: int,
        before: int | None = None,
        key_id: int | None = None,
        scope: Scope = EVERYTHING,
    ) -> list[AuditRecord]:
        """As `KeyRepository.audit`, of the store that new keys go to.

        `scope`: only changes of keys that are within it now, deleted ones while they are known.
        """
        repository = self._first()[1]
        if scope.is_everything:
            return await repository.audit(limit, before, key_id)
        found: list[AuditRecord] = []
        while len(found) < limit:
            entries = await repository.audit(_AUDIT_PAGE, before, key_id)
            found += [entry for entry in entries if self._is_within(scope, entry.key_id)]
            if len(entries) < _AUDIT_PAGE:
                break
            before = entries[-1].id
        return found[:limit]

    async def in_force(
        self, changed: KeyRecord, timeout_s: float, remote_timeout_s: float
    ) -> Confirmation:
        """Wait until all running gateways that share the key's store decide by its change.

        This one is among them. `remote_timeout_s`: where hosts share the store. Raises
        `StoreError`.
        """
        store = self._holding(changed.id)[0].store
        if store.confirmations is None:
            return Confirmation(frozenset(), frozenset())
        limit_s = remote_timeout_s if store.feed.is_remote else timeout_s
        return await store.confirmations.wait(changed.revision, limit_s)

    def _commands(self, repository: KeyRepository, by: Actor) -> KeyCommands:
        return KeyCommands(repository, self._now_ms, by)

    def _first(self) -> tuple[StoreFollower, KeyRepository]:
        for follower in self._followers:
            if follower.store.repository is not None:
                return follower, follower.store.repository
        msg = "no key store that can be written is configured: add one to keys.stores"
        raise KeyRefusedError(msg)

    def _is_within(self, scope: Scope, key_id: int) -> bool:
        record = self._registry.find(str(key_id))
        return isinstance(record, KeyRecord) and scope.covers(record.tenancy)

    def _holding(
        self, key_id: int, scope: Scope = EVERYTHING
    ) -> tuple[StoreFollower, KeyRepository]:
        number = self._registry.store_of(key_id)
        if number is None:
            return self._first()
        follower = self._followers[number]
        repository = follower.store.repository
        if repository is None:
            if not self._is_within(scope, key_id):
                msg = f"there is no key with id {key_id}: list the keys to see all"
                raise KeyNotFoundError(msg)
            location = follower.store.feed.location
            msg = f"keys in {location} are changed by changing the file"
            raise KeyRefusedError(msg)
        return follower, repository
