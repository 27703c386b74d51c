"""The connections of one pool: to which addresses, how many, how old; what is known of each.

Every address of every name gets its share of the connections. An address that cannot be reached, or
has fallen silent, is tried again and again while the others get the requests. Connections that are
too old are replaced by new ones, and so are those to addresses that a name no longer leads to.
Making a connection and resolving a name take time; everything else decides at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Protocol

from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.seams import UpstreamConnection
from gateway.dataplane.upstream.address import Address, PlaceTaker, Where
from gateway.dataplane.upstream.connector import ConnectError, Connector, SilentError
from gateway.dataplane.upstream.report import BackendReport
from gateway.dataplane.upstream.url import Url, literal_address
from gateway.settings import BackendSettings, Target


class ConnectionsOwner(PlaceTaker, Protocol):
    """The pool."""

    def places_changed(self) -> None:
        """A connection is gone: serve those that wait from the others."""

    def addresses_changed(self) -> None:
        """There are other addresses."""

    def nothing_left(self) -> None:
        """No connection can be made: nobody needs to wait."""


class Connections:
    """See the module (`AddressWatcher` of its addresses)."""

    __slots__ = (
        "_backend",
        "_connector",
        "_context",
        "_drained",
        "_is_closed",
        "_owner",
        "_report",
        "_tasks",
        "_urls",
        "addresses",
        "is_used",
    )

    def __init__(
        self,
        context: WorkerContext,
        backend: BackendSettings,
        connector: Connector,
        owner: ConnectionsOwner,
    ) -> None:
        self.addresses: list[Address] = []
        """Those that get requests; the list stays the same object."""
        self.is_used = False
        """Whether there were requests since the last sweep: each address is to get some."""
        self._context = context
        self._backend = backend
        self._connector = connector
        self._owner = owner
        self._report = BackendReport(backend.name, context.counters)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._drained: list[Address] = []
        """Those that get no more requests, and have open ones."""
        self._urls: dict[Target, Url] = {}
        for target in backend.targets:
            url = self._urls[target] = Url(target)
            where = literal_address(target)
            if where is not None:
                url.addresses.append(self._make(target, where))
                url.resolve_at = float("inf")
                self.addresses.append(url.addresses[0])

    @property
    def most(self) -> int:
        """The most connections: at least one for each address that keeps some."""
        kept = self._backend.min_connections * len(self.addresses)
        return max(self._backend.max_connections, kept, 1)

    @property
    def everything(self) -> list[Address]:
        """All addresses that have connections."""
        return [*self.addresses, *self._drained]

    @property
    def may_help(self) -> bool:
        """Whether it is of use to wait: a connection exists, is being made, or may be tried."""
        if self._is_hopeful:
            return True
        now = self._context.now()
        if any(url.is_due(now) for url in self._urls.values()):
            return True
        return any(each.may_connect(now, others_serve=False) for each in self.addresses)

    @property
    def _is_hopeful(self) -> bool:
        return any(each.usable or each.pending for each in self.addresses) or any(
            url.is_awaited for url in self._urls.values()
        )

    # Growing

    def maintain(self, now: float) -> None:
        """Keep names resolved and `min_connections` to every address, so that a first request waits
        for no handshake; replace what is too old.
        """
        if self._is_closed:
            return
        least = self._backend.min_connections
        if not least and self.is_used and len(self.addresses) > 1:
            least = 1
        self.is_used = False
        for url in self._urls.values():
            if url.is_due(now):
                self._resolve(url)
        serves = any(address.usable for address in self.addresses)
        for address in self.addresses:
            address.least = least
            self._note_age(address, now)
            if self._is_wanted(address) and address.may_connect(now, others_serve=serves):
                self._connect(address)

    def _is_wanted(self, address: Address) -> bool:
        """Whether another connection is to be made, though nobody waits for one."""
        if address.missing > 0:
            return True
        is_down = self._urls[address.target].is_up is False  # find out when it is up again
        return not address.pending and (is_down or address.too_old is not None)

    @staticmethod
    def _note_age(address: Address, now: float) -> None:
        """Close connections that are too old and not needed; note one that is to be replaced."""
        address.too_old = None
        for connection in address.expired(now):
            if not connection.busy and address.is_surplus(connection):
                connection.close()
            else:
                address.too_old = connection

    def grow(self) -> None:
        """Connect once more where it helps those that wait."""
        waiting = len(self._owner.waiting)
        if self._is_closed or not waiting:
            return
        now = self._context.now()
        candidates = self._candidates(now)
        serving = [address for address in self.addresses if address.is_up is not False]
        connecting = sum(address.pending for address in serving)
        count = sum(len(each.connections) + each.pending for each in self.addresses)
        # Over HTTP/2 one new connection serves many; over HTTP/1.1 each that waits needs one.
        free = sum(len(address.free) for address in self.addresses)
        wanted = 1 if self._connector.shares_connections else waiting - free
        while count < self.most and connecting < wanted:
            # An attempt at an address that is down helps nobody to wait for others.
            possible = [each for each in candidates if each.is_up is not False or not each.pending]
            if not possible:
                return
            self._connect(min(possible, key=_rank))
            count += 1
            connecting += 1

    def _candidates(self, now: float) -> list[Address]:
        """Return the addresses that may be connected to; see to names that lead nowhere."""
        found: list[Address] = []
        for url in self._urls.values():
            if not url.usable and url.is_due(now):
                self._resolve(url)
            if not url.is_awaited or url.usable:
                found += url.in_use
        return [address for address in found if address.may_connect(now, others_serve=False)]

    # Names

    def _resolve(self, url: Url) -> None:
        url.is_resolving = url.is_awaited = True
        self._spawn(self._resolve_once(url))

    async def _resolve_once(self, url: Url) -> None:
        lookup = self._context.loop.create_task(self._connector.resolve(url.target))
        try:
            limit_s = self._backend.connect_timeout_s
            done, _ = await asyncio.wait((lookup,), timeout=limit_s)
            if not done:  # the resolver goes on: it may have asked a name server that is down
                self._resolve_failed(url, f"the name was not resolved within {limit_s:g} s")
            found = await lookup
        except (OSError, UnicodeError) as error:
            url.is_resolving = False
            self._resolve_failed(url, str(error) or type(error).__name__)
        except BaseException:
            lookup.cancel()
            raise
        else:
            url.is_resolving = url.is_awaited = False
            self._resolved(url, found)

    def _resolved(self, url: Url, found: list[Where]) -> None:
        if self._is_closed:
            return
        before = {address.where for address in url.in_use}
        url.resolved(
            found,
            self._context.now(),
            self._backend.resolve_interval_s,
            lambda where: self._make(url.target, where),
        )
        self._report.resolved(url, before)
        self._release_departed(url)
        self._collect()
        self.maintain(self._context.now())
        self.grow()

    def _resolve_failed(self, url: Url, error: str) -> None:
        url.is_awaited = False
        url.failed_to_resolve(self._context.now())
        self._report.not_resolved(url, error)
        self.grow()
        self._give_up_if_hopeless()

    def _make(self, target: Target, where: Where) -> Address:
        shares = self._connector.shares_connections
        return Address(target, where, self._owner, self, shares_connections=shares)

    def _release_departed(self, url: Url) -> None:
        """Drain the addresses that a name no longer leads to, once others can be used."""
        is_ready = any(address.usable for address in url.addresses)
        if not url.departed or not (is_ready or not self._backend.min_connections):
            return
        for address in url.release_departed():
            address.is_departed = True
            self._drained.append(address)
            address.drain()
        self._collect()

    def _collect(self) -> None:
        """List the addresses anew."""
        found = [address for url in self._urls.values() for address in url.in_use]
        if found != self.addresses:
            self.addresses[:] = found
            self._owner.addresses_changed()

    # Connecting

    def _connect(self, address: Address) -> None:
        address.pending += 1
        self._spawn(self._connect_once(address))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._context.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_once(self, address: Address) -> None:
        try:
            connection = await self._connector.connect(address, address.where)
        except (OSError, ConnectError) as error:
            address.pending -= 1
            self._connect_failed(address, error)
            return
        except BaseException:
            address.pending -= 1
            raise
        address.pending -= 1
        self._connected(address, connection)

    def _connected(self, address: Address, connection: UpstreamConnection) -> None:
        if self._is_closed or address.is_departed:
            connection.close()
            return
        now = self._context.now()
        # Connections that were made together do not end together.
        age_s = self._backend.max_connection_age_s * random.uniform(0.9, 1.1)
        address.add(connection, now, now + age_s)
        url = self._urls[address.target]
        self._report.connections(url)
        old, address.too_old = address.too_old, None
        if old in address.connections:
            old.close()
        self._release_departed(url)
        self.grow()

    def _connect_failed(self, address: Address, error: Exception) -> None:
        url = self._urls[address.target]
        if isinstance(error, SilentError) and address.is_up is not False:
            self._report.silent(url, address)
        url.hurry()
        before = address.is_up
        address.failed(self._context.now())
        self._report.not_connected(url, address, before, str(error) or type(error).__name__)
        self.grow()  # another address may do
        self._give_up_if_hopeless()

    def _give_up_if_hopeless(self) -> None:
        if not self._is_hopeful:
            self._owner.nothing_left()

    # AddressWatcher

    def connection_gone(self, address: Address) -> None:
        """See `AddressWatcher`."""
        url = self._urls[address.target]
        self._report.connections(url)
        if not address.connections and not address.is_departed:
            url.hurry()
        if not self._is_closed:
            self._owner.places_changed()

    def connection_silent(self, address: Address) -> None:
        """See `AddressWatcher`."""
        url = self._urls[address.target]
        url.hurry()
        self._report.silent(url, address)

    def state_changed(self, address: Address) -> None:
        """See `AddressWatcher`."""
        self._report.state(self._urls[address.target], "it does not answer")

    # Time and end

    def sweep(self, now: float) -> None:
        """Once a second."""
        for address in self.everything:
            address.sweep(now)
        self._drained = [each for each in self._drained if each.leaving or each.pending]
        self.maintain(now)

    async def close(self) -> None:
        """Close every connection, and connect no more."""
        self._is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for address in self.addresses:
            address.drain()
        self._owner.nothing_left()
        await asyncio.gather(*tasks, return_exceptions=True)


def _rank(address: Address) -> tuple[bool, int, float]:
    """Order addresses by how much another connection is worth."""
    connections = len(address.connections) + address.pending
    return address.is_up is False, connections, random.random()
