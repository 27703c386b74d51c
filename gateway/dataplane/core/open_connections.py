"""The client connections of a worker that have a protocol, and whose places they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gateway.dataplane.core.seams import ServerConnection


def _ignore(*_: object) -> None:
    pass


class OpenConnections:
    """The client connections that have a protocol.

    `on_change` is called when one comes or goes, and before that `on_gone` with the client whose
    place it had.
    """

    __slots__ = ("_open", "on_change", "on_gone")

    def __init__(self) -> None:
        self._open: dict[ServerConnection, str | None] = {}
        self.on_change: Callable[[], None] = _ignore
        self.on_gone: Callable[[str], None] = _ignore

    def __len__(self) -> int:
        """Count them."""
        return len(self._open)

    def __iter__(self) -> Iterator[ServerConnection]:
        """Iterate over those that are open now, but for those that close meanwhile."""
        still_open = self._open
        for connection in list(still_open):
            if connection in still_open:
                yield connection

    def add(self, connection: ServerConnection) -> None:
        """Add a connection, which has no client's place yet."""
        self._open[connection] = None
        self.on_change()

    def give_place(self, connection: ServerConnection, client: str | None) -> None:
        """Have an open connection keep the place of a client, which `on_gone` gets back."""
        self._open[connection] = client

    def replace(self, old: ServerConnection, new: ServerConnection) -> None:
        """Have `new`, which was added, keep the place of `old`, and remove `old`."""
        if new in self._open:
            self._open[new] = self._open.pop(old, None)
        self.discard(old)

    def discard(self, connection: ServerConnection) -> None:
        """Remove a connection, if it is there."""
        client = self._open.pop(connection, None)
        if client is not None:
            self.on_gone(client)
        self.on_change()
