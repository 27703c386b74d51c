"""One TCP connection of the load, with or without TLS, that never waits."""

from __future__ import annotations

import functools
import select
import socket
import ssl

_READ_BYTES = 1 << 18


@functools.lru_cache(maxsize=2)
def _client_context(protocol: str) -> ssl.SSLContext:
    """Return a context that takes any certificate: the bench measures, it keeps no secrets."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context


class Link:
    """A connection to 127.0.0.1; bytes that the kernel does not take wait here."""

    def __init__(self, port: int, alpn: str | None = None) -> None:
        """Connect, and shake hands where `alpn` names a protocol to agree on over TLS.

        Raises:
            OSError: nobody listens, or the handshake fails.
        """
        plain = socket.create_connection(("127.0.0.1", port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket: socket.socket
        if alpn is None:
            self._socket = plain
        else:
            self._socket = _client_context(alpn).wrap_socket(plain, server_hostname="localhost")
        self._is_tls = alpn is not None
        self._socket.setblocking(False)  # noqa: FBT003 -- the standard library's signature
        self._unsent = memoryview(b"")
        self._mask = select.EPOLLIN

    @property
    def descriptor(self) -> int:
        """The socket's number."""
        return self._socket.fileno()

    @property
    def is_sent(self) -> bool:
        """Whether the kernel has taken all that was written."""
        return not self._unsent

    def write(self, data: bytes) -> None:
        """Send as much as the kernel takes, and keep the rest.

        Raises:
            OSError: the connection is gone.
        """
        self._unsent = memoryview(bytes(self._unsent) + data) if self._unsent else memoryview(data)
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the kernel takes it (raises OSError as `write`)."""
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            self._unsent = self._unsent[sent:]

    def drop_unsent(self) -> None:
        """Forget what the kernel has not taken."""
        self._unsent = memoryview(b"")

    def read(self) -> bytes | None:
        """Return what has arrived: None where that is nothing yet, b"" at the end.

        Raises:
            OSError: the connection was reset.
        """
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""
        if not self._is_tls or not data:
            return data
        return data + self._records()

    def _records(self) -> bytes:
        """Return the rest of what TLS has decrypted, of which `epoll` does not tell."""
        more = []
        while isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            more.append(self._socket.recv(_READ_BYTES))
        return b"".join(more)

    def watch(self, poll: select.epoll) -> None:
        """Be told of what arrives, and of room for what waits."""
        mask = select.EPOLLIN if self.is_sent else select.EPOLLIN | select.EPOLLOUT
        if mask != self._mask:
            poll.modify(self._socket, mask)
            self._mask = mask

    def register(self, poll: select.epoll) -> None:
        """Begin to be told."""
        self._mask = select.EPOLLIN if self.is_sent else select.EPOLLIN | select.EPOLLOUT
        poll.register(self._socket, self._mask)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
