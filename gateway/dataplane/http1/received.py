"""What one read has brought, to be cut into heads and bodies."""

from __future__ import annotations

from typing import Final

SMALL_BYTES: Final = 8 * 1024
"""A read of less is copied whole, once: slices of bytes cost a fifth of a memoryview's."""
BEGINNING_BYTES: Final = 2 * 1024
"""What is copied of a larger one, to look for a head in it: most are shorter. Its body is copied
from the buffer when it is cut out.
"""


class Received:
    """Bytes from the worker's buffer, or bytes that were held: `[0:end]`, of which `start` is the
    beginning. Valid until the buffer is read into again.
    """

    __slots__ = ("_buffer", "_view", "end", "start")

    def __init__(self, buffer: bytearray, view: memoryview, end: int, copied: int) -> None:
        """`view` is `buffer`'s; `copied`: how much of it `start` is to be, at most."""
        self._buffer = buffer
        self._view = view
        self.end = end
        self.start = view[: min(copied, end)].tobytes()

    @property
    def buffer(self) -> bytes | bytearray:
        """All bytes up to `end`, in whatever holds them; there may be others behind them."""
        return self.start if len(self.start) == self.end else self._buffer

    def cut(self, at: int, stop: int) -> bytes:
        """Return `[at:stop]`, which must lie within."""
        if stop <= len(self.start):
            return self.start[at:stop]
        return self._view[at:stop].tobytes()

    def copy_all(self) -> bytes:
        """Make `start` all of it, and return it."""
        if len(self.start) < self.end:
            self.start = self._view[: self.end].tobytes()
        return self.start


def received(buffer: bytearray, view: memoryview, length: int, *, is_body: bool) -> Received:
    """Return what a read of `length` bytes has brought; `is_body`: a body is under way."""
    if length < SMALL_BYTES:
        return Received(buffer, view, length, length)
    return Received(buffer, view, length, 0 if is_body else BEGINNING_BYTES)


def held(data: bytes) -> Received:
    """Return bytes that have been held until now."""
    return Received(_NO_BUFFER, memoryview(data), len(data), len(data))


_NO_BUFFER: Final = bytearray()
