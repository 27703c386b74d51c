"""Making one connection to a backend: name, socket, TLS, and what its protocol begins with."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from gateway.dataplane.core import tls
from gateway.dataplane.core.seams import ConnectionOwner, UpstreamConnection
from gateway.dataplane.upstream.address import Where
from gateway.settings import BackendSettings, Target

_USER_TIMEOUT_MS: Final = 20_000
"""TCP_USER_TIMEOUT: unacknowledged data for so long means that the backend has vanished."""

Resolve = Callable[[str, int], Awaitable[list[Where]]]
"""Returns what a host's name and a port lead to. Raises `OSError`, and `UnicodeError` for a name
that no host can have.
"""


async def resolve_by_system(host: str, port: int) -> list[Where]:
    """Ask the system's resolver, which blocks a thread and not the loop (`Resolve`)."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [
        Where(family, (sockaddr[0], port) if len(sockaddr) == 2 else sockaddr)
        for family, _, _, _, sockaddr in found
        if isinstance(sockaddr[0], str)  # a number in a Python without IPv6
    ]


class ConnectError(Exception):
    """A connection could not be made; the text says why."""


class SilentError(ConnectError):
    """The backend took a connection and said nothing on it."""


class Beginning(Protocol):
    """What begins on a new socket."""

    @property
    def protocol(self) -> asyncio.BaseProtocol:
        """What takes its bytes."""

    async def ready(self) -> None:
        """Wait until it has begun. Raises `ConnectError`."""


class NewConnection(UpstreamConnection, Beginning, Protocol):
    """A connection that has just been made; when it is ready, requests may be opened."""


class Connector(Protocol):
    """Makes the connections of one pool."""

    @property
    def shares_connections(self) -> bool:
        """Whether one connection carries many requests at once."""

    async def resolve(self, target: Target) -> list[Where]:
        """Return the addresses of a url's host.

        Raises `OSError`, and `UnicodeError` for a name that no host can have.
        """

    async def connect(self, owner: ConnectionOwner, where: Where) -> UpstreamConnection:
        """Return a connection that takes requests. Raises `ConnectError`, `OSError`."""


class SocketConnector:
    """Connects over TCP, with TLS where the url says so."""

    __slots__ = (
        "_backend",
        "_loop",
        "_make",
        "_make_probe",
        "_resolve",
        "_tls",
        "shares_connections",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        backend: BackendSettings,
        make: Callable[[ConnectionOwner], NewConnection],
        alpn: tuple[str, ...],
        *,
        shares_connections: bool,
        make_probe: Callable[[ConnectionOwner], Beginning] | None = None,
        resolve: Resolve = resolve_by_system,
    ) -> None:
        """`make` makes a connection, `alpn` is what TLS offers. `make_probe` makes what asks the
        backend for a proof where a connection is none. Raises `TlsFileError`.
        """
        self.shares_connections = shares_connections
        self._loop = loop
        self._backend = backend
        self._make = make
        self._make_probe = make_probe
        self._resolve = resolve
        self._tls: dict[Target, ssl.SSLContext] = {
            target: tls.client_context(backend.tls, alpn)
            for target in backend.targets
            if target.tls
        }

    async def resolve(self, target: Target) -> list[Where]:
        """See `Connector`."""
        found = await self._resolve(target.host, target.port)
        if not found:
            msg = "the name has no address"
            raise OSError(msg)
        return found

    async def connect(self, owner: ConnectionOwner, where: Where) -> UpstreamConnection:
        """See `Connector`; within `connect_timeout`."""
        limit_s = self._backend.connect_timeout_s
        ends_at = self._loop.time() + limit_s
        sock = socket.socket(where.family, socket.SOCK_STREAM)
        try:
            async with asyncio.timeout_at(ends_at):
                await self._open(sock, where)
        except TimeoutError:
            msg = f"no connection within {limit_s:g} s"
            raise ConnectError(msg) from None
        connection = self._make(owner)
        try:
            async with asyncio.timeout_at(ends_at):
                if owner.needs_proof and self._make_probe is not None:
                    (await self._begin(sock, self._make_probe(owner), owner.target)).abort()
                    sock = socket.socket(where.family, socket.SOCK_STREAM)
                    await self._open(sock, where)
                await self._begin(sock, connection, owner.target)
        except TimeoutError:
            msg = f"the backend took a connection, and said nothing within {limit_s:g} s"
            raise SilentError(msg) from None
        return connection

    async def _open(self, sock: socket.socket, where: Where) -> None:
        """Connect a socket; close it where that fails."""
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
            await self._loop.sock_connect(sock, where.sockaddr)
        except BaseException:
            sock.close()
            raise

    async def _begin(
        self, sock: socket.socket, beginning: Beginning, target: Target
    ) -> asyncio.Transport:
        """Begin TLS and HTTP on a connected socket."""
        context = self._tls.get(target)
        server_name = None
        if context is not None:
            server_name = (self._backend.tls and self._backend.tls.server_name) or target.host
        transport, _ = await self._loop.create_connection(
            lambda: beginning.protocol, sock=sock, ssl=context, server_hostname=server_name
        )
        try:
            await beginning.ready()
        except BaseException:
            transport.abort()
            raise
        return transport
