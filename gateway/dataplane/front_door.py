"""Everything between the listening sockets and the protocols: the connection limit, the arrivals.

What happens here happens before there is a request, so the only answers are to close, or to say in
HTTP that there are too many connections.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import TYPE_CHECKING, Final

from gateway import metrics
from gateway.dataplane import peers, tls
from gateway.dataplane.arrival import Arrival, Entrance, TurnedBackError
from gateway.dataplane.counts import OpenConnections, SharedCounts
from gateway.dataplane.http1_server import Http1Server
from gateway.dataplane.http2_server import Http2Server
from gateway.dataplane.listener import Listener
from gateway.dataplane.notices import Notices
from gateway.dataplane.sniff import Sniffer
from gateway.dataplane.tls_transport import SHARED_BYTES
from gateway.dataplane.turned_away import TurnedAway

if TYPE_CHECKING:
    from gateway.dataplane.plane import DataPlane
    from gateway.settings import Listener as ListenerSettings

MAX_HANDSHAKES: Final = 256
"""TLS handshakes under way at once. Each costs about a millisecond of the loop; more than these
wait for their turn.
"""
MAX_TURNED_AWAY: Final = 64
"""Connections beyond the limit that are given an answer at a time; more are closed without one."""
_SCARCE: Final = (
    "no descriptor is left for one more connection: raise the limit (ulimit -n, LimitNOFILE) or "
    "lower limits.max_connections"
)


class FrontDoor:
    """All listeners of a worker and what has arrived at them."""

    def __init__(self, plane: DataPlane, counts: SharedCounts) -> None:
        self.plane = plane
        self.notices = Notices()
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._trusted = peers.TrustedNetworks(plane.settings.trusted_networks)
        self._listeners: list[Listener] = []
        self._arrivals: set[Arrival] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handshakes = asyncio.Semaphore(MAX_HANDSHAKES)
        self._ciphertext = memoryview(bytearray(SHARED_BYTES))
        self._is_open = False
        self._emptied = asyncio.Event()
        plane.connections = OpenConnections(self._changed)

    def add_listener(self, settings: ListenerSettings) -> None:
        """Take over a listening socket. Raises `tls.TlsFileError`, `OSError`."""
        context = tls.server_context(settings.tls) if settings.tls is not None else None
        timeout_s = self.plane.settings.limits.header_timeout_s
        entrance = Entrance(settings, context, self._handshakes, self._ciphertext, timeout_s)
        take = functools.partial(self._take, entrance)
        self._listeners.append(Listener(settings, take, self._load, self._on_scarcity))

    def open(self) -> None:
        """Begin to accept."""
        self._is_open = True
        self._changed()
        for listener in self._listeners:
            listener.open()

    def close(self) -> None:
        """Accept no more; what has arrived goes on. May be called again."""
        if self._is_open:
            self._is_open = False
            self._counts.close()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def abort(self) -> None:
        """Give up what has arrived but has no protocol yet."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wait_empty(self) -> None:
        """Wait until no connection is open."""
        while self.count:
            self._emptied.clear()
            await self._emptied.wait()

    @property
    def count(self) -> int:
        """Connections that are open, with or without a protocol."""
        return len(self.plane.connections) + len(self._arrivals)

    def sweep(self, now: float) -> None:
        """Once a second: log what has gathered."""
        self.notices.sweep(now)

    def _load(self) -> tuple[int, list[int]]:
        return self.count, self._counts.others()

    def _changed(self) -> None:
        """Note that there is a connection more or less."""
        count = self.count
        if self._is_open:
            self._counts.publish(count)
        if not count:
            self._emptied.set()

    def _refused(self, reason: str) -> None:
        self.plane.counters.count(metrics.CONNECTIONS_REFUSED, reason)

    def _on_scarcity(self) -> None:
        self._refused("descriptors")
        self.notices.warn(_SCARCE, peers.UNKNOWN, self.plane.now())

    def _take(self, entrance: Entrance, sock: socket.socket, address: tuple[str, int]) -> None:
        """Let an accepted socket in, or turn it away."""
        beyond = self.count - self.plane.settings.limits.max_connections
        if beyond >= 0:
            self._refused("limit")
            # A handshake only to say no would cost more than all the rest: TLS is just closed.
            if not entrance.is_plain or beyond >= MAX_TURNED_AWAY:
                sock.close()
                return
        peer = peers.describe(*address)
        arrival = Arrival(sock, peer, entrance, is_trusted=peer in self._trusted)
        self._arrivals.add(arrival)
        self._changed()
        task = self._loop.create_task(self._let_in(arrival, turn_away=beyond >= 0))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _let_in(self, arrival: Arrival, *, turn_away: bool) -> None:
        try:
            await arrival.enter(functools.partial(self._make_sniffer, arrival, turn_away))
        except TurnedBackError as error:
            self._refused(error.reason)
            self.notices.warn(error.text, arrival.peer, self.plane.now(), error.detail)
        except (EOFError, OSError):
            pass  # it has gone again: a port scan, a health check that only connects
        except Exception:  # noqa: BLE001 - a bug costs this connection, not the worker
            self.plane.report_bug("connection")
        finally:
            self._arrived(arrival)

    def _arrived(self, arrival: Arrival) -> None:
        """Count an arrival no more: it has a protocol, or is gone."""
        if arrival in self._arrivals:
            self._arrivals.remove(arrival)
            self._changed()

    def _make_sniffer(self, arrival: Arrival, turn_away: bool) -> Sniffer:
        make = self._turn_away if turn_away else self._serve
        return Sniffer(
            self.plane,
            self.notices,
            arrival.peer,
            functools.partial(make, arrival),
            functools.partial(self._arrived, arrival),
        )

    def _serve(self, arrival: Arrival, is_http2: bool) -> Http1Server | Http2Server:
        if is_http2:
            return Http2Server(self.plane, arrival.peer)
        return Http1Server(self.plane, arrival.entrance.settings, arrival.peer)

    def _turn_away(self, arrival: Arrival, is_http2: bool) -> TurnedAway:
        return TurnedAway(self.plane, arrival.peer, is_http2=is_http2)
