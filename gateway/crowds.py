"""Who holds places, by client: so that the client with the most of them makes room for others."""

from __future__ import annotations

from typing import Generic, TypeVar

Member = TypeVar("Member")


class Crowds(Generic[Member]):
    """The members of each client, in the order in which they came or were renewed."""

    __slots__ = ("_count", "_of")

    def __init__(self) -> None:
        self._of: dict[str, dict[Member, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Count the members of all clients."""
        return self._count

    def add(self, client: str, member: Member) -> None:
        """Add a member that is not there yet."""
        self._of.setdefault(client, {})[member] = None
        self._count += 1

    def discard(self, client: str, member: Member) -> None:
        """Remove a member, if it is there."""
        members = self._of.get(client, {})
        if member in members:
            del members[member]
            self._count -= 1
            if not members:
                del self._of[client]

    def renew(self, client: str, member: Member) -> None:
        """Have a member that is there be the one that came last."""
        members = self._of[client]
        del members[member]
        members[member] = None

    def count_of(self, client: str) -> int:
        """Count the members of one client."""
        return len(self._of.get(client, ()))

    def largest(self) -> tuple[str, list[Member]]:
        """Return the client that has the most members, and these, the oldest first."""
        client, members = max(self._of.items(), key=_size, default=("", {}))
        return client, list(members)


def _size(item: tuple[str, dict[Member, None]]) -> int:
    return len(item[1])
