"""Keys in files that somebody else writes: a YAML list, or a folder with one key in each file.

For keys that are kept in a repository (as digests, see `gateway keys hash`) and for secrets that
Kubernetes mounts. The whole is read, checked and taken over at once; where anything is wrong with
it the keys stay as they were. A key that went away is remembered as deleted for as long as the
process lives. The store is never written.

An entry has `digest: sha256:HEX` or `key: TEXT`, and may have `id`, `name`, `description`,
`expiration: yyyy-MM-dd`, `enabled`, `signals: [traces, …]`. An id that is not given is made from
the digest, so that it stays the same.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import yaml

from gateway.keys.audit import GATEWAY, Actor, AuditEntry
from gateway.keys.errors import (
    InvalidInputError,
    KeyRefusedError,
    StoreDamagedError,
    StoreUnavailableError,
)
from gateway.keys.manage import now_unix_ms, parse_expiration
from gateway.keys.material import InvalidKeyError, KeyMaterial, looks_issued
from gateway.keys.record import KeyRecord
from gateway.keys.store import Changes, KeyUpdate, NewKey
from gateway.model import MAX_KEY_ID, KeyDigest, KeyLimits, Signal

INTERVAL_S: Final = 0.05
"""Time between two looks at the file; it is read when two looks in a row see the same."""
RECHECK_S: Final = 5.0
"""The longest wait."""
_FILES_EVERY: Final = 20
"""Looks at a folder from one look at each of its files to the next."""
_MAX_BYTES: Final = 256 * 1024 * 1024
_MAX_KEY_FILE_BYTES: Final = 4_096
_MOST_FAULTS: Final = 20
_SMALLEST_ID: Final = 10**14
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})", re.IGNORECASE)
_MEMBERS: Final = frozenset(
    {"id", "digest", "key", "name", "description", "expiration", "enabled", "signals", "limits"}
)

_Signature = tuple[tuple[str, int, int, int], ...]


class _Entry(NamedTuple):
    """A key as somebody wrote it down."""

    digest: KeyDigest
    id: int
    name: str
    description: str | None = None
    expires_at_ms: int | None = None
    enabled: bool = True
    signals: frozenset[Signal] | None = None
    limits: KeyLimits | None = None


class FileStore:
    """A `KeyStore` in the YAML file, or the folder, at `path`."""

    name = "file"
    file: Path | None = None
    is_remote = False
    is_writable = False

    def __init__(self, path: Path, *, interval_s: float = INTERVAL_S) -> None:
        self.location = str(path)
        self._path = path
        self._interval_s = interval_s
        self._records: dict[bytes, KeyRecord] = {}
        self._revision = 0
        self._fault: str | None = None
        """Why what was read last is not in force."""
        self._seen: _Signature | None = None
        """What the file looked like when it was last read, successfully or not."""

    async def open(self, *, create: bool) -> None:  # noqa: ARG002 - a file store is never made
        """See `KeyStore`. Raises `StoreError` unless the file is there and all right."""
        await self._read()

    async def close(self) -> None:
        """See `KeyStore`."""

    async def changes(self, since: int) -> Changes | None:
        """See `KeyStore`."""
        if self._fault is not None:
            raise StoreDamagedError(self._fault)
        if since > self._revision:
            return None
        newer = [record for record in self._records.values() if record.revision > since]
        return Changes(self._revision, newer)

    async def everything(self) -> AsyncGenerator[Changes, None]:
        """See `KeyStore`."""
        yield Changes(self._revision, list(self._records.values()))

    async def wait_for_change(self) -> None:
        """See `KeyStore`. Raises `StoreError` when it cannot be read or is faulty."""
        looks = max(1, round(RECHECK_S / self._interval_s))
        last: _Signature | None = None
        for look in range(looks):
            signature = _signature(self._path, files=look % _FILES_EVERY == 0, before=self._seen)
            if signature != self._seen and signature == last:
                # Whoever writes it has stopped for a moment: it is hardly half of a file.
                return await self._read()
            last = signature
            await asyncio.sleep(self._interval_s)
        return None

    def usage(self) -> None:
        """See `KeyStore`: a file that others write is no place for it."""

    def board(self) -> None:
        """See `KeyStore`: no command changes it."""

    async def ask_gateways(self, revision: int, timeout_s: float) -> None:
        """See `KeyStore`: no command changes it."""
        _ = revision, timeout_s

    async def find(self, key_id: int) -> KeyRecord | None:
        """See `KeyStore`."""
        return next((each for each in self._records.values() if each.id == key_id), None)

    async def live(self, after: int = 0, limit: int | None = None) -> list[KeyRecord]:
        """See `KeyStore`."""
        live = [key for key in self._records.values() if key.deleted_at_ms is None]
        return sorted((key for key in live if key.id > after), key=lambda key: key.id)[:limit]

    async def purge(self, deleted_before_ms: int) -> None:
        """See `KeyStore`."""
        for digest, record in list(self._records.items()):
            if record.deleted_at_ms is not None and record.deleted_at_ms < deleted_before_ms:
                del self._records[digest]

    async def audit(
        self, limit: int, before: int | None = None, key_id: int | None = None
    ) -> list[AuditEntry]:
        """See `KeyStore`: who changed a file is for the file's keeper to tell."""
        _ = limit, before, key_id
        return []

    async def create(self, key: NewKey, now_ms: int, by: Actor = GATEWAY) -> KeyRecord:
        """Refuse, as all changes (`KeyRefusedError`)."""
        _ = key, now_ms, by
        raise self._refusal()

    async def update(
        self, key_id: int, update: KeyUpdate, now_ms: int, by: Actor = GATEWAY
    ) -> KeyRecord:
        """Refuse, as all changes (`KeyRefusedError`)."""
        _ = key_id, update, now_ms, by
        raise self._refusal()

    async def delete(self, key_id: int, now_ms: int, by: Actor = GATEWAY) -> KeyRecord:
        """Refuse, as all changes (`KeyRefusedError`)."""
        _ = key_id, now_ms, by
        raise self._refusal()

    async def rotate(
        self,
        key_id: int,
        digest: KeyDigest,
        expires_at_ms: int | None,
        overlap_ms: int,
        now_ms: int,
        by: Actor = GATEWAY,
    ) -> tuple[KeyRecord, KeyRecord]:
        """Refuse, as all changes (`KeyRefusedError`)."""
        _ = key_id, digest, expires_at_ms, overlap_ms, now_ms, by
        raise self._refusal()

    def _refusal(self) -> KeyRefusedError:
        return KeyRefusedError(f"keys in {self.location} are changed by changing the file")

    async def _read(self) -> None:
        """Read all; a faulty file changes nothing and is not read again until it changes."""
        self._seen = _signature(self._path, files=True, before=None)
        try:
            entries, changed_ms = await asyncio.to_thread(_read, self._path)
        except StoreDamagedError as error:
            self._fault = str(error)
            raise
        self._fault = None
        self._take_over(entries, changed_ms)

    def _take_over(self, entries: Sequence[_Entry], changed_ms: int) -> None:
        revision = self._revision + 1
        records: dict[bytes, KeyRecord] = {
            entry.digest: self._record(entry, revision, changed_ms) for entry in entries
        }
        for digest, known in self._records.items():
            if digest not in records:
                records[digest] = _tombstone(known, revision)
        if records != self._records:
            self._records, self._revision = records, revision

    def _record(self, entry: _Entry, revision: int, changed_ms: int) -> KeyRecord:
        known = self._records.get(entry.digest)
        fields = entry._asdict()
        if known is not None and known.deleted_at_ms is None:
            if all(getattr(known, name) == value for name, value in fields.items()):
                return known
            return msgspec.structs.replace(
                known, **fields, updated_ms=changed_ms, revision=revision
            )
        return KeyRecord(created_ms=changed_ms, updated_ms=changed_ms, revision=revision, **fields)


def _tombstone(known: KeyRecord, revision: int) -> KeyRecord:
    if known.deleted_at_ms is not None:
        return known
    now_ms = now_unix_ms()
    return msgspec.structs.replace(
        known, description=None, deleted_at_ms=now_ms, updated_ms=now_ms, revision=revision
    )


def _signature(path: Path, *, files: bool, before: _Signature | None) -> _Signature:
    """Tell what must differ when the content does; without `files` only roughly for a folder.

    Kubernetes swaps a link in the folder, which changes the folder itself.
    """
    try:
        status = path.stat()
        found = [(str(path), status.st_mtime_ns, status.st_size, status.st_ino)]
        if path.is_dir():
            if not files and before is not None and before[0] == found[0]:
                return before
            for each in _key_files(path):
                status = each.stat()
                found.append((each.name, status.st_mtime_ns, status.st_size, status.st_ino))
    except OSError as error:
        raise _unreadable(path, error) from error
    return tuple(found)


def _key_files(folder: Path) -> list[Path]:
    """List the files of a folder that hold keys; Kubernetes's own begin with a dot."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208 - names, fast
    return [path for name in names if (path := folder / name).is_file()]


def _unreadable(path: Path, error: OSError) -> StoreUnavailableError:
    return StoreUnavailableError(f"{path}: it cannot be read ({error.strerror}); check it")


def _read(path: Path) -> tuple[list[_Entry], int]:
    """Read the entries, and when they were last changed (Unix milliseconds). Blocks.

    Raises `StoreUnavailableError`, and `StoreDamagedError` with all faults.
    """
    faults: list[str] = []
    try:
        if path.is_dir():
            entries = list(_from_folder(path, faults))
        else:
            entries = list(_from_yaml(path, faults))
        changed_ms = path.stat().st_mtime_ns // 1_000_000
    except OSError as error:
        raise _unreadable(path, error) from error
    faults += _repeated(entries)
    if faults:
        more = len(faults) - _MOST_FAULTS
        shown = "; ".join(faults[:_MOST_FAULTS]) + (f"; and {more} more" if more > 0 else "")
        msg = f"{path}: the keys stay as they were, because: {shown}"
        raise StoreDamagedError(msg)
    return entries, changed_ms


def _from_folder(folder: Path, faults: list[str]) -> Iterator[_Entry]:
    for file in _key_files(folder):
        with file.open("rb") as opened:
            raw = opened.read(_MAX_KEY_FILE_BYTES)
        text = raw.decode("latin-1").removesuffix("\n").removesuffix("\r")
        try:
            digest = KeyMaterial.adopt(text).digest
        except InvalidKeyError as error:
            faults.append(f"{file.name}: {error}")
        else:
            yield _Entry(digest, _id_from(digest), file.name)


def _from_yaml(path: Path, faults: list[str]) -> Iterator[_Entry]:
    with path.open("rb") as opened:
        raw = opened.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        faults.append(f"it is larger than {_MAX_BYTES} bytes: keep so many keys in a database")
        return
    try:
        entries = yaml.load(raw, Loader=_LOADER)  # noqa: S506 - a safe loader, in C where there is one
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        faults.append(f"it is no YAML{where}")
        return
    if not isinstance(entries, list):
        faults.append("it is no list: write one '- digest: sha256:…' for each key, [] for none")
        return
    for place, entry in enumerate(entries, start=1):
        try:
            yield _parsed(entry, place)
        except (InvalidInputError, InvalidKeyError) as error:
            faults.append(f"key {place}: {error}")


_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _parsed(entry: Any, place: int) -> _Entry:  # noqa: ANN401 - whatever YAML can say
    """Check one entry. Raises `InvalidInputError`, `InvalidKeyError`; texts show no values."""
    if not isinstance(entry, dict):
        msg = "it is no mapping: write '- digest: sha256:…'"
        raise InvalidInputError(msg)
    if unknown := sorted(str(name) for name in entry if name not in _MEMBERS):
        known = ", ".join(sorted(_MEMBERS))
        shown = "" if looks_issued(unknown[0].encode()) else f" {unknown[0][:40]!r}"
        msg = f"unknown member{shown}: possible are {known}"
        raise InvalidInputError(msg)
    digest = _digest(entry)
    return _Entry(
        digest,
        _id(entry.get("id"), digest),
        _text(entry, "name") or f"key-{place}",
        _text(entry, "description"),
        _expiry(entry.get("expiration")),
        _enabled(entry.get("enabled", True)),
        _signals(entry.get("signals")),
        _limits(entry.get("limits")),
    )


def _digest(entry: dict[str, Any]) -> KeyDigest:
    if ("digest" in entry) == ("key" in entry):
        msg = "it needs either digest or key (`gateway keys hash` makes an entry)"
        raise InvalidInputError(msg)
    if "key" in entry:
        if not isinstance(entry["key"], str):
            msg = "its key is no text: put it in quotes"
            raise InvalidInputError(msg)
        return KeyMaterial.adopt(entry["key"]).digest
    found = _DIGEST.fullmatch(str(entry["digest"]))
    if found is None:
        msg = "its digest is not of the form sha256: and 64 hexadecimal digits"
        raise InvalidInputError(msg)
    return KeyDigest(bytes.fromhex(found[1]))


def _id(given: object, digest: KeyDigest) -> int:
    if given is None:
        return _id_from(digest)
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= MAX_KEY_ID:
        msg = f"its id is no whole number from 1 to {MAX_KEY_ID}"
        raise InvalidInputError(msg)
    return given


def _id_from(digest: bytes) -> int:
    """Make an id of the usual length from a digest."""
    return _SMALLEST_ID + int.from_bytes(digest[:8], "big") % (9 * _SMALLEST_ID)


def _text(entry: dict[str, Any], member: str) -> str | None:
    value = entry.get(member)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        msg = f"its {member} is no text of printable characters: put it in quotes"
        raise InvalidInputError(msg)
    if looks_issued(value.encode()):
        msg = f"its {member} is a key: names and descriptions are shown everywhere"
        raise InvalidInputError(msg)
    return value


def _expiry(value: object) -> int | None:
    if value is None:
        return None
    # YAML reads an unquoted 2030-12-31 as a date.
    return parse_expiration(value.isoformat() if type(value) is date else str(value))


def _enabled(value: object) -> bool:
    if not isinstance(value, bool):
        msg = "enabled is neither true nor false"
        raise InvalidInputError(msg)
    return value


def _signals(value: object) -> frozenset[Signal] | None:
    if value is None:
        return None
    try:
        signals = frozenset(Signal(each) for each in value) if isinstance(value, list) else None
    except ValueError:
        signals = None
    if not signals:
        msg = f"signals is no list of {', '.join(Signal)}"
        raise InvalidInputError(msg)
    return None if signals == frozenset(Signal) else signals


def _limits(value: object) -> KeyLimits | None:
    if value is None:
        return None
    given = value if isinstance(value, dict) else {"": None}
    is_known = all(name in KeyLimits._fields for name in given)
    if not is_known or not all(type(each) is int and each >= 0 for each in given.values()):
        names = ", ".join(KeyLimits._fields)
        msg = f"limits is no mapping of {names} to whole numbers: write 'limits: {{requests: 100}}'"
        raise InvalidInputError(msg)
    return KeyLimits(**given) if given else None


def _repeated(entries: Sequence[_Entry]) -> Iterator[str]:
    digests: dict[bytes, str] = {}
    ids: dict[int, str] = {}
    for entry in entries:
        if entry.digest in digests:
            yield f"{digests[entry.digest]} and {entry.name} are the same key"
        elif entry.id in ids:
            yield f"{ids[entry.id]} and {entry.name} have the same id {entry.id}"
        digests.setdefault(entry.digest, entry.name)
        ids.setdefault(entry.id, entry.name)
