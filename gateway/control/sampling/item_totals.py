"""Items by key and signal since the start, as metrics: of the busiest keys, and of all others.

A counter never goes down, but a better estimate may be lower: then the counter stands still until
the estimate has reached it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from gateway import metrics
from gateway.control.metrics.busiest_keys import OTHER
from gateway.control.metrics.initial_series import SAMPLED
from gateway.control.metrics.metric_totals import Labels
from gateway.keys.daily_usage import ItemSums, estimate, plus

_NONE: Final = ItemSums()


@dataclass(slots=True)
class _Items:
    """What is known of one key's items of one signal, and the most that was said of them."""

    sums: ItemSums = field(default_factory=lambda: _NONE)
    shown: float = 0.0


class ItemTotals:
    """See the module. `busiest` are the keys that have series of their own, `name` finds names."""

    def __init__(self, busiest: Collection[str], name: Callable[[str], str]) -> None:
        self._busiest = busiest
        self._name = name
        self._keys: dict[str, dict[str, _Items]] = {}

    def add(self, key_id: str, signal: str, sums: ItemSums) -> None:
        """Add what is known of a key's items."""
        if key_id not in self._busiest:
            self._keys.pop(key_id, None)  # it has lost its series, as its requests have
            key_id = OTHER
        items = self._keys.setdefault(key_id, {}).setdefault(signal, _Items())
        items.sums = plus(items.sums, sums)

    def series(self) -> dict[str, dict[Labels, float]]:
        """Return metric name → labels → value."""
        counts: dict[Labels, float] = {(OTHER, "", signal.value): 0.0 for signal in SAMPLED}
        errors: dict[Labels, float] = {}
        for key_id in [each for each in self._keys if each != OTHER and each not in self._busiest]:
            del self._keys[key_id]
        for key_id, signals in self._keys.items():
            name = "" if key_id == OTHER else self._name(key_id)
            for signal, items in signals.items():
                found = estimate(items.sums)
                if found is None:
                    continue
                items.shown = max(items.shown, found.items)
                counts[key_id, name, signal] = items.shown
                error = math.nan if found.error is None else found.error
                errors[key_id, name, signal] = error
        return {metrics.KEY_ITEMS.name: counts, metrics.KEY_ITEMS_ERROR.name: errors}
