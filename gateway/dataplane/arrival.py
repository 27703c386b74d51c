"""One accepted socket on its way to a protocol: PROXY header, TLS, then the sniffer takes over.

All of it must be done within `header_timeout`. What fails is closed, counted and logged.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.dataplane.proxy_header import HeaderReader, ProxyHeader, ProxyHeaderError
from gateway.dataplane.tls_transport import TlsTransport

if TYPE_CHECKING:
    from gateway.settings import Listener as ListenerSettings

PROXY_HEADER: Final = "proxy_header"
TLS_HANDSHAKE: Final = "tls_handshake"

PROXY_UNTRUSTED: Final = (
    "a connection from outside trusted_networks to a listener with proxy_protocol was closed: add "
    "the load balancer's network to trusted_networks"
)
PROXY_BAD: Final = (
    "no PROXY header came where one is expected: have the load balancer send it, or remove "
    "'proxy_protocol' from the listener"
)
TLS_PLAIN_HTTP: Final = (
    "a client speaks plain HTTP to a TLS listener: give it an https:// endpoint (and not "
    "'insecure: true')"
)
TLS_FAILED: Final = "a TLS handshake failed"


class TurnedBackError(Exception):
    """The connection cannot be served. `reason` is the metric's label, `text` is for the log."""

    def __init__(self, reason: str, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Entrance:
    """What is the same for all arrivals at one listener."""

    settings: ListenerSettings
    tls: ssl.SSLContext | None
    handshakes: asyncio.Semaphore
    """Bounds the handshakes under way in this worker."""
    shared: memoryview
    """The buffer that ciphertext is read through, see `TlsTransport`."""
    timeout_s: float

    @property
    def is_plain(self) -> bool:
        """Whether nothing comes before HTTP."""
        return self.tls is None and not self.settings.proxy_protocol


class Arrival:
    """See the module. `peer` becomes what the PROXY header says."""

    def __init__(
        self, sock: socket.socket, peer: str, entrance: Entrance, *, is_trusted: bool
    ) -> None:
        self.peer = peer
        self.entrance = entrance
        self._sock = sock
        self._is_trusted = is_trusted
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + entrance.timeout_s

    async def enter(self, make: Callable[[], asyncio.BufferedProtocol]) -> None:
        """Give the socket to the protocol that `make` returns, as soon as it may begin.

        Raises `TurnedBackError`; `EOFError` and other `OSError` where the client went away. The
        socket is closed then.
        """
        is_handed_over = False
        try:
            if self.entrance.settings.proxy_protocol:
                await self._read_proxy_header()
            if self.entrance.tls is not None:
                await self._await_client_hello()
                await self._await_turn()
                try:
                    is_handed_over = True
                    await self._shake_hands(self.entrance.tls, make)
                finally:
                    self.entrance.handshakes.release()
            else:
                is_handed_over = True
                await self._loop.connect_accepted_socket(make, self._sock)
        finally:
            if not is_handed_over:  # else the event loop closes it
                self._sock.close()

    async def _read_proxy_header(self) -> None:
        if not self._is_trusted:
            raise TurnedBackError(PROXY_HEADER, PROXY_UNTRUSTED)
        reader = HeaderReader(self._sock)
        try:
            async with asyncio.timeout_at(self._deadline):
                header = await self._next_of(reader)
                while header is None:
                    header = await self._next_of(reader)
        except TimeoutError:
            raise TurnedBackError(PROXY_HEADER, PROXY_BAD, "it did not come in time") from None
        except ProxyHeaderError as error:
            raise TurnedBackError(PROXY_HEADER, PROXY_BAD, str(error)) from None
        except EOFError:
            if not reader.seen:
                raise  # a health check that only connects
            raise TurnedBackError(PROXY_HEADER, PROXY_BAD, "it was cut off") from None
        if header.peer is not None:
            self.peer = header.peer

    async def _next_of(self, reader: HeaderReader) -> ProxyHeader | None:
        try:
            return reader.read()
        except BlockingIOError:
            await self._readable()
            return None

    async def _await_client_hello(self) -> None:
        """Wait for the first byte: until it comes, a TLS session would only take memory."""
        try:
            async with asyncio.timeout_at(self._deadline):
                while True:
                    try:
                        first = self._sock.recv(1, socket.MSG_PEEK)
                        break
                    except BlockingIOError:
                        await self._readable()
        except TimeoutError:
            raise TurnedBackError(TLS_HANDSHAKE, TLS_FAILED, "it was never begun") from None
        if not first:
            raise EOFError

    async def _await_turn(self) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                await self.entrance.handshakes.acquire()
        except TimeoutError:
            detail = "too many others were under way"
            raise TurnedBackError(TLS_HANDSHAKE, TLS_FAILED, detail) from None

    async def _shake_hands(
        self, context: ssl.SSLContext, make: Callable[[], asyncio.BufferedProtocol]
    ) -> None:
        transport = TlsTransport(context, make, self.entrance.shared)
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._loop.connect_accepted_socket(lambda: transport, self._sock)
                await transport.shaken_hands
        except TimeoutError:
            transport.abort()
            detail = "it was not finished in time"
            raise TurnedBackError(TLS_HANDSHAKE, TLS_FAILED, detail) from None
        except ssl.SSLError as error:
            is_http = error.reason == "HTTP_REQUEST"
            detail = "" if is_http else error.reason or str(error)
            text = TLS_PLAIN_HTTP if is_http else TLS_FAILED
            raise TurnedBackError(TLS_HANDSHAKE, text, detail) from None
        except OSError as error:  # the client broke off in the middle of it
            raise TurnedBackError(TLS_HANDSHAKE, TLS_FAILED, str(error)) from None

    async def _readable(self) -> None:
        """Wait until the socket can be read."""
        woken = self._loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        self._loop.add_reader(self._sock, wake)
        try:
            await woken
        finally:
            self._loop.remove_reader(self._sock)
