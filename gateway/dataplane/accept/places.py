"""How many connections each client has in this worker (`limits.max_connections_per_address`)."""

from __future__ import annotations

from gateway.dataplane.core import peers


class Places:
    """At most `limit` for each client; 0 = no limit, and nothing is counted."""

    __slots__ = ("_limit", "_taken")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: dict[str, int] = {}

    def __len__(self) -> int:
        """Count the places that are taken."""
        return sum(self._taken.values())

    def beyond(self, client: str) -> int:
        """Return by how many connections one more would exceed the limit, less one: 0 = by one."""
        if not self._limit:
            return -1
        return self._taken.get(client, 0) - self._limit

    def enter(self, client: str) -> bool:
        """Take a place, whatever the limit; return whether it must be given back."""
        if not self._limit or client == peers.UNKNOWN:
            return False
        self._taken[client] = self._taken.get(client, 0) + 1
        return True

    def leave(self, client: str) -> None:
        """Give a place back."""
        left = self._taken[client] - 1
        if left:
            self._taken[client] = left
        else:
            del self._taken[client]
