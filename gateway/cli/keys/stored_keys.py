"""How `gateway keys` reaches a store: which one is meant, changing it, reading it."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import socket
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import Any, Final, TypeVar

from gateway.cli.keys.access import BATCH, STANDBYS, ImportOutcome, Members
from gateway.cli.output import note, warning
from gateway.control.admin.api.key_filter import KeyFilter
from gateway.control.admin.api.key_json import (
    audit_json,
    issued_json,
    key_json,
    members_of,
    rotated_json,
)
from gateway.control.admin.api.usage import UsageChoice, usage_rows
from gateway.keys.api_key import ApiKey
from gateway.keys.audit import Actor, AuditRecord
from gateway.keys.commands import Issued, KeyCommands
from gateway.keys.errors import InvalidInputError, StoreError
from gateway.keys.following.remembered_store import RememberedStore
from gateway.keys.importing import InvalidBatchError, import_batch
from gateway.keys.record import KeyRecord, KeyUsage, KnownKey
from gateway.keys.store import Confirmation, ImportedKey, KeySpec, KeyUpdate, UsageStore
from gateway.keys.stores.sql_store import SqlStore
from gateway.keys.stores.sqlite import sqlite_store

CONFIRM_S: Final = 1.0
"""How long a command waits for running gateways on this host."""
ANSWER_S: Final = 5.0
"""How long a command waits for gateways that share a database."""
_Result = TypeVar("_Result")


class StoredKeys:
    """A `KeyAccess` on a store, whether a gateway runs on it or not.

    No other store is used than the one that this host's gateway used, if it did: that is remembered
    in `state_dir`.
    """

    def __init__(self, store: SqlStore, state_dir: Path | None = None) -> None:
        self._store = store
        self._remembered: RememberedStore | None = None
        if state_dir is not None:
            self._remembered = RememberedStore(
                state_dir, store.feed.name, store.feed.location, _say_nothing
            )
            known = self._remembered.read(for_command=True)
            if known is not None:
                store.feed.use_only(known)

    def create(self, spec: KeySpec, adopted: ApiKey | None) -> Members:
        """See `KeyAccess`."""

        async def add(commands: KeyCommands) -> Issued:
            if adopted is None:
                return await commands.create(spec)
            return await commands.adopt(adopted, spec)

        issued = self._change(add, lambda issued: issued.record.revision, create=True)
        return members_of(issued_json(issued) if adopted is None else key_json(issued.record))

    def list_keys(self, chosen: KeyFilter) -> list[Members]:
        """See `KeyAccess`."""
        records, usage = asyncio.run(self._read_all())
        return [
            members_of(key_json(record, usage.get(record.key_id)))
            for record in records
            if chosen.takes(record.tenancy)
        ]

    def update(self, key_id: int, update: KeyUpdate) -> Members:
        """See `KeyAccess`."""
        updated = self._change(
            lambda commands: commands.update(key_id, update), lambda key: key.revision
        )
        return members_of(key_json(updated))

    def rotate(self, key_id: int, overlap_ms: int, expires_at_ms: int | None) -> Members:
        """See `KeyAccess`."""
        rotated = self._change(
            lambda commands: commands.rotate(key_id, overlap_ms, expires_at_ms),
            lambda rotated: rotated.predecessor.revision,
        )
        return members_of(rotated_json(rotated))

    def delete(self, key_id: int) -> None:
        """See `KeyAccess`."""
        self._change(lambda commands: commands.delete(key_id), lambda key: key.revision)

    def audit(self, limit: int, key_id: int | None) -> list[Members]:
        """See `KeyAccess`."""

        async def read() -> list[AuditRecord]:
            async with self._opened(create=False):
                return await self._store.repository.audit(limit, key_id=key_id)

        return [members_of(audit_json(record)) for record in asyncio.run(read())]

    def usage(self, parameters: Mapping[str, Any]) -> list[Members]:
        """See `KeyAccess`."""

        async def read() -> list[Members]:
            choice = UsageChoice.of(parameters)
            usage = self._store.usage
            async with self._opened(create=False):
                await usage.open(create=False)
                try:
                    parts = usage_rows(usage.periods, self._find, choice)
                    return [members_of(row) async for part in parts for row in part]
                finally:
                    await usage.close()

        return asyncio.run(read())

    async def _find(self, key_ids: Collection[str]) -> Mapping[str, KnownKey]:
        ids = [int(each) for each in key_ids if each.isdigit()]
        return {each.key_id: each for each in await self._store.repository.known([], ids)}

    def export(self) -> list[KeyRecord]:
        """See `KeyAccess`."""
        return asyncio.run(self._read_all())[0]

    def whose(self, key: ApiKey) -> Members:
        """See `KeyAccess`."""

        async def find() -> KeyRecord:
            async with self._opened(create=False) as commands:
                return await commands.find_key(key)

        return members_of(key_json(asyncio.run(find())))

    def bring_in(
        self, keys: Sequence[ImportedKey], advance: Callable[[int], None], *, is_dry_run: bool
    ) -> ImportOutcome:
        """See `KeyAccess`."""
        outcome = ImportOutcome()

        async def change_and_wait() -> None:
            revision = 0
            async with self._opened(create=not is_dry_run) as commands:
                for start in range(0, len(keys), BATCH):
                    batch = keys[start : start + BATCH]
                    try:
                        done = await import_batch(commands, batch, is_dry_run=is_dry_run)
                    except InvalidBatchError as error:
                        raise error.moved(start) from error
                    outcome.add(done.new, done.existing, done.deleted)
                    revision = done.records[-1].revision if done.records else revision
                    advance(len(batch))
            if revision:
                await _wait_in_force(self._store, revision)

        asyncio.run(change_and_wait())
        return outcome

    def _change(
        self,
        run: Callable[[KeyCommands], Awaitable[_Result]],
        revision_of: Callable[[_Result], int],
        *,
        create: bool = False,
    ) -> _Result:
        """Change the store, wait for running gateways, and warn where one did not answer.

        `create` makes a missing store. Raises `KeysError`.
        """

        async def change_and_wait() -> _Result:
            async with self._opened(create=create) as commands:
                result = await run(commands)
            await _wait_in_force(self._store, revision_of(result))
            return result

        return asyncio.run(change_and_wait())

    async def _read_all(self) -> tuple[list[KeyRecord], Mapping[str, KeyUsage]]:
        """Read all keys that are not deleted, by name, then age, and keys' usage by their ids."""
        async with self._opened(create=False):
            records = await self._store.feed.live()
        records.sort(key=lambda record: (record.name, record.created_ms, record.id))
        return records, await _read_usage(self._store.usage)

    @contextlib.asynccontextmanager
    async def _opened(self, *, create: bool) -> AsyncIterator[KeyCommands]:
        feed = self._store.feed
        try:
            await feed.open(create=create and feed.store_id is None)
            try:
                yield KeyCommands(self._store.repository, by=_user())
            finally:
                await feed.close()
        except StoreError as error:
            if self._remembered is None:
                raise
            raise self._remembered.explained(error) from error


def _user() -> Actor:
    """Name the user and the host for the audit log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return Actor(f"user {user}", f"host {socket.gethostname()}")


async def _wait_in_force(store: SqlStore, revision: int) -> None:
    """Wait for running gateways, and say on stderr what became of that; raises nothing."""
    timeout_s = ANSWER_S if store.feed.is_remote else CONFIRM_S
    try:
        confirmation = await store.confirmations.wait(revision, timeout_s)
    except StoreError as failure:
        warning(f"stored, but whether it is in force cannot be told: {failure}")
        return
    if store.feed.is_remote:
        _say_in_force(confirmation)
    elif confirmation.pending:
        warning(
            "stored, but a running gateway has not confirmed the change within"
            f" {CONFIRM_S:g} s: it may take effect later"
        )


def _say_in_force(confirmation: Confirmation) -> None:
    confirmed = len(confirmation.confirmed)
    on_them = f"in force on {confirmed} gateway{'' if confirmed == 1 else 's'}"
    beside = STANDBYS if confirmation.has_standbys else ""
    if confirmation.pending:
        be = "has" if len(confirmation.pending) == 1 else "have"
        late = _listed(confirmation.pending)
        warning(
            f"stored and {on_them}, but {late} {be} not confirmed the change"
            f" within {ANSWER_S:g} s: it takes effect there when that gateway is well again; its"
            f" log says what keeps it{beside}"
        )
    elif confirmed:
        note(f"{on_them}{beside}")
    else:
        note(f"stored; no gateway is connected that could confirm it{beside}")


def _listed(gateways: Iterable[str]) -> str:
    """Write gateways' names, `HOST PROCESS`."""
    parts = (name.partition(" ") for name in sorted(gateways))
    return ", ".join(f"gateway {host} ({process})" for host, _, process in parts)


async def _read_usage(usage: UsageStore) -> Mapping[str, KeyUsage]:
    """Read when keys were last used; where that cannot be read there is a warning, no error."""
    try:
        await usage.open(create=False)
        return await usage.load()
    except StoreError as broken:
        warning(f"when keys were last used cannot be read: {broken}")
        return {}
    finally:
        await usage.close()


def stored_keys(config: Path | None, data: Path | None) -> StoredKeys:
    """Find the keys in the store that the options name: the first one that commands can change.

    Raises `InvalidInputError` where there is none.
    """
    if config is not None and data is not None:
        msg = "--config and --data name different stores: give only one of them"
        raise InvalidInputError(msg)
    if data is not None:
        return StoredKeys(sqlite_store(data.absolute() / "keys.db"), data.absolute())
    from gateway.config import ConfigError, load

    try:
        loaded = load(config, (), os.environ)
    except ConfigError as error:
        raise InvalidInputError(str(error)) from error
    for store in loaded.config.keys.stores:
        if store.kind == "sqlite":
            return StoredKeys(sqlite_store(store.path), loaded.config.state_dir)
        if store.kind == "postgresql":
            from gateway.keys.stores.postgresql import postgresql_store

            return StoredKeys(postgresql_store(store.url), loaded.config.state_dir)
    msg = (
        "the configuration has no sqlite:// or postgresql:// store in keys.stores: add one, or use"
        " --data; keys of a file store are changed by editing the file, keys of a central gateway"
        " there (--url)"
    )
    raise InvalidInputError(msg)


def _say_nothing(_: str) -> None:
    """Leave it to the gateway to report what is wrong with its files."""
