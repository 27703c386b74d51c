"""The keys of a running gateway: all of them in memory, always as the stores have them.

Follows every store (`keys.following`) and tells subscribers what the workers must know. It knows
nothing of workers itself: control pushes the changes and says when they are confirmed. Commands on
a store without a gateway use `keys.commands`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from gateway.keys.errors import StoreError
from gateway.keys.following.confirmed import ConfirmedRevisions
from gateway.keys.following.follower import FollowerEvents, StoreFollower
from gateway.keys.following.registry import Registry
from gateway.keys.following.staleness import Staleness
from gateway.keys.following.status import StoreStatus
from gateway.keys.record import KeyDelta, KeyRecord, KeyUsage, KnownKey, StaticKey
from gateway.keys.service_commands import ServiceCommands
from gateway.keys.store import KeyStore, UsageStore
from gateway.keys.stores.sqlite_usage import SqliteUsage
from gateway.keys.tenancy import Label
from gateway.keys.times import now_unix_ms
from gateway.keys.usage import UsageRecorder
from gateway.model import KeyDigest, KeyEntry

PURGE_S: Final = 60.0


class KeyService:
    """All keys of this gateway. `commands` change them, `usage` knows how much they are used.

    `stores` are asked in order, after the `static` keys; new keys go to the first that has a
    repository. In `state_dir` snapshots are kept of stores that are not on this host; without it
    there are none. `on_status` is called when a store fails and when it is back, `on_problem`
    (text) with what loses no key.
    """

    def __init__(  # noqa: PLR0913 - options by name, given in one place
        self,
        stores: Sequence[KeyStore],
        static: Sequence[StaticKey] = (),
        *,
        tombstones_s: float,
        with_names: bool = False,
        route_labels: Iterable[Label] = (),
        max_stale_s: float = 86_400.0,
        state_dir: Path | None = None,
        on_status: Callable[[StoreStatus], None] = lambda _: None,
        on_problem: Callable[[str], None] = lambda _: None,
        now_ms: Callable[[], int] = now_unix_ms,
    ) -> None:
        self._registry = Registry(static, len(stores), with_names=with_names)
        self._registry.use_labels(route_labels)
        events = FollowerEvents(self._report, self._on_read, self._on_status, on_problem, now_ms)
        self._followers = [
            StoreFollower(number, store, self._registry, events, state_dir)
            for number, store in enumerate(stores)
        ]
        self.commands: Final = ServiceCommands(self._followers, self._registry, now_ms)
        self.usage: Final = UsageRecorder(_usage_store(stores, state_dir), on_problem)
        self._staleness = Staleness(
            self._followers, self._registry, max_stale_s, self._report, now_ms
        )
        self._confirmed = ConfirmedRevisions()
        self._tombstones_ms = round(tombstones_s * 1000)
        self._report_status = on_status
        self._now_ms = now_ms
        self._subscribers: list[Callable[[KeyDelta], None]] = []

    # Life

    async def start(self) -> None:
        """Open the stores, making a missing one, and load all keys. Raises `StoreError`."""
        try:
            for follower in self._followers:
                await follower.start()
            await self._staleness.check_ages()
            await self.usage.start(self._gone)
            # No worker lives yet: whichever starts later begins with at least this.
            self.publish_confirmed(self.revision)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Write what is gathered and release everything. End the background tasks before."""
        await self.usage.close()
        for follower in self._followers:
            await follower.close()

    def background(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Return the tasks, by name, that must run from `start` to `close`.

        They never return. One that fails unexpectedly may be started again.
        """
        tasks: dict[str, Callable[[], Awaitable[None]]] = {
            "keys.purge": self._purge_for_ever,
            "keys.max_stale": self._staleness.run,
        }
        for follower in self._followers:
            tasks.update(follower.background())
        if self.usage.is_kept:
            tasks["keys.usage"] = self.usage.run
        return tasks

    # What is known

    @property
    def revision(self) -> int:
        """This gateway's count of changes, from whichever store."""
        return self._registry.revision

    @property
    def is_loaded(self) -> bool:
        """Whether the keys of all stores are known, be it from a snapshot."""
        return all(follower.status.loaded for follower in self._followers)

    def snapshot(self) -> tuple[int, Sequence[KeyEntry], bool]:
        """Return the revision, all that a new worker must know, and whether that is complete.

        See `KeyDelta.complete`. The entries are made when they are looked at.
        """
        return self._registry.revision, self._registry.entries(), self._registry.is_complete

    def record(self, key_id: str) -> KnownKey | None:
        """Look up a key by what workers call it; tombstones are found too."""
        return self._registry.find(key_id)

    def lookup(self, digest: KeyDigest) -> KnownKey | None:
        """Look up a key by its digest; tombstones are found too."""
        return self._registry.lookup(digest)

    def stored_digests(self) -> list[bytes]:
        """Return the digest of each key of a store, tombstones included: a copy."""
        return self._registry.stored_digests()

    def stored(self, digest: bytes) -> KeyRecord | None:
        """Look up a store's key by its digest, whether a static one is equal to it or not.

        None as well while its store has been away for longer than `keys.max_stale`.
        """
        return self._registry.stored(digest)

    @property
    def is_complete(self) -> bool:
        """Whether a key that stands in no store exists nowhere: see `KeyDelta.complete`."""
        return self._registry.is_complete

    @property
    def store_id(self) -> str | None:
        """What identifies the first store that has an id."""
        ids = (follower.store.feed.store_id for follower in self._followers)
        return next((each for each in ids if each is not None), None)

    def records(self) -> Iterator[KnownKey]:
        """Return all keys, tombstones included. To be used up before anything is awaited."""
        return self._registry.known()

    def counts(self) -> dict[str, int]:
        """Count keys by the states of `gateway_keys`."""
        return self._registry.counts(self._now_ms())

    def statuses(self) -> list[StoreStatus]:
        """Return how each store is."""
        return [follower.status for follower in self._followers]

    def last_used_ms(self, key_id: str) -> int:
        """When the key was last allowed, before this start too; 0 = never."""
        return self.usage.last_used_ms(key_id)

    # Changes for the workers

    def subscribe(self, subscriber: Callable[[KeyDelta], None]) -> None:
        """Have `subscriber` called with every change from now on.

        Revisions rise by one from call to call. It must not wait and not raise.
        """
        self._subscribers.append(subscriber)

    def publish_confirmed(self, revision: int) -> None:
        """Take note, and tell waiting commands, that every live worker has at least `revision`, or
        that none lives.
        """
        self._confirmed.publish(revision)

    def use_names(self, *, with_names: bool) -> None:
        """Have workers told the keys' names, or not, from the next snapshot on.

        Those that have a snapshot must be replaced afterwards.
        """
        self._registry.use_names(with_names=with_names)

    def use_labels(self, labels: Iterable[Label]) -> None:
        """Have workers told which keys have these labels, from the next snapshot on; as
        `use_names`, but those that they were told before stay.
        """
        self._registry.use_labels(labels)

    @property
    def route_labels(self) -> frozenset[Label]:
        """The labels that workers are told."""
        return self._registry.route_labels

    def replace_static(self, static: Sequence[StaticKey]) -> None:
        """Take over the static keys of a configuration that was read again."""
        self._report(self._registry.replace_static(static))

    async def purge(self) -> None:
        """Forget tombstones that are older than they need to be, here and in the stores."""
        deleted_before_ms = self._now_ms() - self._tombstones_ms
        for follower in self._followers:
            try:
                if follower.status.up:
                    await follower.store.feed.purge(deleted_before_ms)
            except StoreError as error:
                follower.fail(error)
        delta = self._registry.forget_tombstones(deleted_before_ms)
        if delta is not None:
            self._report(delta)

    def note_usage(
        self, key_id: str, *, allowed: bool, requests: int, body_bytes: int, last_used_ms: int
    ) -> None:
        """Take over a worker's report on one key. Reports on keys that are not known are ignored.

        `last_used_ms`: Unix milliseconds of the last of the requests.
        """
        if self._registry.find(key_id) is None:
            return
        if allowed:
            self.usage.note(key_id, KeyUsage(requests, body_bytes, 0, last_used_ms))
        else:
            self.usage.note(key_id, KeyUsage(refusals=requests))

    def _gone(self, key_ids: Collection[str]) -> Collection[str]:
        """Return those of the ids whose keys exist no longer; none while that cannot be told."""
        if not all(follower.status.up for follower in self._followers):
            return ()
        return [each for each in key_ids if each.isdigit() and self.record(each) is None]

    def _on_read(self, follower: StoreFollower) -> None:
        self._confirmed.note_read(self.revision, follower)

    def _on_status(self, status: StoreStatus) -> None:
        self._staleness.check_completeness()
        self._report_status(status)

    def _report(self, delta: KeyDelta) -> None:
        for subscriber in self._subscribers:
            subscriber(delta)

    async def _purge_for_ever(self) -> None:
        while True:
            await self.purge()
            await asyncio.sleep(PURGE_S)


def _usage_store(stores: Sequence[KeyStore], state_dir: Path | None) -> UsageStore | None:
    """Return the first store's place for usage, else a file of its own."""
    places = (store.usage for store in stores)
    found = next((each for each in places if each is not None), None)
    if found is None and state_dir is not None and stores:
        return SqliteUsage(state_dir / "keys.usage", own_only=True)
    return found
