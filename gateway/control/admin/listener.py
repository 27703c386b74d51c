"""Accepting connections on one of control's own addresses."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

from aiohttp import web

from gateway.control.admin.connections import AdminConnections
from gateway.control.admin.newcomers import Newcomers
from gateway.control.core.networks import network_of

_MAX_AT_ONCE: Final = 32
"""Connections taken in one turn of the loop."""
_PAUSE_S: Final = 0.1
"""Pause of accepting when the system has no descriptor for one more."""


class AdminListener:
    """Accepts on a socket, which it owns, until `close`. `make` makes aiohttp's protocol."""

    def __init__(
        self,
        sock: socket.socket,
        tls: ssl.SSLContext | None,
        connections: AdminConnections,
        make: Callable[[], web.RequestHandler],
    ) -> None:
        self._sock = sock
        self._tls = tls
        self._connections = connections
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._newcomers = Newcomers(self._begin, connections.turned_away)
        sock.settimeout(0)
        self._listen()

    def close(self) -> None:
        """Accept no more."""
        if self._pause is not None:
            self._pause.cancel()
        else:
            self._loop.remove_reader(self._sock)
        self._sock.close()
        self._newcomers.close()

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._on_pending)

    def _on_pending(self) -> None:
        for _ in range(_MAX_AT_ONCE):
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue  # the client has gone again
            except OSError:
                self._loop.remove_reader(self._sock)
                self._pause = self._loop.call_later(_PAUSE_S, self._listen)
                return
            sock.settimeout(0)
            self._newcomers.add(network_of(address[0]), sock)

    def _begin(self, client: str, sock: socket.socket) -> bool:
        """Begin a connection; return whether its client must make room for it itself."""
        is_crowded = self._connections.is_crowded_by(client)
        self._connections.add(self._make(), client).begin(sock, self._tls)
        return is_crowded
