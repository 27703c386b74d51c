"""All keys that this gateway knows, from all its sources, and what a change means for the workers.

Pure: it gets what stores hold and returns what workers must know. Sources are asked in order; of a
key that stands in two the first one's record counts. Reading stores belongs to `follower`.
What concerns very many keys goes in steps, so that a change of one key never waits for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final, overload

from msgspec.structs import replace

from gateway.keys.record import KeyDelta, KeyRecord, KnownKey, StaticKey
from gateway.keys.tenancy import Label
from gateway.model import KeyEntry, KeyState, Principal

STEP: Final = 2_000
"""Keys that are handled at once where there may be a million."""
_RECENT_PARTS: Final = 20
"""How far one worker that starts may be behind another one, in messages."""


class Registry:
    """Digest → key, for every source. Static keys are the first source, stores come after.

    `revision` is this gateway's own count: it goes up with every change, whichever the source.
    """

    def __init__(self, static: Sequence[StaticKey], stores: int, *, with_names: bool) -> None:
        self.revision = 1
        self.is_complete = True
        """Whether a key that stands nowhere here exists nowhere."""
        self._with_names = with_names
        self.route_labels: frozenset[Label] = frozenset()
        """Those that workers are told of keys that have them."""
        self._static: dict[bytes, StaticKey] = {key.digest: key for key in static}
        self._stores: list[dict[bytes, KeyRecord]] = [{} for _ in range(stores)]
        self._static_ids: dict[str, StaticKey] = {each.key_id: each for each in static}
        self._ids: dict[int, KeyRecord] = {}
        self._tombstones: dict[tuple[int, bytes], int] = {}
        """Store number and digest → when it was deleted."""
        self._loads: dict[int, Load] = {}
        self._suspended: set[int] = set()
        """Stores whose keys nobody may be let in by: they are too old."""

    def use_names(self, *, with_names: bool) -> None:
        """Have workers that start from now on told the keys' names, or not."""
        self._with_names = with_names

    def use_labels(self, labels: Iterable[Label]) -> None:
        """Have workers told which keys have these labels, too, from now on.

        Workers of older settings may need those that they were told before: these stay.
        """
        self.route_labels |= frozenset(labels)

    def find(self, key_id: str) -> KnownKey | None:
        """Look up what workers, logs and metrics call `key_id`."""
        if key_id.isdecimal():
            return self._ids.get(int(key_id))
        return self._static_ids.get(key_id)

    def lookup(self, digest: bytes) -> KnownKey | None:
        """Return the key that counts for a digest: the first source's."""
        return self._effective(digest)

    def known(self) -> Iterator[KnownKey]:
        """Return every key once, tombstones included."""
        return chain(self._static_ids.values(), self._ids.values())

    def records(self, store: int) -> list[KeyRecord]:
        """Return what a store holds, tombstones included."""
        return list(self._stores[store].values())

    def stored_digests(self) -> list[bytes]:
        """Return each digest that a store holds, once."""
        if len(self._stores) == 1:
            return list(self._stores[0])
        return list(dict.fromkeys(chain.from_iterable(self._stores)))

    def stored(self, digest: bytes) -> KeyRecord | None:
        """Return the stores' record that counts for a digest, whether a static key comes before it
        or not.
        """
        for store, records in enumerate(self._stores):
            record = records.get(digest)
            if record is not None and store not in self._suspended:
                return record
        return None

    def store_of(self, key_id: int) -> int | None:
        """Return the first store that holds the key."""
        record = self._ids.get(key_id)
        if record is None:
            return None
        return next((n for n, held in enumerate(self._stores) if record.digest in held), None)

    def entries(self) -> Entries:
        """Return what a new worker must know: everything."""
        digests = list(self._static)
        for place, records in enumerate(self._stores):
            before: list[dict[bytes, KeyRecord]] = self._stores[:place]
            if not any(before) and not self._static:
                digests += records
                continue
            digests += (
                digest
                for digest in records
                if digest not in self._static and not any(digest in held for held in before)
            )
        return Entries(self, digests)

    def counts(self, now_ms: int) -> dict[str, int]:
        """Count keys as `gateway_keys` does; deleted and disabled ones do not count."""
        counts = {"active": 0, "expired": 0}
        for key in self.known():
            if key.state is KeyState.ACTIVE:
                expires_at_ms = key.expires_at_ms
                is_expired = expires_at_ms is not None and expires_at_ms <= now_ms
                counts["expired" if is_expired else "active"] += 1
        return counts

    def apply(
        self, store: int, records: Iterable[KeyRecord], gone: Iterable[bytes] = ()
    ) -> KeyDelta | None:
        """Take over changed records of a store; None if there is nothing new among them.

        They may come late or twice: of two versions of a key the one of the later revision stays.
        `gone` are digests to forget.
        """
        held = self._stores[store]
        changed: list[bytes] = []
        load = self._loads.get(store)
        newest: int | None = None
        for record in records:
            known = held.get(record.digest)
            # While everything is read, what was known before may be of another history.
            is_settled = load is None or record.digest in load.kept
            if known is not None and is_settled and known.revision >= record.revision:
                continue
            if load is not None:
                load.kept.add(record.digest)
            self.put(store, record)
            changed.append(record.digest)
            newest = max(newest or 0, record.updated_ms)
        for digest in gone:
            if load is not None:
                load.kept.add(digest)
            if digest in held:
                self.drop(store, digest)
                changed.append(digest)
        return self.delta(changed, newest) if changed else None

    def load(self, store: int) -> Load:
        """Begin to take over everything that a store holds now, whatever was known of it."""
        self._loads[store] = load = Load(self, store)
        return load

    def replace_static(self, static: Iterable[StaticKey]) -> KeyDelta:
        """Take over other static keys."""
        before, self._static = self._static, {key.digest: key for key in static}
        self._static_ids = {key.key_id: key for key in self._static.values()}
        return self.delta(list(dict.fromkeys([*before, *self._static])), None)

    def forget_tombstones(self, deleted_before_ms: int) -> KeyDelta | None:
        """Drop tombstones of keys that were deleted before this time; None if there are none."""
        due = [at for at, deleted in self._tombstones.items() if deleted < deleted_before_ms]
        for store, digest in due:
            self.drop(store, digest)
        return self.delta([digest for _, digest in due], None) if due else None

    def set_complete(self, *, is_complete: bool) -> KeyDelta | None:
        """Say whether unknown keys exist nowhere; None where that is known."""
        if is_complete == self.is_complete:
            return None
        self.is_complete = is_complete
        return self.delta([], None)

    def suspend(self, store: int, *, is_suspended: bool) -> Iterator[KeyDelta]:
        """Have a store's keys count no longer, or again. In steps; to be used up."""
        if is_suspended == (store in self._suspended):
            return
        (self._suspended.add if is_suspended else self._suspended.discard)(store)
        digests = iter(list(self._stores[store]))
        while step := list(islice(digests, STEP)):
            yield self.delta(step, None)

    def entries_of(self, digests: Iterable[bytes]) -> list[KeyEntry]:
        """Return those of the digests that are known, as workers keep them."""
        return self._split(digests)[0]

    def _effective(self, digest: bytes) -> KnownKey | None:
        static = self._static.get(digest)
        return static if static is not None else self.stored(digest)

    def _split(self, digests: Iterable[bytes]) -> tuple[list[KeyEntry], list[bytes]]:
        """Split digests into those of known keys, as workers keep them, and the others."""
        entries: list[KeyEntry] = []
        unknown: list[bytes] = []
        for digest in digests:
            key = self._effective(digest)
            if key is None:
                unknown.append(digest)
            else:
                entries.append(
                    KeyEntry(
                        digest,
                        self._principal(key),
                    )
                )
        return entries, unknown

    def _principal(self, key: KnownKey) -> Principal:
        return key.principal(with_name=self._with_names, route_labels=self.route_labels)

    # For `Load`, which is the other half of this

    def held(self, store: int) -> dict[bytes, KeyRecord]:
        """Return what a store holds, to look at."""
        return self._stores[store]

    def end_load(self, store: int) -> None:
        """Take changes of the store by their revisions again."""
        self._loads.pop(store, None)

    def put(self, store: int, record: KeyRecord) -> None:
        """Take over one record."""
        held = self._stores[store]
        held[record.digest] = record
        self._ids[record.id] = record
        if record.deleted_at_ms is not None:
            self._tombstones[store, record.digest] = record.deleted_at_ms
        elif self._tombstones:
            self._tombstones.pop((store, record.digest), None)  # a backup can bring a key back

    def drop(self, store: int, digest: bytes) -> None:
        """Forget one record."""
        record = self._stores[store].pop(digest)
        if self._ids.get(record.id) is record:
            del self._ids[record.id]
        self._tombstones.pop((store, digest), None)

    def delta(self, digests: list[bytes], changed_at_ms: int | None) -> KeyDelta:
        """Make a revision of what has become of the digests."""
        self.revision += 1
        return KeyDelta(self.revision, *self._split(digests), changed_at_ms, self.is_complete)


class Load:
    """A store that is being read as a whole, while changes of it go on to come in.

    Those came later than what the reading sees, so they stay. Made by `Registry.load`.
    """

    def __init__(self, registry: Registry, store: int) -> None:
        self.kept: set[bytes] = set()
        """Digests that changed since the reading began."""
        self._registry = registry
        self._store = store
        self._before = set(registry.held(store))

    def add(self, records: Iterable[KeyRecord], *, tell: bool) -> KeyDelta | None:
        """Take over a part; None if it is nothing new, or nobody is to be told of it."""
        registry, before = self._registry, self._before
        held = registry.held(self._store)
        changed: list[bytes] = []
        newest = 0
        for record in records:
            digest = record.digest
            before.discard(digest)
            if digest in self.kept:
                continue
            known = held.get(digest)
            if known == record:
                continue
            registry.put(self._store, record)
            if known is not None and replace(known, revision=record.revision) == record:
                continue  # the store counts its revisions anew, and nothing else has changed
            changed.append(digest)
            newest = max(newest, record.updated_ms)
        if not changed or not tell:
            return None
        return registry.delta(changed, newest)

    def finish(self) -> Iterator[KeyDelta]:
        """Drop what was in none of the parts. In steps; to be used up."""
        registry = self._registry
        self.abandon()
        gone = iter(self._before - self.kept)
        while step := list(islice(gone, STEP)):
            held = registry.held(self._store)
            dropped = [digest for digest in step if digest in held]
            for digest in dropped:
                registry.drop(self._store, digest)
            if dropped:
                yield registry.delta(dropped, None)

    def abandon(self) -> None:
        """Stop in the middle: what was taken over stays, nothing is dropped."""
        self._registry.end_load(self._store)


class Entries(Sequence[KeyEntry]):
    """All keys as workers keep them, each made when it is asked for.

    So a snapshot of a million keys takes no time to make and little memory. What is asked for later
    may be newer than the snapshot's revision, or, removed meanwhile, no longer there: the changes
    that a worker gets after its snapshot say the same.
    """

    def __init__(self, registry: Registry, digests: list[bytes]) -> None:
        self._registry = registry
        self._digests = digests
        self._recent: dict[tuple[int | None, int | None, int], list[KeyEntry]] = {}

    def __len__(self) -> int:
        return len(self._digests)

    def __iter__(self) -> Iterator[KeyEntry]:
        return iter(self._registry.entries_of(self._digests))

    @overload
    def __getitem__(self, place: int) -> KeyEntry: ...
    @overload
    def __getitem__(self, place: slice) -> list[KeyEntry]: ...
    def __getitem__(self, place: int | slice) -> KeyEntry | list[KeyEntry]:
        if isinstance(place, slice):
            # Workers that start together ask for the same parts, one shortly after the other.
            asked = (place.start, place.stop, self._registry.revision)
            if asked not in self._recent:
                if len(self._recent) >= _RECENT_PARTS:
                    del self._recent[next(iter(self._recent))]
                self._recent[asked] = self._registry.entries_of(self._digests[place])
            return self._recent[asked]
        return self._registry.entries_of([self._digests[place]])[0]
