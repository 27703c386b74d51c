"""What may be done with keys, and the rules for it: create, adopt, list, change, delete, rotate.

Works on one store, without a running gateway: commands use it directly, the service of a running
gateway through its own methods. Texts that people read are made by the commands.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from typing import Final

from gateway.keys.audit import GATEWAY, Actor, AuditEntry
from gateway.keys.errors import InvalidExpiryError, InvalidInputError, KeyNotFoundError
from gateway.keys.material import KeyMaterial, looks_issued
from gateway.keys.record import KeyRecord, describe_day, limits_in_words
from gateway.keys.store import KeyStore, KeyUpdate, NewKey
from gateway.model import KeyDigest, KeyLimits, Signal, digest_of

MAX_NAME_LENGTH: Final = 255
MAX_DESCRIPTION_LENGTH: Final = 1_000
MAX_LIMIT: Final = 10**15
"""Far more than any key sends, and exact in JSON numbers."""
LATEST_MS: Final = 253_402_214_400_000
"""9999-12-31, the last day that can be written: no key expires later."""
_DAY_MS: Final = 24 * 60 * 60 * 1000
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Issued:
    """A key that was just stored, with the key itself: the only time that it can be shown."""

    record: KeyRecord
    key: KeyMaterial


@dataclass(frozen=True, slots=True)
class Rotated:
    """A key's successor, and the predecessor with the expiry that it has now."""

    issued: Issued
    predecessor: KeyRecord


def now_unix_ms() -> int:
    """Read the clock: Unix milliseconds."""
    return time.time_ns() // 1_000_000


def parse_expiration(text: str) -> int:
    """Turn `yyyy-MM-dd` into Unix milliseconds of 00:00 UTC of that day, as the `sts` CLI does.

    Raises `InvalidInputError` for another form and days that do not exist.
    """
    try:
        day = date.fromisoformat(text) if _DATE.fullmatch(text) else None
    except ValueError:
        day = None
    if day is None:
        msg = "the expiration must be a date of the form yyyy-MM-dd, as in 2030-12-31"
        raise InvalidInputError(msg)
    return _midnight_ms(day)


class KeyManager:
    """Applies the rules and asks the store. Every method raises `StoreError` as the store does.

    `by` is who the audit log names.
    """

    def __init__(
        self,
        store: KeyStore,
        now_ms: Callable[[], int] = now_unix_ms,
        by: Actor = GATEWAY,
    ) -> None:
        self._store = store
        self._now_ms = now_ms
        self._by = by

    async def create(
        self,
        name: str,
        description: str | None = None,
        expires_at_ms: int | None = None,
        signals: frozenset[Signal] | None = None,
        limits: KeyLimits | None = None,
    ) -> Issued:
        """Issue a new key. On return it is on disk.

        `signals` are what it may send; None = everything. `limits` are its own; None = the default
        ones. Raises `InvalidInputError` for a name, description or limits that cannot be,
        `InvalidExpiryError` for an expiry that is not in the future.
        """
        key = KeyMaterial.generate()
        signals = _checked_signals(signals)
        new = NewKey(key.digest, name, description, expires_at_ms, signals, limits=limits)
        return await self._add(key, new)

    async def adopt(
        self,
        key: KeyMaterial,
        name: str,
        description: str | None = None,
        expires_at_ms: int | None = None,
        signals: frozenset[Signal] | None = None,
        limits: KeyLimits | None = None,
    ) -> Issued:
        """Store a key that exists elsewhere. As `create`; raises `DuplicateKeyError` besides."""
        signals = _checked_signals(signals)
        new = NewKey(key.digest, name, description, expires_at_ms, signals, True, limits)  # noqa: FBT003 - adopted
        return await self._add(key, new)

    async def live_keys(self) -> list[KeyRecord]:
        """Give all keys that are not deleted, by name, then age."""
        keys = await self._store.live()
        return sorted(keys, key=lambda record: (record.name, record.created_ms, record.id))

    async def live_page(self, after: int, limit: int) -> list[KeyRecord]:
        """Give the first `limit` keys that are not deleted with ids above `after`, by id."""
        return await self._store.live(after, limit)

    async def audit(
        self, limit: int, before: int | None = None, key_id: int | None = None
    ) -> list[AuditEntry]:
        """As `KeyStore.audit`."""
        return await self._store.audit(limit, before, key_id)

    async def update(self, key_id: int, update: KeyUpdate) -> KeyRecord:
        """Change a key's name, description, whether it is enabled, what and how much it may send.

        Raises `KeyNotFoundError`, and `InvalidInputError` as `create` does.
        """
        _check_limits(update.limits or {})
        if not update.fields(None):
            msg = "nothing is to be changed: give a name, description, enabled, signals or limits"
            raise InvalidInputError(msg)
        _check_name(update.name)
        _check_description(update.description)
        _checked_signals(update.signals)
        found = await self._store.find(key_id)
        if found is not None:
            _check_not_the_key(found.digest, update.name, update.description)
        return await self._store.update(key_id, update, self._now_ms(), self._by)

    async def delete(self, key_id: int) -> KeyRecord:
        """Delete a key; what is left of it is given. Raises `KeyNotFoundError`."""
        return await self._store.delete(key_id, self._now_ms(), self._by)

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
        self._check_expiry(expires_at_ms, now_ms)
        if expires_at_ms is None:
            expires_at_ms = await self._same_lifetime(key_id, now_ms)
        key = KeyMaterial.generate()
        successor, predecessor = await self._store.rotate(
            key_id, key.digest, expires_at_ms, overlap_ms, now_ms, self._by
        )
        return Rotated(Issued(successor, key), predecessor)

    async def _add(self, key: KeyMaterial, new: NewKey) -> Issued:
        _check_name(new.name)
        _check_description(new.description)
        _check_not_the_key(key.digest, new.name, new.description)
        now_ms = self._now_ms()
        self._check_expiry(new.expires_at_ms, now_ms)
        _check_limits(limits_in_words(new.limits or KeyLimits()))
        limits = None if new.limits == KeyLimits() else new.limits
        new = dataclasses.replace(new, description=new.description or None, limits=limits)
        return Issued(await self._store.create(new, now_ms, self._by), key)

    async def _same_lifetime(self, key_id: int, now_ms: int) -> int | None:
        found = await self._store.find(key_id)
        if found is None:
            msg = f"there is no key with id {key_id}: `gateway keys list` shows all"
            raise KeyNotFoundError(msg)
        if found.expires_at_ms is None:
            return None
        # In whole days, because an expiry is the beginning of a day.
        days = -(-found.expires_at_ms // _DAY_MS) - found.created_ms // _DAY_MS
        return min((now_ms // _DAY_MS + max(days, 1)) * _DAY_MS, LATEST_MS)

    @staticmethod
    def _check_expiry(expires_at_ms: int | None, now_ms: int) -> None:
        if expires_at_ms is not None and expires_at_ms <= now_ms:
            today = datetime.fromtimestamp(now_ms / 1000, UTC).date()
            msg = (
                f"the expiration {describe_day(expires_at_ms)} is not in the future: a key expires"
                f" at 00:00 UTC of the day given, so the first possible day is"
                f" {today + timedelta(days=1)}"
            )
            raise InvalidExpiryError(msg)


def _midnight_ms(day: date) -> int:
    return int(datetime.combine(day, time_of_day(), UTC).timestamp()) * 1000


def _check_name(name: str | None) -> None:
    if name is None:
        return
    _check_text("name", name, MAX_NAME_LENGTH)
    if not name.strip():
        msg = "the name is empty: say what the key is for, as in agent-eu"
        raise InvalidInputError(msg)


def _check_description(description: str | None) -> None:
    if description:
        _check_text("description", description, MAX_DESCRIPTION_LENGTH)


def _check_not_the_key(digest: KeyDigest, *texts: str | None) -> None:
    if any(text and digest_of(text.encode("utf-8", "replace")) == digest for text in texts):
        msg = "the name or description is the key itself: names are shown everywhere"
        raise InvalidInputError(msg)


def _checked_signals(signals: frozenset[Signal] | None) -> frozenset[Signal] | None:
    """Turn all signals into None: those of later versions are meant as well."""
    if signals is not None and not signals:
        msg = "no signal is named: name what the key may send, or disable it to stop everything"
        raise InvalidInputError(msg)
    return None if signals == frozenset(Signal) else signals


def _check_limits(limits: Mapping[str, int | None]) -> None:
    for name, value in limits.items():
        if name not in KeyLimits._fields or (value is not None and not 0 <= value <= MAX_LIMIT):
            msg = (
                f"the limit {name} cannot be: there are {', '.join(KeyLimits._fields)}, whole"
                f" numbers from 0 (no limit) to {MAX_LIMIT}"
            )
            raise InvalidInputError(msg)


def _check_text(what: str, text: str, longest: int) -> None:
    if len(text) > longest:
        msg = f"the {what} is {len(text)} characters long: at most {longest} are possible"
        raise InvalidInputError(msg)
    if not text.isprintable():
        msg = f"the {what} contains line breaks or control characters: use printable ones only"
        raise InvalidInputError(msg)
    if looks_issued(text.encode()):
        msg = f"the {what} is a key: names and descriptions are shown everywhere, keys are not"
        raise InvalidInputError(msg)
