"""What is known of a key: records of stores, static keys of the configuration, usage.

Frozen values. How they are stored belongs to the stores, what follows from them to the service.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NamedTuple

import msgspec

from gateway.keys.api_key import ApiKey
from gateway.keys.tenancy import Label, Tenancy
from gateway.model import (
    ALL_SIGNALS,
    KeyDigest,
    KeyEntry,
    KeyLimits,
    KeyState,
    Principal,
    Signal,
)

STATIC_PREFIX: Final = "static:"
"""Ids of static keys begin with it; ids of stores' keys are decimal numbers."""

_ACTIVE: Final = int(KeyState.ACTIVE)
_REVOKED: Final = int(KeyState.REVOKED)
_DISABLED: Final = int(KeyState.DISABLED)


class KeyRecord(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One key of a store, deleted ones included. Times are Unix milliseconds, UTC.

    A struct without the collector's header: a million of them are made in a second, take a third
    less memory than objects, and no collection ever walks them.
    """

    id: int
    """1 … `model.MAX_KEY_ID`, never given out twice."""
    digest: KeyDigest
    name: str
    created_ms: int
    updated_ms: int
    """When it was last changed, deleted included."""
    revision: int
    """The store's revision that made it what it is."""
    description: str | None = None
    expires_at_ms: int | None = None
    """From then on the key is not accepted; None = never expires."""
    deleted_at_ms: int | None = None
    """Set on tombstones only."""
    enabled: bool = True
    signals: frozenset[Signal] | None = None
    """What the key may send; None = everything, signals of later versions too."""
    limits: KeyLimits | None = None
    """Its own, never all None; None = it has none. Costs nothing: the allocator rounds up."""

    def __repr__(self) -> str:
        """Name the key, without its digest."""
        return f"KeyRecord({self.id}, {self.name!r}, revision {self.revision})"

    @property
    def key_id(self) -> str:
        """The id as workers, logs and metrics say it."""
        return str(self.id)

    @property
    def state(self) -> KeyState:
        """What workers are told, apart from the expiry."""
        if self.deleted_at_ms is not None:
            return KeyState.REVOKED
        return KeyState.ACTIVE if self.enabled else KeyState.DISABLED

    @property
    def tenancy(self) -> Tenancy | None:
        """Whose data it sends; None = nobody said. Those that have one are `TenantRecord`s."""
        return None

    def replaced(self, *, tenancy: Tenancy | None, **fields: Any) -> KeyRecord:  # noqa: ANN401 - by field names
        """Return it with other values of some fields, and with this tenancy."""
        members = {name: getattr(self, name) for name in KeyRecord.__struct_fields__} | fields
        return KeyRecord(**members) if tenancy is None else TenantRecord(**members, tenancy=tenancy)

    def principal(
        self,
        *,
        with_name: bool,
        route_labels: frozenset[Label] = frozenset(),  # noqa: ARG002 - see `TenantRecord`
    ) -> Principal:
        """What a worker keeps of the key; `route_labels` are those that its settings name."""
        # By position, and plain numbers: a million of these are made for each new worker.
        if self.deleted_at_ms is not None:
            state = _REVOKED
        else:
            state = _ACTIVE if self.enabled else _DISABLED
        signals = ALL_SIGNALS if self.signals is None else sum(each.bit for each in self.signals)
        name = self.name if with_name else ""
        expires_at_ms = self.expires_at_ms or 0
        return Principal(str(self.id), state, expires_at_ms, signals, name, False, self.limits)  # noqa: FBT003 - as above


class TenantRecord(KeyRecord, frozen=True, gc=False, array_like=True):
    """A key that says whose data it sends. A type of its own: others do not pay for the field."""

    tenancy: Tenancy = Tenancy()

    def principal(
        self, *, with_name: bool, route_labels: frozenset[Label] = frozenset()
    ) -> Principal:
        """See `KeyRecord`."""
        principal = KeyRecord.principal(self, with_name=with_name)
        if self.state is not KeyState.ACTIVE:
            return principal
        return principal._replace(tenant=self.tenancy.tenant(route_labels))


@dataclass(frozen=True, slots=True)
class StaticKey:
    """A receiver key from the configuration: it never expires and cannot be deleted by command."""

    name: str
    digest: KeyDigest = field(repr=False)
    expires_at_ms: ClassVar[None] = None
    state: ClassVar[KeyState] = KeyState.ACTIVE

    @property
    def key_id(self) -> str:
        """The id as workers, logs and metrics say it."""
        return STATIC_PREFIX + self.name

    def principal(
        self,
        *,
        with_name: bool,
        route_labels: frozenset[Label] = frozenset(),  # noqa: ARG002 - as `KeyRecord.principal`
    ) -> Principal:
        """What a worker keeps of the key."""
        return Principal(key_id=self.key_id, name=self.name if with_name else "")


KnownKey = KeyRecord | StaticKey
"""Any key that the gateway can name."""


class KeyUsage(NamedTuple):
    """A key's traffic: since the last report, or in all."""

    requests: int = 0
    """Requests that the key was allowed."""
    bytes: int = 0
    """Bytes of those requests' bodies."""
    refusals: int = 0
    """Requests refused although the key is known: expired, revoked, disabled, wrong signal."""
    last_used_ms: int = 0
    """Unix milliseconds of the last request that was allowed; 0 = never."""

    def plus(self, other: KeyUsage) -> KeyUsage:
        """Sum of both, and the later of both times."""
        return KeyUsage(
            self.requests + other.requests,
            self.bytes + other.bytes,
            self.refusals + other.refusals,
            max(self.last_used_ms, other.last_used_ms),
        )

    def minus(self, part: KeyUsage) -> KeyUsage:
        """What remains without a part of it; the time stays."""
        return KeyUsage(
            self.requests - part.requests,
            self.bytes - part.bytes,
            self.refusals - part.refusals,
            self.last_used_ms,
        )


@dataclass(frozen=True, slots=True)
class KeyDelta:
    """What changed for the workers with one revision of the gateway's own count."""

    revision: int
    upserts: list[KeyEntry]
    removals: list[bytes]
    """Digests to forget altogether."""
    changed_at_ms: int | None = None
    """When the newest of the changes was made, by its maker's clock; None = unknown."""
    complete: bool = True
    """Whether a key that workers do not know exists nowhere. False: a store is out of reach, so
    that is unknown."""


def limits_as_json(limits: KeyLimits) -> dict[str, int]:
    """Write limits as they stand in JSON: what is None is left out."""
    return {name: value for name, value in limits._asdict().items() if value is not None}


def camel(name: str) -> str:
    """Write a limit's name as the API does: `requests_per_day` is `requestsPerDay`."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def static_keys(configured: Iterable[tuple[str | None, str]]) -> list[StaticKey]:
    """Make the static keys of `auth.receiver_keys`, given as (name or None, key).

    The N-th without a name is called `receiver-N`, counting all from 1. Raises `InvalidKeyError`
    for a key that cannot be one, `ValueError` for a name or a key given twice. The key itself is
    dropped here.
    """
    result: list[StaticKey] = []
    by_name: set[str] = set()
    by_digest: dict[bytes, str] = {}
    for position, (given_name, text) in enumerate(configured, start=1):
        name = given_name or f"receiver-{position}"
        digest = ApiKey.adopt(text).digest
        if name in by_name:
            msg = f"two receiver keys are called {name!r}: give each a name of its own"
            raise ValueError(msg)
        if digest in by_digest:
            msg = f"the receiver keys {by_digest[digest]!r} and {name!r} are equal: remove one"
            raise ValueError(msg)
        by_name.add(name)
        by_digest[digest] = name
        result.append(StaticKey(name, digest))
    return result
