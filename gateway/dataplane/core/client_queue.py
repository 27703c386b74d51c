"""What waits for its turn, by client: clients take turns one by one, however much one has."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_NONE_WAITS: Final = "nothing waits"


class ClientQueue(Generic[T]):
    """What one client has waiting keeps its order."""

    __slots__ = ("_count", "_waiting")

    def __init__(self) -> None:
        self._count = 0
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        """Count what waits."""
        return self._count

    def add(self, client: str, item: T) -> None:
        """Have something wait, behind what this client has waiting already."""
        items = self._waiting.get(client)
        if items is None:
            items = self._waiting[client] = deque()
        items.append(item)
        self._count += 1

    def pop(self) -> T:
        """Return what is next. Raises `LookupError` where nothing waits."""
        waiting = self._waiting
        if not waiting:
            raise LookupError(_NONE_WAITS)
        client, items = next(iter(waiting.items()))
        item = items.popleft()
        self._count -= 1
        if items:
            waiting.move_to_end(client)
        else:
            del waiting[client]
        return item
