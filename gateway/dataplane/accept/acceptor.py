"""Everything between the listening sockets and the protocols: the connection limit, the handshakes.

All of this happens before there is a request, so the only answers are to close, or to say in HTTP
that there are too many connections.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable, Sequence
from typing import Final

from gateway import metrics
from gateway.channel import Up
from gateway.dataplane.accept.client_identity import ClientIdentities
from gateway.dataplane.accept.connection_counts import SharedCounts
from gateway.dataplane.accept.half_open import HalfOpen
from gateway.dataplane.accept.handshake import Handshake, HandshakeError, ListenerPolicy
from gateway.dataplane.accept.listener import Listener
from gateway.dataplane.accept.over_limit import OverLimitConnection
from gateway.dataplane.accept.places import Places
from gateway.dataplane.accept.protocol_detection import ProtocolDetector, Server
from gateway.dataplane.accept.tls_shared import HANDSHAKE_BYTES, SHARED_BYTES, TlsShared
from gateway.dataplane.accept.turns import ClientTurns
from gateway.dataplane.core import peers, tls
from gateway.dataplane.core.certificates import ClientCertificate, Revocations
from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.seams import ServerConnection
from gateway.settings import ListenerSettings

HALF_OPEN_SHARE: Final = 4
"""Unfinished TLS handshakes take at most this part of `limits.buffer_memory`: a quarter."""
MAX_OVER_LIMIT: Final = 64
"""Connections beyond a limit that are given an answer at a time; more are closed without one."""
ADDRESS_LIMIT: Final = "address_limit"
TLS_RECORDS: Final = "tls_records"
"""The kind of abuse (`metrics.ABUSE_KINDS`) that a connection over TLS can be ended for."""
_TLS_ABUSE: Final = (
    "a client's TLS connection was ended: it sends too many TLS records that bring no data"
)
_CROWDED: Final = (
    "an address has as many connections as it may have: if many senders share it, raise "
    "limits.max_connections_per_address, or have the load balancer speak the PROXY protocol"
)
_SCARCE: Final = (
    "no descriptor is left for one more connection: raise the limit (ulimit -n, LimitNOFILE) or "
    "lower limits.max_connections"
)


class Acceptor:
    """All listeners of a worker, and the sockets that have no protocol yet.

    `make_server` makes the server side of a connection from its peer, the client's certificate and
    whether it is HTTP/2. `send` passes a message to control.
    """

    def __init__(
        self,
        context: WorkerContext,
        counts: SharedCounts,
        trusted_networks: Sequence[str],
        make_server: Callable[[str, ClientCertificate | None, bool], Server],
        revocations: Revocations | None = None,
        send: Callable[[Up], bool] = lambda _: False,
    ) -> None:
        self._context = context
        self._throttled = context.throttled
        self._counts = counts
        self._make_server = make_server
        self._revocations = revocations or Revocations()
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._hosts = peers.Hosts(peers.TrustedNetworks(trusted_networks))
        self._listeners: list[Listener] = []
        self._handshaking: set[Handshake] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        half_open_bytes = context.budget.limit // HALF_OPEN_SHARE
        self._half_open = HalfOpen(max(half_open_bytes // HANDSHAKE_BYTES, 1))
        self._turns = ClientTurns(self._loop)
        self._shared = TlsShared(
            memoryview(bytearray(SHARED_BYTES)),
            context.budget,
            self._turns,
            context.sign_of_life,
            self._on_tls_abuse,
        )
        self._places = Places(context.limits.max_connections_per_address)
        self._is_open = False
        self._emptied = asyncio.Event()
        context.connections.on_change = self._changed
        context.connections.on_gone = self._places.leave

    def add_listener(self, settings: ListenerSettings) -> None:
        """Take over a listening socket. Raises `tls.TlsFileError`, `OSError`."""
        context = tls.server_context(settings.tls) if settings.tls is not None else None
        timeout_s = self._context.limits.header_timeout_s
        identities = None
        if (of_tls := settings.tls) is not None and (
            of_tls.identity is not None or of_tls.has_revocation_lists
        ):
            identities = ClientIdentities(of_tls.identity, self._revocations, self._send)
        policy = ListenerPolicy(
            settings, context, self._half_open, self._shared, timeout_s, identities
        )
        take = functools.partial(self._take, policy)
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
        await asyncio.sleep(0)  # the loop tells now of those that have become connections
        for handshake in list(self._handshaking):  # whose turn has not come
            handshake.give_up()
            self._finished(handshake)

    async def wait_empty(self) -> None:
        """Wait until no connection is open."""
        while self.count:
            self._emptied.clear()
            await self._emptied.wait()

    @property
    def count(self) -> int:
        """Connections that are open, with or without a protocol."""
        return len(self._context.connections) + len(self._handshaking)

    def sweep(self, now: float) -> None:
        """Once a second: log what has gathered."""
        self._throttled.sweep(now)

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
        self._context.counters.count(metrics.CONNECTIONS_REFUSED, reason)

    def _on_scarcity(self) -> None:
        self._refused("descriptors")
        self._throttled.warn(_SCARCE, peers.UNKNOWN, self._context.now())

    def _on_tls_abuse(self, peer: str) -> None:
        self._context.counters.count(metrics.ABUSE, TLS_RECORDS)
        self._throttled.warn(_TLS_ABUSE, peer, self._context.now(), f"kind: {TLS_RECORDS}")

    def _take(self, policy: ListenerPolicy, sock: socket.socket, address: tuple[str, int]) -> None:
        """Take an accepted socket: have it served, or refuse it because there are too many.

        Little is done here for it: whoever comes behind many of another client's waits for this.
        """
        beyond = self.count - self._context.limits.max_connections
        if beyond >= 0:
            self._refused("limit")
            # A handshake only to say no would cost more than all the rest: TLS is just closed.
            if not policy.is_plain or beyond >= MAX_OVER_LIMIT:
                sock.close()
                return
        host = self._hosts.of(address[0])
        handshake = Handshake(
            sock, host.peer(address[1]), host.client, policy, is_trusted=host.is_trusted
        )
        handshake.is_turned_away = beyond >= 0
        if not policy.settings.proxy_protocol:
            try:
                self._admit(handshake)
            except HandshakeError as error:
                self._failed(handshake, error)
                sock.close()
                return
        self._handshaking.add(handshake)
        self._changed()
        self._turns.add(handshake.client, functools.partial(self._begin, handshake))

    def _begin(self, handshake: Handshake) -> None:
        """Begin with a connection: it is its client's turn."""
        if handshake in self._handshaking:
            task = self._loop.create_task(self._run(handshake))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _admit(self, handshake: Handshake) -> None:
        """Give a connection one of its client's places.

        The first few beyond the limit are answered. Raises `HandshakeError` for the others.
        """
        beyond = self._places.beyond(handshake.client)
        if beyond >= 0 and (handshake.policy.tls is not None or beyond >= MAX_OVER_LIMIT):
            raise HandshakeError(ADDRESS_LIMIT, _CROWDED)
        if beyond >= 0 and not handshake.is_turned_away:
            handshake.is_turned_away = True
            self._failed(handshake, HandshakeError(ADDRESS_LIMIT, _CROWDED))
        handshake.has_place = self._places.enter(handshake.client)

    async def _run(self, handshake: Handshake) -> None:
        try:
            await handshake.run(self._admit, functools.partial(self._make_detector, handshake))
        except HandshakeError as error:
            self._failed(handshake, error)
        except (EOFError, OSError):
            pass  # it has gone again: a port scan, a health check that only connects
        except Exception:  # noqa: BLE001 - a bug costs this connection, not the worker
            self._context.report_bug("connection")
        finally:
            self._finished(handshake)

    def _failed(self, handshake: Handshake, error: HandshakeError) -> None:
        self._refused(error.reason)
        self._throttled.warn(error.text, handshake.peer, self._context.now(), error.detail)

    def _finished(self, handshake: Handshake) -> None:
        """Count a handshake no more: the connection has a protocol, or is gone."""
        if handshake in self._handshaking:
            self._handshaking.remove(handshake)
            if handshake.has_place:
                handshake.has_place = False
                self._places.leave(handshake.client)
            self._changed()

    def _made(self, handshake: Handshake, connection: ServerConnection) -> None:
        """Have the connection keep the place of its handshake."""
        if handshake.has_place:
            handshake.has_place = False
            self._context.connections.give_place(connection, handshake.client)
        self._finished(handshake)

    def _make_detector(self, handshake: Handshake) -> ProtocolDetector:
        make = functools.partial(self._make_server, handshake.peer, handshake.certificate())
        return ProtocolDetector(
            self._context,
            self._throttled,
            handshake.peer,
            self._refuse if handshake.is_turned_away else make,
            functools.partial(self._made, handshake),
        )

    def _refuse(self, is_http2: bool) -> Server:
        return OverLimitConnection(self._context, is_http2=is_http2)
