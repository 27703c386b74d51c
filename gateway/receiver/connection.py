"""One connection to the receiver: HTTP/2 if it begins with its preface, else HTTP/1.1."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from gateway.receiver.app import ReceiverApp
from gateway.receiver.http2 import Http2Protocol
from gateway.wire.http2 import PREFACE


class Connection(asyncio.Protocol):
    """Passes everything on to the side that the first bytes ask for.

    It is in `known` as long as it is open.
    """

    def __init__(
        self, app: ReceiverApp, http1: Callable[[], asyncio.Protocol], known: set[Connection]
    ) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._app = app
        self._http1 = http1
        self._known = known
        self._seen = b""
        self._side: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first bytes (asyncio)."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._known.add(self)

    def data_received(self, data: bytes) -> None:
        """Pass it on, as soon as it is clear to which side (asyncio)."""
        if self._side is not None:
            self._side.data_received(data)
            return
        self._seen += data
        if len(self._seen) < len(PREFACE) and PREFACE.startswith(self._seen):
            return
        assert self._transport is not None  # noqa: S101 - asyncio's order of calls
        if self._seen.startswith(PREFACE):
            self._side = Http2Protocol(self._app, self._transport)
        else:
            self._side = self._http1()
        self._side.connection_made(self._transport)
        self._side.data_received(self._seen)

    def eof_received(self) -> bool | None:
        """See `asyncio.Protocol`."""
        return self._side.eof_received() if self._side is not None else None

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        if self._side is not None:
            self._side.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        if self._side is not None:
            self._side.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._known.discard(self)
        if self._side is not None:
            self._side.connection_lost(exc)
        self.closed.set_result(None)

    def leave(self) -> None:
        """Take no further requests; HTTP/1.1 cannot say so."""
        if isinstance(self._side, Http2Protocol):
            self._side.leave()

    def close(self) -> None:
        """Close after what was written has gone out."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
