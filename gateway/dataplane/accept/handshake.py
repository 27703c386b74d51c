"""What comes before HTTP on an accepted socket: the PROXY header, and the TLS handshake.

All of it must be done within `header_timeout`. A socket that fails is closed, counted and logged.
Plain HTTP where TLS is expected is told so first.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from gateway.dataplane.accept import over_limit
from gateway.dataplane.accept.client_identity import ClientIdentities
from gateway.dataplane.accept.half_open import HalfOpen
from gateway.dataplane.accept.proxy_header import HeaderReader, ProxyHeader, ProxyHeaderError
from gateway.dataplane.accept.tls_records import SLICE
from gateway.dataplane.accept.tls_shared import TlsShared
from gateway.dataplane.accept.tls_transport import TlsTransport
from gateway.dataplane.core import peers
from gateway.dataplane.core.certificates import ClientCertificate
from gateway.outcome import REFUSALS
from gateway.settings import ListenerSettings

PROXY_HEADER: Final = "proxy_header"
TLS_HANDSHAKE: Final = "tls_handshake"
HALF_OPEN: Final = "half_open"

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
TOO_MANY_HALF_OPEN: Final = (
    "clients leave many TLS handshakes unfinished: the oldest of the client with the most of them "
    "are closed"
)

_BROKEN_OFF: Final = "the client has gone"
_RECORD_HEAD: Final = 5
_HTTP_STARTS: Final = (
    *(b"GET ", b"HEAD ", b"POST ", b"PUT ", b"PATCH", b"DELET", b"OPTIO", b"TRACE", b"CONNE"),
    b"PRI *",  # HTTP/2 without TLS (RFC 9113 §3.4)
)
"""How plain HTTP begins, as far as the head of a TLS record reaches."""
_HANDSHAKE_RECORD: Final = 22
_LONGEST_RECORD: Final = 2**14
"""Bytes behind the head of a record that is not encrypted (RFC 8446 §5.1)."""


class HandshakeError(Exception):
    """The connection cannot be served. `reason` is the metric's label, `text` is for the log."""

    def __init__(self, reason: str, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ListenerPolicy:
    """What is the same for all sockets that one listener accepts."""

    settings: ListenerSettings
    tls: ssl.SSLContext | None
    half_open: HalfOpen
    shared: TlsShared
    timeout_s: float
    identities: ClientIdentities | None = None
    """None: nobody looks at clients' certificates but TLS itself."""

    @property
    def is_plain(self) -> bool:
        """Whether nothing comes before HTTP."""
        return self.tls is None and not self.settings.proxy_protocol


class Handshake:
    """See the module. `peer` becomes what the PROXY header says."""

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        client: str,
        policy: ListenerPolicy,
        *,
        is_trusted: bool,
    ) -> None:
        self.peer = peer
        self.client = client
        """Who takes turns with others, and whose connections are counted together."""
        self.policy = policy
        self.is_turned_away = False
        """Whether the connection only gets the answer that there are too many."""
        self.has_place = False
        """Whether it holds one of its client's places (`Places`)."""
        self._sock = sock
        self._is_trusted = is_trusted
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + policy.timeout_s
        self._transport: TlsTransport | None = None

    async def run(
        self, admit: Callable[[Handshake], None], make: Callable[[], asyncio.BufferedProtocol]
    ) -> None:
        """Give the socket to the protocol that `make` returns, as soon as it may begin.

        `admit` is called when the client is known from a PROXY header, and may raise
        `HandshakeError`. Raises `HandshakeError`; `EOFError` and other `OSError` where the client
        went away. The socket is closed then.
        """
        is_handed_over = False
        try:
            if self.policy.settings.proxy_protocol:
                header = await self._read_proxy_header()
                if header.peer is not None:
                    self.peer, self.client = header.peer, peers.client_of(header.peer)
                    admit(self)
                    await self._turn()
            if self.policy.tls is not None:
                await self._await_client_hello()
                await self._begin(functools.partial(self._make_transport, self.policy.tls, make))
                is_handed_over = True
                await self._shake_hands()
            else:
                is_handed_over = True
                await self._loop.connect_accepted_socket(make, self._sock)
        finally:
            self.policy.half_open.discard(self.client, self)
            if not is_handed_over:  # else the event loop closes it
                self._sock.close()
                if self._transport is not None:
                    self._transport.abort()
            self._transport = None  # which can be freed at once: nothing refers to itself

    def give_up(self) -> None:
        """Close the socket of a handshake that was not run."""
        self._sock.close()

    def give_way(self) -> None:
        """End, because others need the place (`HalfOpen`)."""
        if self._transport is not None:
            self._transport.abandon(HandshakeError(HALF_OPEN, TOO_MANY_HALF_OPEN))

    def certificate(self) -> ClientCertificate | None:
        """Return what is known of the client by its certificate, when the handshake is done; None
        where nobody asks for that.
        """
        identities = self.policy.identities
        if identities is None or self._transport is None:
            return None
        return identities.of(self._transport.get_extra_info("ssl_object"))

    async def _read_proxy_header(self) -> ProxyHeader:
        if not self._is_trusted:
            raise HandshakeError(PROXY_HEADER, PROXY_UNTRUSTED)
        reader = HeaderReader(self._sock)
        try:
            async with asyncio.timeout_at(self._deadline):
                header = await self._next_of(reader)
                while header is None:
                    header = await self._next_of(reader)
        except TimeoutError:
            raise HandshakeError(PROXY_HEADER, PROXY_BAD, "it did not come in time") from None
        except ProxyHeaderError as error:
            raise HandshakeError(PROXY_HEADER, PROXY_BAD, str(error)) from None
        except EOFError:
            if not reader.seen:
                raise  # a health check that only connects
            raise HandshakeError(PROXY_HEADER, PROXY_BAD, "it was cut off") from None
        return header

    async def _next_of(self, reader: HeaderReader) -> ProxyHeader | None:
        try:
            return reader.read()
        except BlockingIOError:
            await self._readable()
            return None

    async def _await_client_hello(self) -> None:
        """Wait until the first TLS record is there (RFC 8446 §5.1).

        The kernel holds what comes until then, and says nothing before it is complete: a part of a
        ClientHello costs neither work nor memory here. What is no record, or breaks off, is left
        to OpenSSL, but for plain HTTP.
        """
        try:
            async with asyncio.timeout_at(self._deadline):
                start = await self._peek(_RECORD_HEAD)
                length = int.from_bytes(start[3:], "big")
                if start[0] == _HANDSHAKE_RECORD and length <= _LONGEST_RECORD:
                    await self._peek(len(start) + length)
        except TimeoutError:
            detail = "its first message did not come in time"
            raise HandshakeError(TLS_HANDSHAKE, TLS_FAILED, detail) from None
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        if start.startswith(_HTTP_STARTS):
            await self._answer_plain_http()
            raise HandshakeError(TLS_HANDSHAKE, TLS_PLAIN_HTTP)

    async def _answer_plain_http(self) -> None:
        """Say in HTTP that this port speaks TLS, then read for a while what still comes: closing
        with unread bytes would reset the connection, and the client might not see the answer.
        """
        left = over_limit.LINGER_BYTES
        with contextlib.suppress(OSError):  # of which TimeoutError is one
            async with asyncio.timeout(over_limit.LINGER_S):
                self._sock.send(over_limit.http1_answer(REFUSALS["TLS_NEEDED"]))
                self._sock.shutdown(socket.SHUT_WR)
                while left > 0:
                    try:
                        data = self._sock.recv(SLICE)
                    except BlockingIOError:
                        await self._readable()
                        continue
                    if not data:
                        break
                    left -= len(data)

    async def _peek(self, wanted: int) -> bytes:
        """Look at the first `wanted` bytes when they have come; at fewer where no more come.

        Raises `EOFError` where none come.
        """
        is_woken = False
        while True:
            with contextlib.suppress(BlockingIOError):
                start = self._sock.recv(wanted, socket.MSG_PEEK)
                if not start:
                    raise EOFError
                if is_woken or len(start) == wanted:
                    return start
            # The socket is not readable before all of them are there (socket(7)).
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
            await self._readable()
            is_woken = True

    def _make_transport(
        self, tls: ssl.SSLContext, make: Callable[[], asyncio.BufferedProtocol]
    ) -> TlsTransport:
        return TlsTransport(tls, make, self.policy.shared, self.peer, self.client)

    def _read_client_hello(self) -> bytes:
        """Read what has come. Raises `OSError` where nobody waits for an answer any more."""
        hello = self._sock.recv(SLICE)
        try:
            more = self._sock.recv(SLICE) if hello else b""
        except BlockingIOError:
            return hello
        if not more:
            raise ConnectionResetError(_BROKEN_OFF)
        return hello + more

    async def _begin(self, make: Callable[[], TlsTransport]) -> None:
        """Have the ClientHello answered when it is this client's turn.

        What takes memory is made no sooner, and a signature is not computed for nobody.
        """
        begun: asyncio.Future[str] = self._loop.create_future()

        def begin() -> None:
            if begun.done():  # it was given up
                return
            try:
                hello = self._read_client_hello()
            except OSError as error:
                begun.set_result(str(error))
                return
            self._transport = make()
            self.policy.half_open.add(self.client, self)
            self._transport.begin(hello)
            begun.set_result("")

        self.policy.shared.turns.add(self.client, begin)
        try:
            async with asyncio.timeout_at(self._deadline):
                trouble = await begun
        except TimeoutError:
            trouble = "too many others were under way"
        if trouble:
            raise HandshakeError(TLS_HANDSHAKE, TLS_FAILED, trouble)

    def _begun(self) -> TlsTransport:
        return cast("TlsTransport", self._transport)

    async def _shake_hands(self) -> None:
        """Wait for the rest. No frame of this may hold the transport: its error refers to them."""
        is_done = False
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._loop.connect_accepted_socket(self._begun, self._sock)
                await self._begun().shaken_hands
            is_done = True
        except TimeoutError:
            detail = "it was not finished in time"
            raise HandshakeError(TLS_HANDSHAKE, TLS_FAILED, detail) from None
        except ssl.SSLError as error:
            is_done = True  # the transport closes when the client has been told why
            raise HandshakeError(TLS_HANDSHAKE, TLS_FAILED, _what_failed(error)) from None
        except OSError as error:  # the client broke off in the middle of it
            raise HandshakeError(TLS_HANDSHAKE, TLS_FAILED, str(error)) from None
        finally:
            if not is_done:
                self._begun().abort()

    async def _turn(self) -> None:
        """Wait until it is the turn of the client that the PROXY header has named."""
        come: asyncio.Future[None] = self._loop.create_future()

        def go_on() -> None:
            if not come.done():
                come.set_result(None)

        self.policy.shared.turns.add(self.client, go_on)
        await come

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


def _what_failed(error: ssl.SSLError) -> str:
    """Return OpenSSL's words, which hold nothing of the peer's; with what is wrong with a
    certificate.
    """
    reason = error.reason or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{reason}: {error.verify_message}"
    return reason
