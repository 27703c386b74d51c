"""A transport that lies on another one: what it passes on as it is, and how long it may close."""

from __future__ import annotations

import asyncio
from typing import Any, Final

CLOSE_S: Final = 5.0
"""How long the peer may take to close its half after ours, unless it still takes what we sent."""


class UpperTransport(asyncio.Transport):
    """A transport over `_inner`, which is None before it is there and after it is lost."""

    __slots__ = ("_inner",)

    _inner: asyncio.Transport | None

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - asyncio's signature
        """Return what the transport below knows."""
        return self._inner.get_extra_info(name, default) if self._inner is not None else default

    def can_write_eof(self) -> bool:
        """Return that it can."""
        return True

    def get_write_buffer_size(self) -> int:
        """Return how many bytes, encrypted, the socket has not taken yet."""
        return self._inner.get_write_buffer_size() if self._inner is not None else 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the socket's limits."""
        return self._inner.get_write_buffer_limits() if self._inner is not None else (0, 0)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the socket's limits: they are exact, as over TCP."""
        if self._inner is not None:
            self._inner.set_write_buffer_limits(high, low)


class ClosingWatch:
    """Aborts a `transport` that is closing, unless its peer still takes what it sent."""

    __slots__ = ("_loop", "_timer", "_transport", "_unsent")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: UpperTransport) -> None:
        self._loop = loop
        self._transport = transport
        self._unsent = 0
        self._timer = loop.call_later(CLOSE_S, self._look)

    def end(self) -> None:
        """Watch no longer."""
        self._timer.cancel()

    def _look(self) -> None:
        unsent = self._transport.get_write_buffer_size()
        if unsent and unsent != self._unsent:
            self._unsent = unsent
            self._timer = self._loop.call_later(CLOSE_S, self._look)
        else:
            self._transport.abort()
