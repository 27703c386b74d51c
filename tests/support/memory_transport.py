"""A transport that keeps what is written, and lets a test say what the peer sends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


class MemoryTransport(asyncio.Transport):
    """One end of a connection. Feed it with `receive`; `written` is what the other end would get.

    `is_stuck`: the other end does not read, so that a close does not come to its end.
    """

    def __init__(self, protocol: asyncio.BufferedProtocol, *, is_stuck: bool = False) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False
        self.is_aborted = False
        self._is_stuck = is_stuck
        self._protocol = protocol
        protocol.connection_made(self)

    def receive(self, data: bytes) -> None:
        """Let the protocol read what the peer sends."""
        while data and not self.is_closed:
            buffer = memoryview(self._protocol.get_buffer(len(data)))
            length = min(len(buffer), len(data))
            buffer[:length] = data[:length]
            self._protocol.buffer_updated(length)
            data = data[length:]

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Take everything."""

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.written += b"".join(list_of_data)

    def pause_reading(self) -> None:
        """Read on: a test sends only what it wants to be read."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True
        if not self._is_stuck:
            self._protocol.connection_lost(None)

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True
        self._protocol.connection_lost(None)
