"""Which revision of each store all workers have confirmed, and saying so to waiting commands."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from gateway.keys.following.follower import StoreFollower


class _Unconfirmed(NamedTuple):
    """Once workers confirm `revision` (the gateway's), `follower` stands at `store_revision`."""

    revision: int
    follower: StoreFollower
    store_revision: int


class ConfirmedRevisions:
    """Turns what workers confirm (the gateway's revisions) into the stores' revisions."""

    def __init__(self) -> None:
        self._confirmed = 0
        self._unconfirmed: deque[_Unconfirmed] = deque()

    def note_read(self, revision: int, follower: StoreFollower) -> None:
        """Take note that the gateway's `revision` holds what a store has at its own revision."""
        if follower.revision is not None:
            self._unconfirmed.append(_Unconfirmed(revision, follower, follower.revision))
            if revision <= self._confirmed:
                self.publish(self._confirmed)

    def publish(self, revision: int) -> None:
        """Take note, and tell waiting commands, that every live worker has at least `revision`, or
        that none lives.
        """
        self._confirmed = max(self._confirmed, revision)
        newest: dict[int, _Unconfirmed] = {}
        while self._unconfirmed and self._unconfirmed[0].revision <= revision:
            confirmed = self._unconfirmed.popleft()
            newest[confirmed.follower.number] = confirmed
        for _, follower, store_revision in newest.values():
            follower.status.revision = store_revision
            if follower.publisher is not None:
                follower.publisher.publish(store_revision)
