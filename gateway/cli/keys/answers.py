"""What `gateway keys --url` takes from the server it asks: shapes that are checked before use.

Only what commands read is checked; members that a newer gateway adds pass unread. The server may be
any: what else it sends is an error (`cli.answers`).
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.keys.times import LATEST_MS

Millis: TypeAlias = Annotated[int, Meta(ge=0, le=LATEST_MS)]


class Key(Struct, rename="camel", kw_only=True):
    """A key as lists show it."""

    id: int
    name: str
    last_update_timestamp: Millis
    description: str | UnsetType | None = UNSET
    expiration: Millis | UnsetType | None = UNSET
    enabled: bool = True
    last_used_timestamp: Millis | UnsetType | None = UNSET
    signals: list[str] | UnsetType | None = UNSET
    limits: dict[str, int] | UnsetType | None = UNSET
    usage: dict[str, int] | UnsetType | None = UNSET
    owner: str | UnsetType | None = UNSET
    labels: dict[str, str] | UnsetType | None = UNSET
    headers: dict[str, str] | UnsetType | None = UNSET


class PortableKey(Struct, rename="camel", kw_only=True):
    """A key with its digest, as an export has it. The rules of key files say what is right."""

    id: int
    digest: str
    name: str


class Imported(Struct, kw_only=True):
    """What became of a batch."""

    imported: int
    existing: int
    deleted: int


class GeneratedKey(Key, kw_only=True):
    """A new key."""

    api_key: str

    def __repr__(self) -> str:
        """Leave the key out."""
        return f"GeneratedKey(id={self.id!r})"


class Predecessor(Key, kw_only=True):
    """A key that was rotated: it has an end."""

    expiration: Millis


class RotatedKey(GeneratedKey, kw_only=True):
    """A successor and the key that it follows."""

    predecessor: Predecessor

    def __repr__(self) -> str:
        """Leave the key out."""
        return f"RotatedKey(id={self.id!r})"


class Change(Struct, rename="camel", kw_only=True):
    """An entry of the audit log."""

    id: int
    timestamp: Millis
    action: str
    key_id: int
    key_name: str
    who: str
    origin: str
    changes: dict[str, Any]


class Items(Struct, rename="camel", kw_only=True):
    """How many items of one signal a key sent."""

    count: int
    error: float | UnsetType = UNSET
    samples: int


class UsageRow(Struct, rename="camel", kw_only=True):
    """What one key sent in one period."""

    period: str | UnsetType = UNSET
    key_id: str
    name: str
    owner: str | UnsetType = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    requests: int
    bytes: int
    refusals: int
    items: dict[str, Items] | UnsetType = UNSET
