"""Keys in files that somebody else writes: a YAML list, or a folder with one key in each file.

For keys that are kept in a repository (as digests, see `gateway keys hash`) and for secrets that
Kubernetes mounts. The whole is read (`stores.file_entries`), checked and taken over at once; where
anything is wrong with it the keys stay as they were. A key that went away is remembered as deleted
for as long as the process lives. The files are never written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from gateway.keys.errors import StoreDamagedError
from gateway.keys.record import KeyRecord
from gateway.keys.store import Changes, KeyStore
from gateway.keys.stores.file_entries import Entry, key_files, read_entries, unreadable
from gateway.keys.times import now_unix_ms

INTERVAL_S: Final = 0.05
"""Time between two looks at the file; it is read when two looks in a row see the same."""
RECHECK_S: Final = 5.0
"""The longest wait."""
_FILES_EVERY: Final = 20
"""Looks at a folder from one look at each of its files to the next."""

_Signature = tuple[tuple[str, int, int, int], ...]


def file_store(path: Path, *, interval_s: float = INTERVAL_S) -> KeyStore:
    """Make a store of the keys in the YAML file, or the folder, at `path`."""
    return KeyStore(FileFeed(path, interval_s=interval_s), has_snapshot=True)


class FileFeed:
    """A `KeyFeed` of the YAML file, or the folder, at `path`."""

    name = "file"
    is_remote = False
    is_read_only = False
    is_cut_off = False
    store_id = None

    def __init__(self, path: Path, *, interval_s: float) -> None:
        self.location = str(path)
        self._path = path
        self._interval_s = interval_s
        self._records: dict[bytes, KeyRecord] = {}
        self._revision = 0
        self._error: str | None = None
        """Why what was read last is not in force; None = it is."""
        self._seen: _Signature | None = None
        """What the file looked like when it was last read, successfully or not."""

    def use_only(self, store_id: str) -> None:
        """See `KeyFeed`: what stands in a file is what its writer wants."""

    async def open(self, *, create: bool) -> None:  # noqa: ARG002 - a file store is never made
        """See `KeyFeed`. Raises `StoreError` unless the file is there and all right."""
        await self._read()

    async def close(self) -> None:
        """See `KeyFeed`."""

    async def changes(self, since: int) -> Changes | None:
        """See `KeyFeed`."""
        if self._error is not None:
            raise StoreDamagedError(self._error)
        if since > self._revision:
            return None
        newer = [record for record in self._records.values() if record.revision > since]
        return Changes(self._revision, newer)

    async def everything(self) -> AsyncGenerator[Changes, None]:
        """See `KeyFeed`."""
        yield Changes(self._revision, list(self._records.values()))

    async def wait_for_change(self) -> None:
        """See `KeyFeed`. Raises `StoreError` when it cannot be read or is faulty."""
        looks = max(1, round(RECHECK_S / self._interval_s))
        last: _Signature | None = None
        for look in range(looks):
            signature = _signature(self._path, files=look % _FILES_EVERY == 0, before=self._seen)
            if signature != self._seen and signature == last:
                # The writer has stopped for a moment: this is hardly half of a file.
                return await self._read()
            last = signature
            await asyncio.sleep(self._interval_s)
        return None

    async def live(self, after: int = 0, limit: int | None = None) -> list[KeyRecord]:
        """See `KeyFeed`."""
        live = [key for key in self._records.values() if key.deleted_at_ms is None]
        return sorted((key for key in live if key.id > after), key=lambda key: key.id)[:limit]

    async def purge(self, deleted_before_ms: int) -> None:
        """See `KeyFeed`."""
        for digest, record in list(self._records.items()):
            if record.deleted_at_ms is not None and record.deleted_at_ms < deleted_before_ms:
                del self._records[digest]

    async def _read(self) -> None:
        """Read all; a faulty file changes nothing and is not read again until it changes."""
        self._seen = _signature(self._path, files=True, before=None)
        try:
            entries, changed_ms = await asyncio.to_thread(read_entries, self._path)
        except StoreDamagedError as error:
            self._error = str(error)
            raise
        self._error = None
        self._take_over(entries, changed_ms)

    def _take_over(self, entries: Sequence[Entry], changed_ms: int) -> None:
        revision = self._revision + 1
        records: dict[bytes, KeyRecord] = {
            entry.digest: self._record(entry, revision, changed_ms) for entry in entries
        }
        for digest, known in self._records.items():
            if digest not in records:
                records[digest] = _tombstone(known, revision)
        if records != self._records:
            self._records, self._revision = records, revision

    def _record(self, entry: Entry, revision: int, changed_ms: int) -> KeyRecord:
        known = self._records.get(entry.digest)
        fields = entry._asdict()
        if known is not None and known.deleted_at_ms is None:
            if all(getattr(known, name) == value for name, value in fields.items()):
                return known
            return known.replaced(**fields, updated_ms=changed_ms, revision=revision)
        tenancy = fields.pop("tenancy")
        fields |= {"created_ms": changed_ms, "updated_ms": changed_ms, "revision": revision}
        record = KeyRecord(**fields)
        return record if tenancy is None else record.replaced(tenancy=tenancy)


def _tombstone(known: KeyRecord, revision: int) -> KeyRecord:
    if known.deleted_at_ms is not None:
        return known
    now_ms = now_unix_ms()
    return msgspec.structs.replace(
        known, description=None, deleted_at_ms=now_ms, updated_ms=now_ms, revision=revision
    )


def _signature(path: Path, *, files: bool, before: _Signature | None) -> _Signature:
    """Return what must differ when the content does; without `files` only roughly for a folder.

    Kubernetes swaps a link in the folder, which changes the folder itself.
    """
    try:
        status = path.stat()
        found = [(str(path), status.st_mtime_ns, status.st_size, status.st_ino)]
        if path.is_dir():
            if not files and before is not None and before[0] == found[0]:
                return before
            for each in key_files(path):
                status = each.stat()
                found.append((each.name, status.st_mtime_ns, status.st_size, status.st_ino))
    except OSError as error:
        raise unreadable(path, error) from error
    return tuple(found)
