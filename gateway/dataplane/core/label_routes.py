"""Which backends the requests of a key go to, by its labels (`backends.routes`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.dataplane.core.memo import Memo
from gateway.dataplane.core.seams import RequestPool
from gateway.model import Pairs

_KNOWN: Final = 10_000

Pools = Mapping[str, RequestPool]
"""Kind of backend → connections to it."""


class LabelRoutes:
    """The first row counts of which a key has all labels."""

    __slots__ = ("_known", "_rows")

    def __init__(self, rows: Sequence[tuple[Pairs, Pools]] = ()) -> None:
        self._rows = [(frozenset(labels), pools) for labels, pools in rows]
        self._known: Memo[Pairs, int] = Memo(_KNOWN)
        """A key's labels → its row, or beyond the last one."""

    def find(self, labels: Pairs) -> Pools | None:
        """Return the backends of a key with these labels; None: those for all keys."""
        number = self._known.kept.get(labels, -1)
        if number < 0:
            number = self._known.add(labels, self._first(labels))
        return self._rows[number][1] if number < len(self._rows) else None

    def _first(self, labels: Pairs) -> int:
        for number, (wanted, _) in enumerate(self._rows):
            if wanted.issubset(labels):
                return number
        return len(self._rows)
