"""The servers of control's own addresses, with limits on their connections."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.control.admin.connections import AdminConnections, ConnectionLimits
from gateway.control.admin.http_app import CONNECTIONS
from gateway.control.admin.listener import AdminListener
from gateway.control.admin.tls_files import TlsFiles
from gateway.control.core.sockets import BoundSocket

KEEPALIVE_S: Final = 75.0
"""Longer than the usual time between two scrapes."""
_SHUTDOWN_S: Final = 1.0
_LOG_EVERY_S: Final = 60.0


class NoRawRequests(logging.Filter):
    """Replaces aiohttp's log lines on requests that are not HTTP/1.1 by one line a minute, and
    drops those on bodies that broke off: clients may hang up.

    aiohttp logs such a request with a traceback and its raw bytes: a gRPC client that uses an admin
    address by mistake would fill the log, and its credential would be in it, Huffman-coded so that
    no redaction finds it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._logged_at = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything else pass (logging)."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, web.RequestPayloadError | ConnectionError):
            return False  # it was answered, or nobody is there any more
        if not isinstance(error, HttpProcessingError):
            return True
        if self._clock() - self._logged_at < _LOG_EVERY_S:
            return False
        self._logged_at = self._clock()
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg = "a client of an admin address does not speak HTTP/1.1: senders must use "
        record.msg += "an address of `listen`"
        record.args = ()
        record.exc_info = record.exc_text = None
        return True


_http_log = logging.getLogger("gateway.control.http")
_http_log.addFilter(NoRawRequests())


class HttpServers:
    """Listening servers of control, closed together.

    Clients must not be able to use up control's descriptors, nor keep others out: each address has
    its own `AdminConnections`. A connection is closed when its next request does not come within
    `KEEPALIVE_S`.
    """

    def __init__(self, limits: ConnectionLimits | None = None) -> None:
        self._limits = limits or ConnectionLimits()
        self._runners: list[web.AppRunner] = []
        self._listeners: list[AdminListener] = []
        self._connections: list[AdminConnections] = []

    async def serve(
        self, app: web.Application, sockets: Sequence[BoundSocket], tls: TlsFiles | None
    ) -> None:
        """Answer on `sockets`, which the servers close at their end."""
        connections = app[CONNECTIONS] = AdminConnections(self._limits)
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=_http_log,
            shutdown_timeout=_SHUTDOWN_S,
            keepalive_timeout=KEEPALIVE_S,
        )
        await runner.setup()
        self._runners.append(runner)
        self._connections.append(connections)
        make = cast("Callable[[], web.RequestHandler]", runner.server)
        context = tls.context if tls is not None else None
        for bound in sockets:
            self._listeners.append(AdminListener(bound.sock, context, connections, make))

    async def close(self) -> None:
        """Stop listening, let requests finish for a second."""
        while self._listeners:
            self._listeners.pop().close()
        while self._runners:
            await self._runners.pop().cleanup()
        while self._connections:
            self._connections.pop().close()
