"""The seam between the service and the places where keys are kept.

Every store counts its changes: each transaction that changes a key makes one revision, and what a
revision contains never changes afterwards. Deleted keys stay as tombstones until they are purged.
All methods raise `StoreError` when the store cannot be used, and then have changed nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gateway.keys.audit import GATEWAY, Actor, AuditEntry
from gateway.keys.board import Board
from gateway.keys.record import KeyRecord
from gateway.keys.shared_board import Answers
from gateway.keys.usage import UsageKeeper
from gateway.model import KeyDigest, KeyLimits, Signal


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to be stored. The store chooses its id."""

    digest: KeyDigest
    name: str
    description: str | None = None
    expires_at_ms: int | None = None
    signals: frozenset[Signal] | None = None
    adopted: bool = False
    """It existed elsewhere before; only the audit log tells."""
    limits: KeyLimits | None = None
    """Its own; never all None."""


@dataclass(frozen=True, slots=True)
class KeyUpdate:
    """What is to be changed of a key; None = leave it as it is."""

    name: str | None = None
    description: str | None = None
    """Empty = none."""
    enabled: bool | None = None
    signals: frozenset[Signal] | None = None
    """All there are = everything, signals of later versions too."""
    limits: Mapping[str, int | None] | None = None
    """Of `KeyLimits`, by name: those that are named, None = the default again."""

    def fields(self, limits: KeyLimits | None) -> dict[str, Any]:
        """Give the fields of a `KeyRecord` to be replaced, with their new values.

        `limits` are those that it has.
        """
        fields: dict[str, Any] = {}
        if self.name is not None:
            fields["name"] = self.name
        if self.description is not None:
            fields["description"] = self.description or None
        if self.enabled is not None:
            fields["enabled"] = self.enabled
        if self.signals is not None:
            fields["signals"] = None if self.signals == frozenset(Signal) else self.signals
        if self.limits:
            after = (limits or KeyLimits())._replace(**self.limits)
            fields["limits"] = None if after == KeyLimits() else after
        return fields


@dataclass(frozen=True, slots=True)
class Changes:
    """What a store holds, or a part of it, or what changed in it."""

    revision: int
    """The store's revision when it was read."""
    records: Sequence[KeyRecord]


class KeyStore(Protocol):
    """One place where keys live."""

    @property
    def name(self) -> str:
        """What kind of store it is: the `store` label of metrics."""

    @property
    def location(self) -> str:
        """Where it is, for people; without secrets."""

    @property
    def file(self) -> Path | None:
        """The file on this host that commands change behind a running gateway's back, if any."""

    @property
    def is_writable(self) -> bool:
        """Whether keys are made and changed through it."""

    @property
    def is_remote(self) -> bool:
        """Whether it can be away while this host is well: then known keys are served all the same,
        for a time, and unknown ones may exist.
        """

    async def open(self, *, create: bool) -> None:
        """Make the store usable, migrating an older one; `create` makes a missing one."""

    async def close(self) -> None:
        """Let go of files and connections. Nothing may be called afterwards but `open`."""

    async def changes(self, since: int) -> Changes | None:
        """Read what changed after revision `since`.

        None where everything must be read: tombstones above `since` were purged, or the store is
        another one than `everything` last read (restored from a backup, replaced).
        """

    def everything(self) -> AsyncGenerator[Changes, None]:
        """Read all keys as they were at one revision, tombstones included, in parts.

        At least one part comes. What is not in any of them is gone.
        """

    async def wait_for_change(self) -> None:
        """Return when there may be changes: soon after each, now and then without.

        A change made before the call counts as well if no earlier call returned for it.
        """

    def usage(self) -> UsageKeeper | None:
        """Make what keeps its keys' usage; None where it has no place for that. Not opened yet."""

    def board(self) -> Board | None:
        """Make what tells commands which changes this gateway's workers have confirmed.

        None where no command changes the store. Raises `StoreError`.
        """

    async def ask_gateways(self, revision: int, timeout_s: float) -> Answers | None:
        """Wait, for a command, until the gateways on all hosts have confirmed its change.

        None where nobody can be asked: gateways on this host alone use `file` (`board`).
        """

    async def find(self, key_id: int) -> KeyRecord | None:
        """Read one record, tombstones included."""

    async def live(self, after: int = 0, limit: int | None = None) -> list[KeyRecord]:
        """Read keys that are not deleted: the first `limit` with ids above `after`, by id."""

    async def create(self, key: NewKey, now_ms: int, by: Actor = GATEWAY) -> KeyRecord:
        """Store a key; on return it is on disk.

        Raises `DuplicateKeyError` if its digest is known, be it a tombstone's.
        """

    async def update(
        self, key_id: int, update: KeyUpdate, now_ms: int, by: Actor = GATEWAY
    ) -> KeyRecord:
        """Change a key; on return this is on disk. Raises `KeyNotFoundError`."""

    async def delete(self, key_id: int, now_ms: int, by: Actor = GATEWAY) -> KeyRecord:
        """Make a key a tombstone; on return this is on disk. Raises `KeyNotFoundError`."""

    async def rotate(
        self,
        key_id: int,
        digest: KeyDigest,
        expires_at_ms: int | None,
        overlap_ms: int,
        now_ms: int,
        by: Actor = GATEWAY,
    ) -> tuple[KeyRecord, KeyRecord]:
        """Store a successor of a key, with its name, description, signals and limits.

        `expires_at_ms` is the successor's; the predecessor's becomes `now_ms + overlap_ms`, unless
        it expires earlier anyway. Gives (successor, predecessor), both in one revision. Raises
        `KeyNotFoundError`.
        """

    async def audit(
        self, limit: int, before: int | None = None, key_id: int | None = None
    ) -> list[AuditEntry]:
        """Read the newest `limit` entries of the audit log, newest first.

        `before`: only those with a lower id; `key_id`: only those on this key, deleted or not.
        """

    async def purge(self, deleted_before_ms: int) -> None:
        """Forget tombstones of keys that were deleted before this time."""
