"""Which request goes to which connection of one backend, and what to do while there is none.

A place is a connection over HTTP/1.1, a stream over HTTP/2. While there are free ones, whoever
comes gets one; only uploads leave some for other senders (`shares`). Who waits is served by sender
(`waiting_room`), and slow uploads give their places to those that wait (`upload_rates`).

Decides without waiting: `open` hands a request to a connection, queues it, or refuses it. The
connections are made by `connections`.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway import metrics
from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.seams import RequestPool, UpstreamConnection, UpstreamRequest
from gateway.dataplane.upstream.address import Address
from gateway.dataplane.upstream.connections import Connections
from gateway.dataplane.upstream.connector import Connector
from gateway.dataplane.upstream.shares import Shares
from gateway.dataplane.upstream.upload_rates import UploadRates
from gateway.dataplane.upstream.waiting_room import WaitingRoom
from gateway.outcome import REFUSALS
from gateway.settings import BackendSettings


def _busy(connection: UpstreamConnection) -> int:
    return connection.busy


class Pool(RequestPool):
    """All connections of this worker to one backend."""

    def __init__(
        self, context: WorkerContext, backend: BackendSettings, connector: Connector
    ) -> None:
        self._context = context
        self._backend = backend
        self.shares_connections = connector.shares_connections
        self._most = max(backend.max_connections, 1)
        self._shares = Shares(self._most, self._open_requests)
        self._room = WaitingRoom(self._shares)
        self.waiting = self._room.requests
        self._rates = UploadRates(context.limits.min_upload_rate)
        self._turn = 0
        """Which address is next, among those that have a free connection."""
        self._addresses: list[Address] = []
        self._connections = Connections(context, backend, connector, self)
        self._addresses = self._connections.addresses
        self.addresses_changed()

    # What `seams.RequestPool` asks for

    @property
    def has_connection(self) -> bool:
        """See `RequestPool`."""
        return any(address.connections for address in self._addresses)

    def open(self, request: UpstreamRequest) -> None:
        """See `RequestPool`."""
        addresses = self._addresses
        address = addresses[0] if len(addresses) == 1 else self._choose_address()
        free = address.free if address is not None else None
        if not free:
            self._wait(request)
        elif self.shares_connections:
            connection = min(free, key=_busy) if len(free) > 1 else next(iter(free))
            request.attach(connection.open(request))
        else:
            # The one that was used last is the least likely to be closed by the backend just now.
            connection, _ = free.popitem()
            request.attach(connection.open(request))

    def open_upload(self, request: UpstreamRequest) -> None:
        """See `RequestPool`: while most places are taken, a sender's uploads leave some."""
        if self.shares_connections or self._has_room_for_upload(request):
            self.open(request)
        else:
            self._wait(request)

    def forget(self, request: UpstreamRequest) -> None:
        """See `RequestPool`."""
        self._room.discard(request)

    def _has_room_for_upload(self, request: UpstreamRequest) -> bool:
        taken = sum(len(each.connections) - len(each.free) for each in self._addresses)
        if 4 * taken < 3 * self._most:
            return True  # whoever holds them, as `Shares` would find
        shares = self._shares
        if not self.waiting or shares.is_due():
            self._room.recount()
        if not shares.may_upload(request.sender):
            return False
        shares.took_place(request)
        return True

    def _wait(self, request: UpstreamRequest) -> None:
        """Have a request wait for a place, if there is room for it."""
        if not self._connections.may_help:
            request.unavailable(REFUSALS["BACKEND_UNREACHABLE"])
            return
        if len(self.waiting) >= self._backend.max_waiting:
            displaced = self._room.displace(request.sender)
            if displaced is None:
                request.unavailable(REFUSALS["OVERLOADED"])
                return
            self._count_displaced("queue")
            displaced.unavailable(REFUSALS["OVERLOADED"])
        self._room.add(request, is_upload=not self.shares_connections and request.is_upload)
        self._connections.grow()

    def _choose_address(self) -> Address | None:
        """Return an address that has a free connection: each in turn, or the next one if that is
        less busy; None where none has.
        """
        self._connections.is_used = True
        free = [candidate for candidate in self._addresses if candidate.free]
        count = len(free)
        if count < 2:
            return free[0] if count else None
        turn = self._turn = (self._turn + 1) % count
        first, second = free[turn], free[turn - 1]
        return first if first.load <= second.load else second

    # connections.ConnectionsOwner

    def has_capacity(self, address: Address, connection: UpstreamConnection) -> None:
        """See `PlaceTaker`."""
        while self.waiting and connection.capacity > 0:
            request = self._room.take()
            if request is None:
                break
            request.attach(connection.open(request))
        address.mark_full(connection)

    def places_changed(self) -> None:
        """See `ConnectionsOwner`."""
        if self.waiting:
            self._serve()
            self._connections.grow()

    def addresses_changed(self) -> None:
        """See `ConnectionsOwner`."""
        self._most = self._shares.most = self._connections.most

    def nothing_left(self) -> None:
        """See `ConnectionsOwner`."""
        for request in self._room.clear():
            request.unavailable(REFUSALS["BACKEND_UNREACHABLE"])

    def _serve(self) -> None:
        """Give free places to those that wait: some were left free for other senders."""
        for address in self._addresses:
            for connection in list(address.free):
                self.has_capacity(address, connection)

    def _open_requests(self) -> Iterator[UpstreamRequest]:
        for address in self._connections.everything:
            for connection in (*address.connections, *address.leaving):
                yield from connection.requests

    # Time and end

    def maintain(self) -> None:
        """Begin to connect."""
        self._connections.maintain(self._context.now())

    def sweep(self, now: float) -> None:
        """Once a second."""
        self._connections.sweep(now)
        self._end_slow_uploads(now)
        if self.waiting:
            self._room.recount()
            self._serve()
            self._connections.grow()

    def _end_slow_uploads(self, now: float) -> None:
        """Have slow uploads give up their places, as many as requests wait for one."""
        if not self.waiting and any(address.free for address in self._addresses):
            self._rates.forget()
            return
        for request in self._rates.watch(self._open_requests(), now)[: len(self.waiting)]:
            self._count_displaced("slow_upload")
            request.displace(REFUSALS["UPLOAD_TOO_SLOW"])

    def _count_displaced(self, reason: str) -> None:
        self._context.counters.count(metrics.BACKEND_DISPLACED, self._backend.name, reason)

    async def close(self) -> None:
        """Close every connection, and connect no more."""
        await self._connections.close()
