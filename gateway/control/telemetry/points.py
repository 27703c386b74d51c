"""Makes OpenTelemetry's metrics of what `/metrics` shows: the same names and labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.core import Metric as Family

import gateway
from gateway import metrics

_SCOPE: Final = InstrumentationScope("gateway", gateway.__version__)
_BOUNDS: Final = metrics.BUCKETS_S
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE


def metrics_data(
    resource: Resource, families: Iterable[Family], started_ns: int, now_ns: int
) -> MetricsData:
    """Return what one export of all families sends. Counters began at `started_ns` (Unix time)."""
    found = [_metric(family, started_ns, now_ns) for family in families if family.samples]
    scope = ScopeMetrics(_SCOPE, found, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _metric(family: Family, started_ns: int, now_ns: int) -> Metric:
    name, unit = family.name, _unit(family.name)
    if family.type == "histogram":
        histogram = Histogram(list(_histograms(family, started_ns, now_ns)), _CUMULATIVE)
        return Metric(name, family.documentation, unit, histogram)
    points = [
        NumberDataPoint(sample.labels, started_ns, now_ns, sample.value)
        for sample in family.samples
    ]
    if family.type == "counter":
        total = Sum(points, _CUMULATIVE, is_monotonic=True)
        return Metric(f"{name}_total", family.documentation, unit, total)
    return Metric(name, family.documentation, unit, Gauge(points))


def _unit(name: str) -> str:
    """Return the unit in the notation of OpenTelemetry (UCUM)."""
    return "s" if name.endswith("_seconds") else "By" if name.endswith("_bytes") else "1"


def _histograms(family: Family, started_ns: int, now_ns: int) -> Iterator[HistogramDataPoint]:
    """Yield a point for each series, whose buckets are cumulative in Prometheus' families."""
    counts: list[int] = []
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        if sample.name.endswith("_bucket"):
            counts.append(int(sample.value))
        elif sample.name.endswith("_sum"):
            yield HistogramDataPoint(
                attributes=labels,
                start_time_unix_nano=started_ns,
                time_unix_nano=now_ns,
                count=counts[-1],
                sum=sample.value,
                bucket_counts=[counts[0], *(after - before for before, after in pairwise(counts))],
                explicit_bounds=_BOUNDS,
                min=None,  # type: ignore[arg-type]  # nobody has measured it, and OTLP needs none
                max=None,  # type: ignore[arg-type]
            )
            counts = []
