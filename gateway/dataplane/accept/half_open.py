"""The TLS handshakes that have begun and are not finished: they wait for their clients.

Each holds memory, and there are only so many at a time. When one more begins, the oldest of the
client that has the most makes room: it is the one that is most likely never to be finished.
"""

from __future__ import annotations

from typing import Protocol

from gateway.crowds import Crowds


class GivesWay(Protocol):
    """What can be asked to make room."""

    def give_way(self) -> None:
        """End now."""


class HalfOpen:
    """At most `most` handshakes, which is at least one."""

    __slots__ = ("_crowds", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._crowds: Crowds[GivesWay] = Crowds()

    def __len__(self) -> int:
        """Count them."""
        return len(self._crowds)

    def add(self, client: str, handshake: GivesWay) -> None:
        """Add a handshake, behind one that makes room where there are as many as there may be."""
        if len(self._crowds) >= self._most:
            crowded, members = self._crowds.largest()
            self._crowds.discard(crowded, members[0])
            members[0].give_way()
        self._crowds.add(client, handshake)

    def discard(self, client: str, handshake: GivesWay) -> None:
        """Take out a handshake that is over, if it is still there."""
        self._crowds.discard(client, handshake)
