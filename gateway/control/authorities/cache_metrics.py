"""What happens to the caches of verdicts, counted."""

from __future__ import annotations

from gateway import metrics
from gateway.control.metrics.metric_totals import MetricTotals


class CacheMetrics:
    """Counts in `totals` (`authority.verdicts.CacheObserver`, `jwt.verdicts.TokenObserver`)."""

    def __init__(self, totals: MetricTotals) -> None:
        self._totals = totals

    def hit(self, kind: str) -> None:
        """A cache had the answer."""
        self._totals.count(metrics.KEY_CACHE_HITS, (kind,))

    def miss(self, kind: str) -> None:
        """A cache did not have it."""
        self._totals.count(metrics.KEY_CACHE_MISSES, (kind,))

    def stale(self, kind: str) -> None:
        """An answer was used beyond its time."""
        self._totals.count(metrics.KEY_CACHE_STALE, (kind,))

    def coalesced(self, kind: str) -> None:
        """A question joined one that was under way."""
        self._totals.count(metrics.KEY_CACHE_COALESCED, (kind,))
