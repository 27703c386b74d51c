"""The totals of all counters, histograms and workers' gauges, which outlive the workers.

Counters and histograms arrive as deltas and only grow; gauges arrive as values, belong to their
worker and are dropped with it. Control adds what it counts itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Final

from gateway import metrics
from gateway.channel import Series
from gateway.metrics import Kind, Metric

Labels = tuple[str, ...]
HISTOGRAM_VALUES: Final = len(metrics.BUCKETS_S) + 2
"""A histogram's values: one count per bucket, that of +Inf, and the sum in seconds."""

GAUGE_MERGE: Final[Mapping[str, Callable[[Iterable[float]], float]]] = {
    # One worker that cannot connect is a backend that is not up for some requests.
    metrics.BACKEND_UP.name: min,
}
"""How the workers' values of a gauge become one; `sum` where nothing stands here."""


class UnknownSeriesError(Exception):
    """A worker reported a series that is not in the catalogue: another version, or a bug."""


class MetricTotals:
    """Counters and histograms of all workers since the start, gauges of the present ones."""

    def __init__(self) -> None:
        self._counters: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, list[float]]] = {}
        self._gauges: dict[Hashable, dict[str, dict[Labels, float]]] = {}
        for metric in metrics.METRICS:
            if metric.kind is Kind.COUNTER:
                self._counters[metric.name] = {}
            elif metric.kind is Kind.HISTOGRAM:
                self._histograms[metric.name] = {}

    def start_at_zero(self, metric: Metric, labels: Labels) -> None:
        """Make a counter's or histogram's series exist before anything was counted."""
        if metric.kind is Kind.COUNTER:
            self._counters[metric.name].setdefault(labels, 0.0)
        elif metric.kind is Kind.HISTOGRAM:
            self._histograms[metric.name].setdefault(labels, [0.0] * HISTOGRAM_VALUES)

    def count(self, metric: Metric, labels: Labels = (), amount: float = 1) -> None:
        """Add to a counter."""
        series = self._counters[metric.name]
        series[labels] = series.get(labels, 0.0) + amount

    def observe(self, metric: Metric, labels: Labels, seconds: float) -> None:
        """Add one observation to a histogram."""
        values = [0.0] * HISTOGRAM_VALUES
        values[_bucket(seconds)] = 1
        values[-1] = seconds
        self._add_histogram(metric.name, labels, values)

    def add(self, deltas: Iterable[Series]) -> None:
        """Add a worker's deltas. Raises `UnknownSeriesError` after adding all that is known."""
        unknown = [series.metric for series in deltas if not self._add_delta(series)]
        if unknown:
            msg = f"a worker reported unknown series of {', '.join(sorted(set(unknown)))}"
            raise UnknownSeriesError(msg)

    def set_gauges(self, worker: Hashable, gauges: Iterable[Series]) -> None:
        """Replace a worker's gauges. Raises `UnknownSeriesError` after taking all that is known."""
        taken: dict[str, dict[Labels, float]] = {}
        unknown = set()
        for series in gauges:
            metric = metrics.BY_NAME.get(series.metric)
            if _is_known(metric, series, Kind.GAUGE) and isinstance(series.value, int | float):
                taken.setdefault(series.metric, {})[series.labels] = series.value
            else:
                unknown.add(series.metric)
        self._gauges[worker] = taken
        if unknown:
            msg = f"a worker reported unknown series of {', '.join(sorted(unknown))}"
            raise UnknownSeriesError(msg)

    def forget_gauges(self, worker: Hashable) -> None:
        """Drop the gauges of a worker that is gone; its counters stay."""
        self._gauges.pop(worker, None)

    def counters(self, metric: Metric) -> Mapping[Labels, float]:
        """Return a counter's series."""
        return self._counters[metric.name]

    def histograms(self, metric: Metric) -> Mapping[Labels, list[float]]:
        """Return a histogram's series, each as in `channel.Series.value`: not cumulative."""
        return self._histograms[metric.name]

    def gauges(self, metric: Metric) -> dict[Labels, float]:
        """Return a gauge's series, the workers' values merged."""
        merge = GAUGE_MERGE.get(metric.name, sum)
        values: dict[Labels, list[float]] = {}
        for worker in self._gauges.values():
            for labels, value in worker.get(metric.name, {}).items():
                values.setdefault(labels, []).append(value)
        return {labels: merge(found) for labels, found in values.items()}

    def _add_delta(self, series: Series) -> bool:
        """Add one delta; False when the catalogue has no such series."""
        metric = metrics.BY_NAME.get(series.metric)
        value = series.value
        if isinstance(value, list):
            if not _is_known(metric, series, Kind.HISTOGRAM) or len(value) != HISTOGRAM_VALUES:
                return False
            self._add_histogram(series.metric, series.labels, value)
            return True
        if not _is_known(metric, series, Kind.COUNTER):
            return False
        sums = self._counters[series.metric]
        sums[series.labels] = sums.get(series.labels, 0.0) + value
        return True

    def _add_histogram(self, name: str, labels: Labels, values: list[float]) -> None:
        sums = self._histograms[name]
        old = sums.get(labels)
        sums[labels] = values if old is None else [a + b for a, b in zip(old, values, strict=True)]


def _is_known(metric: Metric | None, series: Series, kind: Kind) -> bool:
    return (
        metric is not None
        and metric.kind is kind
        and metric.from_worker
        and len(series.labels) == len(metric.labels)
    )


def _bucket(seconds: float) -> int:
    """Find the first bucket whose upper bound is not below `seconds`."""
    return next(
        (index for index, bound in enumerate(metrics.BUCKETS_S) if seconds <= bound),
        len(metrics.BUCKETS_S),
    )
