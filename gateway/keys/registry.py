"""All keys that this gateway knows, from all its sources, and what a change means for the workers.

Pure: it is told what stores hold and says what workers must be told. Sources are asked in order; of
a key that stands in two the first one's record counts. Reading stores belongs to the service.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.keys.record import KeyDelta, KeyRecord, KnownKey, StaticKey
from gateway.keys.store import Changes
from gateway.model import KeyEntry, KeyState


class Registry:
    """Digest → key, for every source. Static keys are the first source, stores come after.

    `revision` is this gateway's own count: it goes up with every change, whichever the source.
    """

    def __init__(self, static: Iterable[StaticKey], stores: int, *, with_names: bool) -> None:
        self.revision = 1
        self._with_names = with_names
        self._static: dict[bytes, StaticKey] = {key.digest: key for key in static}
        self._stores: list[dict[bytes, KeyRecord]] = [{} for _ in range(stores)]
        self._by_id: dict[str, KnownKey] = {key.key_id: key for key in self._static.values()}
        self._tombstones: dict[tuple[int, bytes], int] = {}
        """Store number and digest → when it was deleted."""

    def use_names(self, *, with_names: bool) -> None:
        """Have workers that start from now on told the keys' names, or not."""
        self._with_names = with_names

    def find(self, key_id: str) -> KnownKey | None:
        """Look up what workers, logs and metrics call `key_id`."""
        return self._by_id.get(key_id)

    def lookup(self, digest: bytes) -> KnownKey | None:
        """Give the key that counts for a digest: the first source's."""
        return self._effective(digest)

    def known(self) -> Iterator[KnownKey]:
        """Give every key once, tombstones included."""
        return iter(self._by_id.values())

    def entries(self) -> list[KeyEntry]:
        """Give what a new worker must know: everything."""
        digests: set[bytes] = set(self._static)
        for records in self._stores:
            digests.update(records)
        return self._split(digests)[0]

    def counts(self, now_ms: int) -> dict[str, int]:
        """Count keys as `gateway_keys` does; deleted and disabled ones do not count."""
        counts = {"active": 0, "expired": 0}
        for key in self._by_id.values():
            if key.state is KeyState.ACTIVE:
                expires_at_ms = key.expires_at_ms
                is_expired = expires_at_ms is not None and expires_at_ms <= now_ms
                counts["expired" if is_expired else "active"] += 1
        return counts

    def apply(self, store: int, changes: Changes) -> KeyDelta:
        """Take over what store number `store` holds now."""
        records = self._stores[store]
        fresh = {record.digest: record for record in changes.records}
        gone = [digest for digest in records if digest not in fresh] if changes.complete else []
        changed = [digest for digest, record in fresh.items() if records.get(digest) != record]
        for digest in gone:
            self._drop(store, digest)
        for digest in changed:
            self._put(store, fresh[digest])
        newest = max((fresh[digest].updated_ms for digest in changed), default=None)
        return self._delta([*gone, *changed], newest)

    def replace_static(self, static: Iterable[StaticKey]) -> KeyDelta:
        """Take over other static keys."""
        before, self._static = self._static, {key.digest: key for key in static}
        for key in before.values():
            del self._by_id[key.key_id]
        self._by_id.update((key.key_id, key) for key in self._static.values())
        digests = dict.fromkeys([*before, *self._static])
        return self._delta(list(digests), None)

    def forget_tombstones(self, deleted_before_ms: int) -> KeyDelta | None:
        """Drop tombstones of keys that were deleted before this time; None if there are none."""
        due = [at for at, deleted in self._tombstones.items() if deleted < deleted_before_ms]
        for store, digest in due:
            self._drop(store, digest)
        return self._delta([digest for _, digest in due], None) if due else None

    def _effective(self, digest: bytes) -> KnownKey | None:
        static = self._static.get(digest)
        if static is not None:
            return static
        for records in self._stores:
            record = records.get(digest)
            if record is not None:
                return record
        return None

    def _split(self, digests: Iterable[bytes]) -> tuple[list[KeyEntry], list[bytes]]:
        """Split digests into those of known keys, as workers keep them, and the others."""
        entries: list[KeyEntry] = []
        unknown: list[bytes] = []
        for digest in digests:
            key = self._effective(digest)
            if key is None:
                unknown.append(digest)
            else:
                entries.append(KeyEntry(digest, key.principal(with_name=self._with_names)))
        return entries, unknown

    def _put(self, store: int, record: KeyRecord) -> None:
        self._stores[store][record.digest] = record
        self._by_id[record.key_id] = record
        if record.deleted_at_ms is None:
            self._tombstones.pop((store, record.digest), None)  # a backup can bring a key back
        else:
            self._tombstones[store, record.digest] = record.deleted_at_ms

    def _drop(self, store: int, digest: bytes) -> None:
        record = self._stores[store].pop(digest)
        if self._by_id.get(record.key_id) is record:
            del self._by_id[record.key_id]
        self._tombstones.pop((store, digest), None)

    def _delta(self, digests: list[bytes], changed_at_ms: int | None) -> KeyDelta:
        self.revision += 1
        return KeyDelta(self.revision, *self._split(digests), changed_at_ms)
