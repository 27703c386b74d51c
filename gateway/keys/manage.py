"""What may be done with keys, and the rules for it: create, adopt, list, delete, rotate.

Works on one store, without a running gateway: commands use it directly, the service of a running
gateway through its own methods. Texts that people read are made by the commands.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from typing import Final

from gateway.keys.errors import InvalidExpiryError, InvalidInputError, KeyNotFoundError
from gateway.keys.material import KeyMaterial, looks_issued
from gateway.keys.record import KeyRecord, describe_day
from gateway.keys.store import KeyStore, NewKey

MAX_NAME_LENGTH: Final = 255
MAX_DESCRIPTION_LENGTH: Final = 1_000
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
    """Applies the rules and asks the store. Every method raises `StoreError` as the store does."""

    def __init__(self, store: KeyStore, now_ms: Callable[[], int] = now_unix_ms) -> None:
        self._store = store
        self._now_ms = now_ms

    async def create(
        self, name: str, description: str | None = None, expires_at_ms: int | None = None
    ) -> Issued:
        """Issue a new key. On return it is on disk.

        Raises `InvalidInputError` for a name or description that cannot be, `InvalidExpiryError`
        for an expiry that is not in the future.
        """
        return await self._add(KeyMaterial.generate(), name, description, expires_at_ms)

    async def adopt(
        self,
        key: KeyMaterial,
        name: str,
        description: str | None = None,
        expires_at_ms: int | None = None,
    ) -> Issued:
        """Store a key that exists elsewhere. As `create`; raises `DuplicateKeyError` besides."""
        if key.reveal() in {name, description}:
            msg = "the name or description is the key itself: names are shown everywhere"
            raise InvalidInputError(msg)
        return await self._add(key, name, description, expires_at_ms)

    async def live_keys(self) -> list[KeyRecord]:
        """Give all keys that are not deleted, by name, then age."""
        keys = await self._store.live()
        return sorted(keys, key=lambda record: (record.name, record.created_ms, record.id))

    async def delete(self, key_id: int) -> KeyRecord:
        """Delete a key; what is left of it is given. Raises `KeyNotFoundError`."""
        return await self._store.delete(key_id, self._now_ms())

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
            key_id, key.digest, expires_at_ms, overlap_ms, now_ms
        )
        return Rotated(Issued(successor, key), predecessor)

    async def _add(
        self, key: KeyMaterial, name: str, description: str | None, expires_at_ms: int | None
    ) -> Issued:
        _check_text("name", name, MAX_NAME_LENGTH)
        if not name.strip():
            msg = "the name is empty: say what the key is for, as in --name agent-eu"
            raise InvalidInputError(msg)
        if description:
            _check_text("description", description, MAX_DESCRIPTION_LENGTH)
        now_ms = self._now_ms()
        self._check_expiry(expires_at_ms, now_ms)
        new = NewKey(key.digest, name, description or None, expires_at_ms)
        return Issued(await self._store.create(new, now_ms), key)

    async def _same_lifetime(self, key_id: int, now_ms: int) -> int | None:
        found = await self._store.find(key_id)
        if found is None:
            msg = f"there is no key with id {key_id}: `gateway keys list` shows all"
            raise KeyNotFoundError(msg)
        if found.expires_at_ms is None:
            return None
        # In whole days, because an expiry is the beginning of a day.
        days = -(-found.expires_at_ms // _DAY_MS) - found.created_ms // _DAY_MS
        return (now_ms // _DAY_MS + max(days, 1)) * _DAY_MS

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
