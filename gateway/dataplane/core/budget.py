"""One account for everything that a worker holds in flight (`limits.buffer_memory`).

Charged at its backing size: queued bodies, unsent transport buffers, bodies kept for a replay. Near
the bound windows stop growing, requests of senders that hold much are *overloaded*, and connections
whose bodies wait are read no more; at the bound this holds for all, and the kernel's buffers and
TCP do the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_NEAR: Final = 0.75
_RESUME: Final = 0.9
_GATHERED: Final = 0.25


class Budget:
    """Bytes held, of how many. `waiting` are the readers to call when there is room again."""

    __slots__ = (
        "_resume",
        "_resume_holding",
        "gathered",
        "holding",
        "limit",
        "most_gathered",
        "near",
        "used",
        "waiting",
    )

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.near = int(limit * _NEAR)
        """From here on new requests must be refused and windows must not grow."""
        self.gathered = 0
        """Bytes among `used` of bodies that wait for their rest, without a place at a backend."""
        self.most_gathered = int(limit * _GATHERED)
        """Beyond this a body takes its place before it is whole."""
        self._resume = int(limit * _RESUME)
        self._resume_holding = int(self.near * _RESUME)
        self.waiting: dict[object, Callable[[], None]] = {}
        self.holding: dict[object, Callable[[], None]] = {}
        """Readers whose connections have much held already: they wait for more room."""

    @property
    def is_near(self) -> bool:
        """Whether so much is held that no more should begin."""
        return self.used >= self.near

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
        if self.holding and self.used < self._resume_holding:
            holding, self.holding = self.holding, {}
            for resume in holding.values():
                resume()

    def wait(self, who: object, resume: Callable[[], None], *, holds: bool = False) -> None:
        """Have `resume` called once when there is room again. `holds`: when there is much of it,
        because what this reader brings has to be held.
        """
        (self.holding if holds else self.waiting)[who] = resume

    def forget(self, who: object) -> None:
        """Take back `wait`, for a reader that is gone."""
        self.waiting.pop(who, None)
        self.holding.pop(who, None)
