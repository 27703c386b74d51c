"""A question to a backend over HTTP/1.1: does it still answer?

A process that is stuck goes on to get connections, because the kernel makes them. `OPTIONS *` is
the request that serves as a ping and asks for nothing else (RFC 9110 §9.3.7); whatever is answered,
and a connection that is closed, shows that somebody is there.
"""

from __future__ import annotations

import asyncio
from typing import cast


class Http1Probe(asyncio.Protocol):
    """One question on a connection of its own, for `upstream.connector`."""

    __slots__ = ("_answered", "_question")

    def __init__(self, loop: asyncio.AbstractEventLoop, authority: str) -> None:
        """`authority` is sent as Host."""
        self._question = b"OPTIONS * HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n\r\n" % (
            authority.encode()
        )
        self._answered: asyncio.Future[None] = loop.create_future()

    @property
    def protocol(self) -> asyncio.Protocol:
        """What takes the connection's bytes."""
        return self

    async def ready(self) -> None:
        """Wait for a sign of life."""
        await self._answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask (asyncio)."""
        cast("asyncio.Transport", transport).write(self._question)

    def data_received(self, data: bytes) -> None:
        """Something has come (asyncio)."""
        self._is_there()

    def connection_lost(self, exc: Exception | None) -> None:
        """Somebody has closed the connection (asyncio)."""
        self._is_there()

    def _is_there(self) -> None:
        if not self._answered.done():
            self._answered.set_result(None)
