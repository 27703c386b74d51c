"""One account for everything that a worker holds in flight (`limits.buffer_memory`).

Charged at its backing size: queued bodies, unsent transport buffers, bodies kept for a replay. Near
the bound windows stop growing and new requests are *overloaded*; at the bound client sockets are no
longer read, and the kernel's buffers and TCP do the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_NEAR: Final = 0.75
_RESUME: Final = 0.9


class Budget:
    """Bytes held, of how many. `waiting` are the readers to call when there is room again."""

    __slots__ = ("_resume", "limit", "near", "used", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.near = int(limit * _NEAR)
        """From here on new requests must be refused and windows must not grow."""
        self._resume = int(limit * _RESUME)
        self.waiting: dict[object, Callable[[], None]] = {}

    @property
    def is_near(self) -> bool:
        """Whether so much is held that no more should begin."""
        return self.used >= self.near

    @property
    def is_full(self) -> bool:
        """Whether client sockets must not be read now."""
        return self.used >= self.limit

    def charge(self, length: int) -> None:
        """Note that `length` bytes more are held."""
        self.used += length

    def release(self, length: int) -> None:
        """Note that `length` bytes were let go; wakes waiting readers when there is room again."""
        self.used -= length
        if self.waiting and self.used < self._resume:
            waiting, self.waiting = self.waiting, {}
            for resume in waiting.values():
                resume()

    def wait(self, who: object, resume: Callable[[], None]) -> None:
        """Have `resume` called once when there is room again."""
        self.waiting[who] = resume

    def forget(self, who: object) -> None:
        """Take back `wait`, for a reader that is gone."""
        self.waiting.pop(who, None)
