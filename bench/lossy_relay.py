"""A relay to PostgreSQL that passes everything on but, when told so, notifications.

So does a connection pooler in transaction mode, or a connection that has died without a word: who
listens hears nothing, and everything else works. It knows only enough of the protocol to find where
a server's message ends (PostgreSQL, "Message Formats"), and speaks no TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Final, Self

_NOTIFICATION: Final = b"A"
_HEAD_BYTES: Final = 5
"""A message's type, and its length without the type."""
_READ_BYTES: Final = 1 << 16


class LossyRelay:
    """Listens on `port` of 127.0.0.1. An asynchronous context manager."""

    def __init__(self, server_port: int) -> None:
        """Relay to `server_port` of 127.0.0.1."""
        self.is_losing = False
        self.lost = 0
        """Notifications so far."""
        self.port = 0
        self._server_port = server_port
        self._listening: asyncio.Server | None = None
        self._relaying: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Listen."""
        self._listening = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close everything."""
        assert self._listening is not None  # noqa: S101 - it was entered
        self._listening.close()
        for task in self._relaying:
            task.cancel()
        await asyncio.gather(*self._relaying, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this as a task
        self._relaying.add(task)
        task.add_done_callback(self._relaying.discard)
        with contextlib.closing(writer), contextlib.suppress(OSError):
            server = await asyncio.open_connection("127.0.0.1", self._server_port)
            with contextlib.closing(server[1]):
                await _first_to_end(_pass_on(reader, server[1]), self._answers(server[0], writer))

    async def _answers(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await server.readexactly(_HEAD_BYTES)
                body = await server.readexactly(int.from_bytes(head[1:], "big") + 1 - _HEAD_BYTES)
                if self.is_losing and head[:1] == _NOTIFICATION:
                    self.lost += 1
                    continue
                client.write(head + body)
                await client.drain()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_READ_BYTES):
        writer.write(data)
        await writer.drain()


async def _first_to_end(*directions: Coroutine[None, None, None]) -> None:
    """Run both directions until one ends; what one side has closed is over for the other."""
    tasks = [asyncio.ensure_future(each) for each in directions]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
