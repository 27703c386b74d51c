"""The seams between the service and the places where keys are kept.

Reading stands apart from writing: a gateway follows a `KeyFeed`, people change keys through a
`KeyRepository`. A file that others write has only a feed.

Every store counts its changes: each transaction that changes a key makes one revision, and what a
revision contains never changes afterwards. Deleted keys stay as tombstones until they are purged.
All methods raise `StoreError` when the store cannot be used, and then have changed nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.keys.audit import GATEWAY, Actor, AuditRecord
from gateway.keys.daily_usage import DailyUsage, PeriodUsage, UsageQuery
from gateway.keys.limit_board import LimitBoard
from gateway.keys.quota_store import QuotaStore
from gateway.keys.record import KeyRecord, KeyUsage
from gateway.keys.tenancy import Tenancy, TenancyUpdate
from gateway.model import KeyDigest, KeyLimits, Signal


@dataclass(frozen=True, slots=True)
class KeySpec:
    """What a new key is for, until when it works, what and how much it may send."""

    name: str
    description: str | None = None
    expires_at_ms: int | None = None
    """Unix milliseconds; None = never."""
    signals: frozenset[Signal] | None = None
    """None = everything."""
    limits: KeyLimits | None = None
    """Its own; None = the default ones."""
    tenancy: Tenancy | None = None
    """Whose data it sends; None = nobody says."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to be stored. The store chooses its id."""

    digest: KeyDigest
    spec: KeySpec
    is_adopted: bool = False
    """Whether it existed elsewhere before; only the audit log records it."""


@dataclass(frozen=True, slots=True)
class ImportedKey:
    """A key of another store, to be stored as it was there."""

    digest: KeyDigest
    spec: KeySpec
    id: int | None = None
    """None = the store chooses it."""
    enabled: bool = True


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
    tenancy: TenancyUpdate | None = None

    def fields(self, limits: KeyLimits | None, tenancy: Tenancy | None = None) -> dict[str, Any]:
        """Return the fields of a `KeyRecord` to be replaced, with their new values.

        `limits` and `tenancy` are those that it has.
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
        if self.tenancy is not None:
            fields["tenancy"] = self.tenancy.applied(tenancy)
        return fields


@dataclass(frozen=True, slots=True)
class Changes:
    """What a store holds, or a part of it, or what changed in it."""

    revision: int
    """The store's revision when it was read."""
    records: Sequence[KeyRecord]
    gone: Sequence[bytes] = ()
    """Digests of which the store says nothing any more. Only `KeyFeed.changes` has any."""


class KeyFeed(Protocol):
    """Where keys come from: all that a gateway needs to follow them."""

    @property
    def name(self) -> str:
        """What kind of store it is: the `store` label of metrics."""

    @property
    def location(self) -> str:
        """Where it is, for people; without secrets."""

    @property
    def is_remote(self) -> bool:
        """Whether it can be away while this host is well: then known keys are served all the same,
        for a time, and unknown ones may exist.
        """

    @property
    def is_read_only(self) -> bool:
        """Whether it is a copy that nobody can write, such as a standby of a database."""

    @property
    def is_cut_off(self) -> bool:
        """Whether it is a copy that gets no changes now: keys that it does not have may exist."""

    @property
    def store_id(self) -> str | None:
        """What identifies the store that is read; None before, and where a store has no such."""

    def use_only(self, store_id: str) -> None:
        """Read and change no other store from now on: else raise `AnotherStoreError`."""

    async def open(self, *, create: bool) -> None:
        """Make the store usable, its repository too, migrating an older one.

        `create` makes a missing one.
        """

    async def close(self) -> None:
        """Release files and connections. Only `open` may be called afterwards."""

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

    async def live(self, after: int = 0, limit: int | None = None) -> list[KeyRecord]:
        """Read keys that are not deleted: the first `limit` with ids above `after`, by id."""

    async def purge(self, deleted_before_ms: int) -> None:
        """Forget tombstones of keys that were deleted before this time."""


class KeyRepository(Protocol):
    """Where keys are changed, and who changed them is read. Opened and closed with its feed."""

    async def find(self, key_id: int) -> KeyRecord | None:
        """Read one record, tombstones included."""

    async def create(self, key: NewKey, now_ms: int, by: Actor = GATEWAY) -> KeyRecord:
        """Store a key; on return it is on disk.

        Raises `DuplicateKeyError` if its digest is known, be it a tombstone's.
        """

    async def known(self, digests: Collection[bytes], ids: Collection[int]) -> list[KeyRecord]:
        """Read the records with these digests or ids, tombstones included."""

    async def add_all(
        self, keys: Sequence[ImportedKey], now_ms: int, by: Actor = GATEWAY
    ) -> list[KeyRecord]:
        """Store those of which the digest is not known, all or none; on return they are on disk.

        Each makes a revision of its own, in one transaction. Raises `DuplicateKeyError` if an id
        is another key's.
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
        """Store a successor of a key, with its name, description, signals, limits and tenancy.

        `expires_at_ms` is the successor's; the predecessor's becomes `now_ms + overlap_ms`, unless
        it expires earlier anyway. Returns (successor, predecessor), both in one revision. Raises
        `KeyNotFoundError`.
        """

    async def audit(
        self, limit: int, before: int | None = None, key_id: int | None = None
    ) -> list[AuditRecord]:
        """Read the newest `limit` records of the audit log, newest first.

        `before`: only those with a lower id; `key_id`: only those on this key, deleted or not.
        """


class UsageStore(Protocol):
    """Where usage of keys is kept: key id → sums since the beginning, and by day."""

    async def open(self, *, create: bool) -> None:
        """Make it usable; `create` makes a missing one, which else reads as empty.

        Raises `StoreError`.
        """

    async def close(self) -> None:
        """Release files and connections."""

    async def load(self, key_ids: Collection[str] | None = None) -> dict[str, KeyUsage]:
        """Read all sums, or those of some keys. Raises `StoreError`."""

    async def periods(self, query: UsageQuery) -> list[PeriodUsage]:
        """Read usage by day, month or key, in the order of period and key id.

        Raises `StoreError`.
        """

    async def add(self, usage: Mapping[str, KeyUsage], daily: DailyUsage | None = None) -> None:
        """Add to the sums, in one transaction.

        Raises `StoreError`; then the same must be part of what is added next.
        """

    async def forget_days(self, before: str) -> None:
        """Drop the usage of days before this one. Raises `StoreError`."""

    async def forget(self, key_ids: Collection[str]) -> None:
        """Drop the sums of keys that no longer exist. Raises `StoreError`."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Which running gateways have confirmed a change; gateways by their names."""

    confirmed: frozenset[str]
    """Every worker of these decides by the change, or they ended meanwhile."""
    pending: frozenset[str]
    """These have not confirmed in time."""
    has_standbys: bool = False
    """Whether others may read from a standby of the database: those cannot be asked."""


class ConfirmationPublisher(Protocol):
    """A running gateway's end: it says which revision its workers have confirmed."""

    def publish(self, revision: int) -> None:
        """Say that every live worker has the store's `revision`, or that none lives."""

    def close(self) -> None:
        """Say nothing any more."""


class Confirmations(Protocol):
    """How commands that change a store learn that running gateways have taken the change over."""

    def publisher(self, on_problem: Callable[[str], None]) -> ConfirmationPublisher:
        """Make this gateway's end. `on_problem` is told, later, what keeps it from publishing.

        Raises `StoreError`.
        """

    async def wait(self, revision: int, timeout_s: float) -> Confirmation:
        """Wait, for a command, until all running gateways have confirmed the store's `revision`.

        The change is on disk before. A gateway that ends meanwhile is not waited for.
        """


@dataclass(frozen=True, slots=True)
class KeyStore:
    """One configured place where keys are kept, by what can be done there. Nothing is open yet."""

    feed: KeyFeed
    repository: KeyRepository | None = None
    """None where keys are changed by other means, such as editing the file."""
    usage: UsageStore | None = None
    """None where the store has no place for it."""
    confirmations: Confirmations | None = None
    """None where no command changes the store."""
    limit_board: LimitBoard | None = field(default=None, kw_only=True)
    """None where the store is this host's alone: nobody shares limits through it."""
    quota_store: QuotaStore | None = field(default=None, kw_only=True)
    """Where gateways that share it count quotas together; None as above."""
    has_snapshot: bool = field(default=False, kw_only=True)
    """Whether the last known keys are kept on this host, to start from while the store is away."""
