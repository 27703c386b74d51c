"""One bounded cache for everything that a worker remembers because it is met again and again.

A memo belongs to whoever was given it: none is a global. What goes into one is no secret: field
lines, field names, header blocks of answers.
"""

from __future__ import annotations

from itertools import islice
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_FORGOTTEN_SHARE: Final = 100
"""When a memo is full, it forgets the oldest of so many entries: 1 %."""


class Memo(Generic[K, V]):
    """Remembers at most `limit` entries and forgets the oldest first.

    `kept` is the dict itself, for look-ups on the data path: `memo.kept.get(key)`. Only this class
    writes to it.
    """

    __slots__ = ("_forgotten", "_limit", "kept")

    def __init__(self, limit: int) -> None:
        self.kept: dict[K, V] = {}
        self._limit = limit
        self._forgotten = max(1, limit // _FORGOTTEN_SHARE)

    def add(self, key: K, value: V) -> V:
        """Remember a value as the newest; return it."""
        kept = self.kept
        kept.pop(key, None)
        if len(kept) >= self._limit:
            for old in list(islice(kept, self._forgotten)):
                del kept[old]
        kept[key] = value
        return value

    def forget(self, key: K) -> None:
        """Forget one entry, if it is remembered."""
        self.kept.pop(key, None)

    def clear(self) -> None:
        """Forget all entries."""
        self.kept.clear()
