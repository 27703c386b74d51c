"""What clients still send after their answer: read over, at little cost, and not for ever.

A client that writes its whole body before it reads must still find the answer: closing with unread
bytes makes the kernel send RST, which overtakes it. So the socket is kept for a time when all else
of its connection is gone. What comes is not copied, not decrypted and not looked at; a turn of the
loop reads over a few sockets only, clients one after the other, and only one while others wait for
work that is of use.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from typing import Final

from gateway.dataplane.core.backlog import Backlog
from gateway.dataplane.core.client_queue import ClientQueue
from gateway.dataplane.core.open_connections import OpenConnections
from gateway.dataplane.core.seams import ServerConnection

READ_AT_ONCE: Final = 8
"""Sockets that are read over in one turn of the loop: less than half a millisecond."""
_NOTICED_AT_ONCE: Final = 64
_ONCE: Final = select.EPOLLIN | select.EPOLLONESHOT


class LingeringSocket:
    """A client's connection of which only the socket is left (`seams.ServerConnection`)."""

    __slots__ = ("_left", "_lingering", "client", "ends_at", "sock")

    def __init__(
        self, lingering: Lingering, sock: socket.socket, client: str, ends_at: float, left: int
    ) -> None:
        self._lingering = lingering
        self._left = left
        self.client = client
        self.ends_at = ends_at
        self.sock = sock

    def read_over(self) -> bool:
        """Throw away what has come; return whether more may come."""
        view = self._lingering.view
        try:
            length = self.sock.recv_into(view, 0, socket.MSG_TRUNC)  # copies nothing (tcp(7))
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        self._left -= length
        return length > 0 and self._left > 0

    def sweep(self, now: float) -> None:
        """See `ServerConnection`: end what has lasted too long."""
        if now > self.ends_at:
            self.abort()

    def holdings(self) -> tuple[tuple[str, int], ...]:
        """See `ServerConnection`: nothing is held for it."""
        return ()

    def start_drain(self) -> None:
        """See `ServerConnection`: it ends soon anyway."""

    def abort(self) -> None:
        """Close at once."""
        self._lingering.close(self)


class Lingering:
    """All sockets of a worker that are only read over. See the module."""

    __slots__ = ("_backlog", "_connections", "_is_due", "_loop", "_open", "_poll", "_queue", "view")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        view: memoryview,
        backlog: Backlog,
        connections: OpenConnections,
    ) -> None:
        """`view` has the length that is read at a time."""
        self.view = view
        self._loop = loop
        self._backlog = backlog
        self._connections = connections
        self._open: dict[int, LingeringSocket] = {}
        self._queue: ClientQueue[LingeringSocket] = ClientQueue()
        """Those that have something to be read over."""
        self._is_due = False
        """Whether the next ones are read over soon."""
        self._poll: select.epoll | None = None

    def __len__(self) -> int:
        """Count the sockets."""
        return len(self._open)

    def take(
        self,
        connection: ServerConnection,
        transport: asyncio.Transport,
        client: str,
        ends_at: float,
        most: int,
    ) -> bool:
        """Have only the socket of a connection go on, in its place, until the monotonic time
        `ends_at`, or until `most` bytes have come. Its half is closed, its transport is given up.

        Return False, and leave all as it is, where something is still to be sent, or the system has
        no descriptor or no memory for it.
        """
        half: socket.socket | None = transport.get_extra_info("socket")
        if half is None or transport.is_closing() or transport.get_write_buffer_size():
            return False
        try:
            poll = self._polled()
            fd = os.dup(half.fileno())
        except OSError:
            return False
        # The family decides about addresses only, which nobody asks for.
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fd)
        try:
            poll.register(fd, _ONCE)
        except OSError:
            sock.close()
            return False
        lingering = LingeringSocket(self, sock, client, ends_at, most)
        self._connections.add(lingering)
        self._connections.replace(connection, lingering)
        self._open[fd] = lingering
        with contextlib.suppress(OSError):  # it has gone: which reading over will find
            sock.shutdown(socket.SHUT_WR)
        transport.abort()
        return True

    def close(self, lingering: LingeringSocket) -> None:
        """Close a socket, if it is open."""
        fd = lingering.sock.fileno()
        if fd < 0:
            return
        # The transport may have the same open file still, which would keep its events coming.
        self._polled().unregister(fd)
        del self._open[fd]
        lingering.sock.close()
        self._connections.discard(lingering)
        if not self._open and self._poll is not None:
            self._loop.remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None

    def _polled(self) -> select.epoll:
        poll = self._poll
        if poll is None:
            poll = self._poll = select.epoll()
            self._loop.add_reader(poll.fileno(), self._notice)
        return poll

    def _notice(self) -> None:
        """Queue those that have something to read; each says so once."""
        for fd, _ in self._polled().poll(0, _NOTICED_AT_ONCE):
            lingering = self._open[fd]
            self._queue.add(lingering.client, lingering)
        if self._queue and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._read_some)

    def _read_some(self) -> None:
        queue = self._queue
        for _ in range(1 if self._backlog.is_busy else READ_AT_ONCE):
            if not queue:
                break
            lingering = queue.pop()
            fd = lingering.sock.fileno()
            if fd < 0:  # it was closed while it waited
                continue
            if lingering.read_over():
                self._polled().modify(fd, _ONCE)
            else:
                self.close(lingering)
        self._is_due = bool(queue)
        if self._is_due:
            self._loop.call_soon(self._read_some)
