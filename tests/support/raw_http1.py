"""Both ends of HTTP/1.1 under a test's control, byte by byte.

A client that sends exactly the bytes given, and a backend that does only what the test says. What
the gateway sends is judged by `h11`, independent of its own parsers: bytes that break the protocol
fail the test.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import h11

from tests.support.polling import WAIT_S

_READ_BYTES: Final = 64 * 1024
_RESET: Final = struct.pack("ii", 1, 0)

Fields = list[tuple[bytes, bytes]]


class BrokenOffError(Exception):
    """The connection ended in the middle of a message, or by a reset."""


@dataclass(slots=True)
class Message:
    """A request that has reached the backend, or an answer that has reached the client."""

    start: str
    """`POST /v1/traces`, or the status code."""
    fields: Fields
    """As they came, names as they were written."""
    body: bytes = b""
    interim: list[int] = field(default_factory=list)
    """Status codes of interim answers before it."""

    @property
    def names(self) -> list[str]:
        """Field names in lower case, in order."""
        return [name.decode().lower() for name, _ in self.fields]

    def value(self, name: str) -> str | None:
        """Return the first value of a field."""
        wanted = name.lower().encode()
        return next((value.decode() for key, value in self.fields if key.lower() == wanted), None)


class RawPeer:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._unread = b""

    async def send(self, data: bytes) -> None:
        """Send exactly this."""
        self._writer.write(data)
        async with asyncio.timeout(WAIT_S):
            await self._writer.drain()

    async def send_slowly(self, data: bytes) -> None:
        """Send one byte after the other, each in a write of its own."""
        for position in range(len(data)):
            await self.send(data[position : position + 1])
            await asyncio.sleep(0)

    def finish_sending(self) -> None:
        """Half-close: send FIN, go on reading."""
        self._writer.write_eof()

    def close(self) -> None:
        """Close in order."""
        self._writer.close()

    def reset(self) -> None:
        """Close with RST."""
        sock: socket.socket | None = self._writer.get_extra_info("socket")
        if sock is not None and not self._writer.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._writer.transport.abort()

    @property
    def has_nothing_unread(self) -> bool:
        """Whether nothing has arrived beyond what was read."""
        return not self._unread and not self._reader._buffer  # type: ignore[attr-defined]

    async def has_begun(self) -> None:
        """Wait until something has arrived, and leave it unread. Raises `BrokenOffError`."""
        if not self._unread:
            self._unread = await self._more() or self._broken()

    async def read(self, count: int) -> bytes:
        """Read exactly so many bytes, undecoded. Raises `BrokenOffError`."""
        while len(self._unread) < count:
            self._unread += await self._more() or self._broken()
        data, self._unread = self._unread[:count], self._unread[count:]
        return data

    async def read_until(self, end: bytes) -> bytes:
        """Read up to and with `end`, undecoded. Raises `BrokenOffError`."""
        while end not in self._unread:
            self._unread += await self._more() or self._broken()
        return await self.read(self._unread.index(end) + len(end))

    async def read_to_end(self) -> bytes:
        """Read until the other end closes in order. Raises `BrokenOffError` on a reset."""
        data, self._unread = self._unread, b""
        while more := await self._more():
            data += more
        return data

    async def closed(self) -> None:
        """Wait until the other end has closed, in whatever way; what it sent is thrown away."""
        try:
            await self.read_to_end()
        except BrokenOffError:
            return

    async def receive_request(self) -> Message:
        """Read a whole request. Raises `BrokenOffError` where it stays incomplete."""
        return await self._receive(h11.Connection(h11.SERVER))

    async def receive_answer(self, method: str = "POST") -> Message:
        """Read a whole answer. Raises `BrokenOffError` where it stays incomplete."""
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method=method, target="/", headers=[("host", "test")]))
        http.send(h11.EndOfMessage())
        return await self._receive(http)

    async def _receive(self, http: h11.Connection) -> Message:
        message: Message | None = None
        interim: list[int] = []
        body: list[bytes] = []
        if self._unread:
            http.receive_data(self._unread)  # to h11, no bytes are the end
        while True:
            event = self._next_event(http)
            if event is h11.NEED_DATA:
                http.receive_data(await self._more())
            elif isinstance(event, h11.InformationalResponse):
                interim.append(event.status_code)
            elif isinstance(event, h11.Request):
                start = f"{event.method.decode()} {event.target.decode()}"
                message = Message(start, event.headers.raw_items())
            elif isinstance(event, h11.Response):
                start = str(event.status_code)
                message = Message(start, event.headers.raw_items(), interim=interim)
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage) and message is not None:
                message.body = b"".join(body)
                self._unread = http.trailing_data[0]
                return message
            else:
                self._broken()

    @staticmethod
    def _next_event(http: h11.Connection) -> object:
        try:
            return http.next_event()
        except h11.RemoteProtocolError as error:
            # In the middle of an answer, or before its first byte.
            if "closed connection" in str(error) or "ConnectionClosed" in str(error):
                raise BrokenOffError(str(error)) from error
            raise

    async def _more(self) -> bytes:
        try:
            async with asyncio.timeout(WAIT_S):
                return await self._reader.read(_READ_BYTES)
        except ConnectionError as error:
            raise BrokenOffError(str(error)) from error

    def _broken(self) -> bytes:
        message = "the other end closed"
        raise BrokenOffError(message)


@asynccontextmanager
async def raw_client(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawPeer]:
    """Connect to 127.0.0.1 (by the name localhost for TLS)."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls, server_hostname="localhost" if tls is not None else None
    )
    try:
        yield RawPeer(reader, writer)
    finally:
        writer.transport.abort()


class RawBackend:
    """Accepts connections and leaves them to the test."""

    def __init__(self) -> None:
        self._accepted: asyncio.Queue[RawPeer] = asyncio.Queue()
        self._peers: list[RawPeer] = []
        self._server: asyncio.Server

    async def start(self, tls: ssl.SSLContext | None) -> None:
        """Listen on 127.0.0.1, on a port that the system chooses."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        self._peers.append(peer)
        self._accepted.put_nowait(peer)

    async def stop(self) -> None:
        """Close everything."""
        self._server.close()
        for peer in self._peers:
            peer.reset()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def accepted(self) -> int:
        """Connections so far."""
        return len(self._peers)

    async def connection(self) -> RawPeer:
        """Return the next connection that the gateway has made."""
        async with asyncio.timeout(WAIT_S):
            return await self._accepted.get()


@asynccontextmanager
async def raw_backend(tls: ssl.SSLContext | None = None) -> AsyncIterator[RawBackend]:
    """Run a backend."""
    backend = RawBackend()
    await backend.start(tls)
    try:
        yield backend
    finally:
        await backend.stop()
