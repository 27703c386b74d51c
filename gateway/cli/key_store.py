"""How `gateway keys` reaches a store: which one is meant, changing it, reading it."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from gateway.cli.key_access import Members
from gateway.cli.key_views import as_json, audit_as_json
from gateway.cli.output import note, warning
from gateway.keys.audit import Actor, AuditEntry
from gateway.keys.board import Confirmation, wait_confirmed
from gateway.keys.embedded import sqlite_store
from gateway.keys.errors import InvalidInputError, StoreError
from gateway.keys.manage import Issued, KeyManager
from gateway.keys.material import KeyMaterial
from gateway.keys.record import KeyRecord, KeyUsage
from gateway.keys.shared_board import Answers
from gateway.keys.store import KeyStore, KeyUpdate, NewKey
from gateway.keys.usage import path_for

CONFIRM_S: Final = 1.0
"""How long a command waits for running gateways on this host."""
ANSWER_S: Final = 5.0
"""How long a command waits for gateways that share a database."""
_Result = TypeVar("_Result")


def store_of(config: Path | None, data: Path | None) -> KeyStore:
    """Make the store that the options name: the first one that commands can change.

    Raises `InvalidInputError` where there is none.
    """
    if config is not None and data is not None:
        msg = "--config and --data name different stores: give only one of them"
        raise InvalidInputError(msg)
    if data is not None:
        return sqlite_store(data.absolute() / "keys.db")
    from gateway.config import ConfigError, load

    try:
        loaded = load(config, (), os.environ)
    except ConfigError as faulty:
        raise InvalidInputError(str(faulty)) from faulty
    for store in loaded.config.keys.stores:
        if store.kind == "sqlite":
            return sqlite_store(store.path)
        if store.kind == "postgresql":
            from gateway.keys.postgresql import postgresql_store

            return postgresql_store(store.url)
    msg = (
        "the configuration has no sqlite:// or postgresql:// store in keys.stores: add one, or use"
        " --data; keys of a file store are changed by editing the file"
    )
    raise InvalidInputError(msg)


class StoredKeys:
    """A `KeyAccess` on a store, whether a gateway runs on it or not."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    def create(self, new: NewKey, adopted: KeyMaterial | None) -> Members:
        """See `KeyAccess`."""

        async def add(manager: KeyManager) -> Issued:
            given = (new.name, new.description, new.expires_at_ms, new.signals, new.limits)
            if adopted is None:
                return await manager.create(*given)
            return await manager.adopt(adopted, *given)

        issued = self._change(add, lambda issued: issued.record.revision, create=True)
        return as_json(issued.record, None if adopted is not None else issued.key)

    def list_keys(self) -> list[Members]:
        """See `KeyAccess`."""
        records, usage = asyncio.run(_read_all(self._store))
        return [as_json(record, usage=usage.get(record.key_id)) for record in records]

    def update(self, key_id: int, update: KeyUpdate) -> Members:
        """See `KeyAccess`."""
        updated = self._change(
            lambda manager: manager.update(key_id, update), lambda key: key.revision
        )
        return as_json(updated)

    def rotate(self, key_id: int, overlap_ms: int, expires_at_ms: int | None) -> Members:
        """See `KeyAccess`."""
        rotated = self._change(
            lambda manager: manager.rotate(key_id, overlap_ms, expires_at_ms),
            lambda rotated: rotated.predecessor.revision,
        )
        issued = as_json(rotated.issued.record, rotated.issued.key)
        return {**issued, "predecessor": as_json(rotated.predecessor)}

    def delete(self, key_id: int) -> None:
        """See `KeyAccess`."""
        self._change(lambda manager: manager.delete(key_id), lambda key: key.revision)

    def audit(self, limit: int, key_id: int | None) -> list[Members]:
        """See `KeyAccess`."""

        async def read() -> list[AuditEntry]:
            async with _opened(self._store, create=False) as manager:
                return await manager.audit(limit, key_id=key_id)

        return [audit_as_json(entry) for entry in asyncio.run(read())]

    def _change(
        self,
        run: Callable[[KeyManager], Awaitable[_Result]],
        revision_of: Callable[[_Result], int],
        *,
        create: bool = False,
    ) -> _Result:
        """Change the store, wait for running gateways, and warn where one did not answer.

        `create` makes a missing store. Raises `KeysError`.
        """

        async def change_and_wait() -> _Result:
            async with _opened(self._store, create=create) as manager:
                result = await run(manager)
            await _wait_in_force(self._store, revision_of(result))
            return result

        return asyncio.run(change_and_wait())


def whoever_runs_this() -> Actor:
    """Name the user and the host for the audit log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return Actor(f"user {user}", f"host {socket.gethostname()}")


async def _wait_in_force(store: KeyStore, revision: int) -> None:
    """Wait for running gateways, and say on stderr what became of that; raises nothing."""
    if store.file is not None:
        if await wait_confirmed(store.file, revision, CONFIRM_S) is Confirmation.PENDING:
            warning(
                "stored, but a running gateway has not confirmed the change within"
                f" {CONFIRM_S:g} s: it may take effect later"
            )
        return
    try:
        answers = await store.ask_gateways(revision, ANSWER_S)
    except StoreError as failure:
        warning(f"stored, but whether it is in force cannot be told: {failure}")
        return
    if answers is not None:
        _say_in_force(answers)


def _say_in_force(answers: Answers) -> None:
    confirmed = len(answers.confirmed)
    on_them = f"in force on {confirmed} gateway{'' if confirmed == 1 else 's'}"
    if answers.is_deaf:
        warning(
            "stored, but whether it is in force cannot be told: the database's notifications do not"
            " come through (a connection pooler in between?); gateways look every 2 s"
        )
    elif answers.pending:
        be = "has" if len(answers.pending) == 1 else "have"
        warning(
            f"stored and {on_them}, but {_listed(answers.pending)} {be} not confirmed the change"
            f" within {ANSWER_S:g} s: it takes effect there when that gateway is well again; its"
            " log says what keeps it"
        )
    elif confirmed:
        note(on_them)
    else:
        note("stored; no gateway is connected that could confirm it")


def _listed(gateways: Iterable[str]) -> str:
    """Write gateways' names, `HOST PROCESS`."""
    parts = (name.partition(" ") for name in sorted(gateways))
    return ", ".join(f"gateway {host} ({process})" for host, _, process in parts)


async def _read_all(store: KeyStore) -> tuple[list[KeyRecord], Mapping[str, KeyUsage]]:
    """Read all keys that are not deleted, by name, and the usage of keys by their ids."""
    async with _opened(store, create=False) as manager:
        records = await manager.live_keys()
    return records, await _read_usage(store)


async def _read_usage(store: KeyStore) -> Mapping[str, KeyUsage]:
    """Read when keys were last used; where that cannot be read there is a warning, no error."""
    usage_store = store.usage()
    if usage_store is None or (store.file is not None and not path_for(store.file).exists()):
        return {}
    try:
        await usage_store.open(create=False)
        return await usage_store.load()
    except StoreError as broken:
        warning(f"when keys were last used cannot be read: {broken}")
        return {}
    finally:
        await usage_store.close()


@contextlib.asynccontextmanager
async def _opened(store: KeyStore, *, create: bool) -> AsyncIterator[KeyManager]:
    await store.open(create=create)
    try:
        yield KeyManager(store, by=whoever_runs_this())
    finally:
        await store.close()
