"""One address of a backend and the connections to it.

A connection in *doubt* gets no requests: whether the backend still answers on it is being found
out. An address is up while it has one without doubt, down when the last attempt to connect failed
or the last connection fell silent, and unknown before either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from gateway.dataplane.core.seams import ConnectionOwner, UpstreamConnection, UpstreamRequest
from gateway.settings import Target

RETRY_S: Final = 0.1
"""Least time between a failed attempt to connect and the next one to the same address."""
_LONGEST_RETRY_S: Final = 10.0
"""The same while other addresses serve: it doubles with each failure up to here."""


class Where(NamedTuple):
    """What a name resolves to: one socket address."""

    family: int
    sockaddr: tuple[str, int] | tuple[str, int, int, int]


class PlaceTaker(Protocol):
    """Who has requests for the places of an address: the pool."""

    @property
    def waiting(self) -> Mapping[UpstreamRequest, object]:
        """Requests that wait for a connection; it stays the same object."""

    def has_capacity(self, address: Address, connection: UpstreamConnection) -> None:
        """A connection takes more requests: serve those that wait."""


class AddressWatcher(Protocol):
    """Who keeps the connections of an address."""

    def connection_gone(self, address: Address) -> None:
        """There is one connection less."""

    def connection_silent(self, address: Address) -> None:
        """The backend answers no more on a connection, which is given up."""

    def state_changed(self, address: Address) -> None:
        """The address may be up or down now."""


class Address(ConnectionOwner):
    """See the module (`seams.ConnectionOwner` of its connections)."""

    __slots__ = (
        "_taker",
        "_waiting",
        "_watcher",
        "connections",
        "doubted",
        "failed_at",
        "failures",
        "free",
        "is_departed",
        "is_up",
        "least",
        "leaving",
        "pending",
        "shares_connections",
        "too_old",
        "where",
    )

    def __init__(
        self,
        target: Target,
        where: Where,
        taker: PlaceTaker,
        watcher: AddressWatcher,
        *,
        shares_connections: bool,
    ) -> None:
        self.target = target
        """The url that it is an address of."""
        self.where = where
        self.shares_connections = shares_connections
        self.connections: dict[UpstreamConnection, float] = {}
        """Those that take requests or are full → when they are to be replaced (monotonic)."""
        self.free: dict[UpstreamConnection, None] = {}
        """Those that take more requests, in the order in which they became free."""
        self.doubted: set[UpstreamConnection] = set()
        self.too_old: UpstreamConnection | None = None
        """One that is to be closed when another one has been made."""
        self.leaving: set[UpstreamConnection] = set()
        """Those that take no new request, and have open ones."""
        self.least = 0
        """Connections that are kept."""
        self.pending = 0
        """Attempts to connect that are under way."""
        self.failed_at = float("-inf")
        """Monotonic seconds of the last attempt, if it failed, or of the last silence."""
        self.failures = 0
        """Attempts that have failed in a row."""
        self.heard_at = float("-inf")
        """When something came last on a connection over HTTP/1.1, as precise as a sweep is."""
        self.needs_proof = False
        """Whether a connection that can be made proves nothing any more (HTTP/1.1)."""
        self.is_up: bool | None = None
        """See the module; None: unknown."""
        self.is_departed = False
        """Whether its name no longer leads to it."""
        self._taker = taker
        self._waiting = taker.waiting
        self._watcher = watcher

    @property
    def busy(self) -> int:
        """Open requests of all connections."""
        return sum(connection.busy for connection in self.connections)

    @property
    def load(self) -> int:
        """Open requests, to compare addresses by; connections that take none count as well."""
        if self.shares_connections:
            return self.busy
        return len(self.connections) - len(self.free)

    @property
    def usable(self) -> int:
        """Connections without doubt."""
        return len(self.connections) - len(self.doubted)

    @property
    def missing(self) -> int:
        """Connections to be made for `least`."""
        return self.least - self.usable - self.pending

    def may_connect(self, now: float, *, others_serve: bool) -> bool:
        """Whether an attempt to connect is due."""
        delay_s = RETRY_S
        if others_serve and self.failures:
            delay_s = min(2.0 ** min(self.failures - 1, 10), _LONGEST_RETRY_S)
        return now - self.failed_at >= delay_s

    # Its connections

    def add(self, connection: UpstreamConnection, now: float, expires_at: float) -> None:
        """Take a connection that was made, on which the backend has answered where that is asked
        for.
        """
        self.failed_at = float("-inf")
        self.failures = 0
        if self.needs_proof:
            self.needs_proof = False
            self.heard_at = now
        self.connections[connection] = expires_at
        self.judge()
        self._offer(connection)

    def failed(self, now: float) -> None:
        """Take note of a failed attempt to connect."""
        self.failed_at = now
        self.failures += 1
        self.judge()

    def judge(self) -> None:
        """Find out whether it is up."""
        if self.usable:
            is_up: bool | None = True
        elif self.failed_at > float("-inf"):
            is_up = False
        else:
            is_up = self.is_up
        if is_up is not self.is_up:
            self.is_up = is_up
            self._watcher.state_changed(self)

    def mark_full(self, connection: UpstreamConnection) -> None:
        """Offer a connection to no further request, if it takes none."""
        if connection.capacity <= 0:
            self.free.pop(connection, None)

    def expired(self, now: float) -> list[UpstreamConnection]:
        """Return the connections that are to be replaced."""
        return [each for each, expires_at in self.connections.items() if expires_at <= now]

    def drain(self) -> None:
        """Close each connection after its open requests."""
        for connection in list(self.connections):
            connection.close()

    def sweep(self, now: float) -> None:
        """Once a second."""
        self.leaving = {connection for connection in self.leaving if connection.busy}
        for connection in (*self.connections, *self.leaving):
            connection.sweep(now)

    # seams.ConnectionOwner

    def capacity_changed(self, connection: UpstreamConnection, capacity: int) -> None:
        """See `ConnectionOwner`."""
        if connection not in self.connections:
            return
        if capacity <= 0:
            self.free.pop(connection, None)
            return
        if self.doubted or self.needs_proof:
            self.trust(connection)
        self._offer(connection)

    def _offer(self, connection: UpstreamConnection) -> None:
        self.free[connection] = None
        if self._waiting:
            self._taker.has_capacity(self, connection)

    def trust(self, connection: UpstreamConnection) -> None:
        """See `ConnectionOwner`."""
        self.needs_proof = False
        self.doubted.discard(connection)
        self.judge()

    def connection_lost(self, connection: UpstreamConnection) -> None:
        """See `ConnectionOwner`."""
        self.connections.pop(connection, None)
        self.doubted.discard(connection)
        self.free.pop(connection, None)
        if connection.busy:
            self.leaving.add(connection)
        self._watcher.connection_gone(self)

    def is_surplus(self, connection: UpstreamConnection) -> bool:
        """See `ConnectionOwner`."""
        return len(self.connections) > self.least

    def doubt(self, connection: UpstreamConnection) -> None:
        """See `ConnectionOwner`."""
        if connection in self.connections:
            self.doubted.add(connection)
            self.free.pop(connection, None)

    def silent(self, connection: UpstreamConnection, now: float) -> None:
        """See `ConnectionOwner`."""
        if self.shares_connections:
            self._watcher.connection_silent(self)
            if connection in self.connections and not self.usable:
                self.failed_at = now
                self.judge()
            return
        # Over HTTP/1.1 the others have not been asked, and a socket that connects proves nothing.
        self.needs_proof = True
        for other in list(self.free):
            other.close()
        self.doubted.update(self.connections)
