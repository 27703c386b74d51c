"""Connections to one backend: which request goes where, when to grow, what to do while there is
none.

Decides without waiting: `open` hands a request to a connection, queues it, or refuses it.
Connecting is the only thing that takes time; each attempt resolves the name anew.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, cast

import structlog

from gateway import metrics
from gateway.dataplane import tls
from gateway.outcome import REFUSALS

if TYPE_CHECKING:
    from gateway.dataplane.ending import Ending
    from gateway.dataplane.plane import DataPlane
    from gateway.dataplane.relaying import Relaying
    from gateway.dataplane.sides import Upstream
    from gateway.settings import Backend, Target

_log = structlog.get_logger(__name__)

_RETRY_S: Final = 0.1
"""Least time between a failed attempt to connect and the next one to the same address."""
_USER_TIMEOUT_MS: Final = 20_000
"""TCP_USER_TIMEOUT: unacknowledged data for so long means that the backend has vanished."""


class ConnectError(Exception):
    """A connection could not be made; the text says why."""


class UpstreamConnection(Protocol):
    """One connection to a backend, of either HTTP version. It is also the asyncio protocol of
    its transport.
    """

    alpn: ClassVar[tuple[str, ...]]
    """Protocols to offer over TLS."""
    shares_streams: ClassVar[bool]
    """Whether one connection carries many requests at once."""
    home: Address
    """Where it leads."""

    def __init__(self, plane: DataPlane, backend: Backend, home: Address, pool: Pool) -> None: ...

    @property
    def busy(self) -> int:
        """Open requests."""

    @property
    def capacity(self) -> int:
        """How many more requests it takes now."""

    async def ready(self) -> None:
        """Wait until requests may be opened. Raises `ConnectError`."""

    def open(self, exchange: Relaying) -> Upstream:
        """Send a request's head; the caller has checked `capacity`."""

    def sweep(self, now: float) -> None:
        """Once a second: find out whether the backend is still there."""

    def close(self) -> None:
        """Close when nothing is open, else after the open requests."""


class Address:
    """One url of the backend and its connections."""

    __slots__ = ("connecting", "connections", "failed_at", "free", "is_up", "leaving", "target")

    def __init__(self, target: Target) -> None:
        self.target = target
        self.connections: set[UpstreamConnection] = set()
        self.free: dict[UpstreamConnection, None] = {}
        self.leaving: set[UpstreamConnection] = set()
        """Take no new request, and have open ones."""
        self.connecting: set[asyncio.Task[None]] = set()
        self.failed_at = float("-inf")
        self.is_up: bool | None = None

    @property
    def busy(self) -> int:
        """Open requests of all connections."""
        return sum(connection.busy for connection in self.connections)


class Pool:
    """All connections of this worker to one backend."""

    def __init__(self, plane: DataPlane, backend: Backend, kind: type[UpstreamConnection]) -> None:
        self._plane = plane
        self.backend = backend
        self._kind = kind
        self._addresses = [Address(target) for target in backend.targets]
        self._waiting: dict[Relaying, None] = {}
        self._is_closed = False
        self._tls = {
            target: tls.client_context(backend.tls, kind.alpn)
            for target in backend.targets
            if target.tls
        }

    @property
    def open_connections(self) -> int:
        """How many connections may take requests, or are full."""
        return sum(len(address.connections) for address in self._addresses)

    # Requests

    def open(self, exchange: Relaying) -> None:
        """Give the exchange a connection now or later: it gets `attach` or `no_upstream`."""
        connection = self._free_connection()
        if connection is not None:
            exchange.attach(connection.open(exchange))
            if connection.capacity <= 0:
                connection.home.free.pop(connection, None)
        elif not self._can_hope():
            exchange.no_upstream(REFUSALS["BACKEND_UNREACHABLE"])
        elif len(self._waiting) >= self.backend.max_waiting:
            exchange.no_upstream(REFUSALS["OVERLOADED"])
        else:
            self._waiting[exchange] = None
            self._grow()

    def forget(self, exchange: Ending) -> None:
        """Take a waiting exchange out of the queue."""
        self._waiting.pop(cast("Relaying", exchange), None)

    def _free_connection(self) -> UpstreamConnection | None:
        """The least busy connection of the least busy address that has one free."""
        addresses = self._addresses
        address = addresses[0]
        if len(addresses) > 1:
            free = [candidate for candidate in addresses if candidate.free]
            if not free:
                return None
            least = min(candidate.busy for candidate in free)
            address = random.choice([candidate for candidate in free if candidate.busy == least])
        if not address.free:
            return None
        if len(address.free) == 1:
            return next(iter(address.free))
        if not self._kind.shares_streams:
            # HTTP/1.1: the one that was used last is the least likely to be closed by the backend
            # just now.
            return next(reversed(address.free))
        return min(address.free, key=lambda connection: connection.busy)

    def _can_hope(self) -> bool:
        """Whether a connection exists, is being made, or may be tried now."""
        now = self._plane.now()
        return any(
            address.connections or address.connecting or now - address.failed_at >= _RETRY_S
            for address in self._addresses
        )

    # Called by connections

    def capacity_changed(self, connection: UpstreamConnection) -> None:
        """A request has ended, or the backend's limits changed: serve who waits."""
        address = connection.home
        if connection not in address.connections:
            return
        if connection.capacity <= 0:
            address.free.pop(connection, None)
            return
        address.free[connection] = None
        if self._waiting:
            self._serve_waiting(connection)

    def _serve_waiting(self, connection: UpstreamConnection) -> None:
        """Give those who wait what a connection can take."""
        while self._waiting and connection.capacity > 0:
            exchange = next(iter(self._waiting))
            del self._waiting[exchange]
            exchange.attach(connection.open(exchange))
        if connection.capacity <= 0:
            connection.home.free.pop(connection, None)

    def connection_lost(self, connection: UpstreamConnection) -> None:
        """The transport is gone, or takes no more requests."""
        address = connection.home
        address.connections.discard(connection)
        address.free.pop(connection, None)
        if connection.busy:
            address.leaving.add(connection)
        self._gauge(address)
        if self._waiting:
            self._grow()

    def is_surplus(self, connection: UpstreamConnection) -> bool:
        """Whether an idle connection is more than `min_connections` asks for."""
        return len(connection.home.connections) > self.backend.min_connections

    # Growing

    def maintain(self) -> None:
        """Keep `min_connections` to every address, so that a first request waits for no
        handshake.
        """
        if self._is_closed:
            return
        for address in self._addresses:
            missing = (
                self.backend.min_connections - len(address.connections) - len(address.connecting)
            )
            if missing > 0 and self._plane.now() - address.failed_at >= _RETRY_S:
                self._connect(address)

    def _grow(self) -> None:
        """Connect once more where it helps those who wait."""
        count = sum(
            len(address.connections) + len(address.connecting) for address in self._addresses
        )
        connecting = sum(len(address.connecting) for address in self._addresses)
        # Over HTTP/2 one new connection serves many; over HTTP/1.1 each who waits needs one.
        wanted = 1 if self._kind.shares_streams else len(self._waiting)
        now = self._plane.now()
        while count < max(self.backend.max_connections, 1) and connecting < wanted:
            candidates = [
                address for address in self._addresses if now - address.failed_at >= _RETRY_S
            ]
            if not candidates:
                return
            self._connect(
                min(
                    candidates,
                    key=lambda address: (address.busy + len(address.connecting), random.random()),
                )
            )
            count += 1
            connecting += 1

    def _connect(self, address: Address) -> None:
        task = self._plane.loop.create_task(self._connect_once(address))
        address.connecting.add(task)
        task.add_done_callback(address.connecting.discard)

    async def _connect_once(self, address: Address) -> None:
        try:
            async with asyncio.timeout(self.backend.connect_timeout_s):
                connection = await self._connection(address)
        except (OSError, UnicodeError, ssl.SSLError, TimeoutError, ConnectError) as error:
            self._no_longer_connecting(address)
            self._connect_failed(address, error)
            return
        self._no_longer_connecting(address)
        self._connected(address, connection)

    @staticmethod
    def _no_longer_connecting(address: Address) -> None:
        """Count this attempt no more: what follows decides on the next one."""
        task = asyncio.current_task()
        if task is not None:
            address.connecting.discard(task)

    async def _connection(self, address: Address) -> UpstreamConnection:
        """Resolve the name, connect to one of its addresses, wait until requests may be opened."""
        target = address.target
        loop = self._plane.loop
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        random.shuffle(found)
        context = self._tls.get(target)
        server_name = None
        if context is not None:
            server_name = (self.backend.tls and self.backend.tls.server_name) or target.host
        failure: OSError | None = None
        for family, kind, number, _, where in found:
            sock = socket.socket(family, kind, number)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
                await loop.sock_connect(sock, where)
            except OSError as error:
                failure = error
                sock.close()
                continue
            except BaseException:
                sock.close()
                raise
            connection = self._kind(self._plane, self.backend, address, self)
            transport, _ = await loop.create_connection(
                lambda c=connection: c, sock=sock, ssl=context, server_hostname=server_name
            )
            try:
                await connection.ready()
            except BaseException:
                transport.abort()
                raise
            return connection
        raise failure or ConnectError("the name has no address")

    def _connected(self, address: Address, connection: UpstreamConnection) -> None:
        if self._is_closed:
            connection.close()
            return
        if address.is_up is False:
            _log.info(
                "the backend can be reached again",
                backend=self.backend.name,
                address=address.target.address,
            )
        address.is_up = True
        address.failed_at = float("-inf")
        address.connections.add(connection)
        self._gauge(address)
        self._plane.counters.gauges[
            metrics.BACKEND_UP.name, (self.backend.name, address.target.address)
        ] = 1
        self.capacity_changed(connection)
        if self._waiting:
            self._grow()

    def _connect_failed(self, address: Address, error: Exception) -> None:
        address.failed_at = self._plane.now()
        self._plane.counters.count(
            metrics.BACKEND_CONNECT_ERRORS, self.backend.name, address.target.address
        )
        self._plane.counters.gauges[
            metrics.BACKEND_UP.name, (self.backend.name, address.target.address)
        ] = 0
        if address.is_up is not False:
            address.is_up = False
            _log.warning(
                "the backend cannot be reached; clients are told to retry",
                backend=self.backend.name,
                address=address.target.address,
                error=str(error) or type(error).__name__,
            )
        if self._waiting and not self._is_closed:
            self._grow()  # another address may do
        if not any(other.connections or other.connecting for other in self._addresses):
            self._fail_waiting()

    def _fail_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for exchange in waiting:
            exchange.no_upstream(REFUSALS["BACKEND_UNREACHABLE"])

    def _gauge(self, address: Address) -> None:
        gauges = self._plane.counters.gauges
        gauges[metrics.BACKEND_CONNECTIONS.name, (self.backend.name, address.target.address)] = len(
            address.connections
        )

    # Time and end

    def sweep(self, now: float) -> None:
        """Once a second."""
        for address in self._addresses:
            address.leaving = {connection for connection in address.leaving if connection.busy}
            for connection in (*address.connections, *address.leaving):
                connection.sweep(now)
        self.maintain()
        if self._waiting:
            self._grow()

    async def close(self) -> None:
        """Close every connection, and connect no more."""
        self._is_closed = True
        connecting = [task for address in self._addresses for task in address.connecting]
        for task in connecting:
            task.cancel()
        for address in self._addresses:
            for connection in list(address.connections):
                connection.close()
        self._fail_waiting()
        await asyncio.gather(*connecting, return_exceptions=True)
