"""What a scrape sees: the catalogue in `gateway.metrics`, filled from totals and control's gauges.

Prometheus text, or OpenMetrics where the scraper asks for it. Everything is read from memory: a
scrape never waits for a worker. What is counted, and how, does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import exposition
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from gateway import metrics
from gateway.control.series import Backends, gauges_at_zero
from gateway.control.totals import Labels, Totals
from gateway.control.usage import OTHER, KeyTraffic, Traffic
from gateway.metrics import Kind, Metric

Measured = Mapping[str, Mapping[Labels, float]]
"""Metric name → labels → value: what control itself measures, at the moment of a scrape."""

_BOUNDS = [*(repr(bound) for bound in metrics.BUCKETS_S), "+Inf"]


class Exposition(Collector):
    """All metrics of the catalogue, in its order.

    `key_name` gives the name of a key id, or "" when nobody knows it any more; `measured` gives
    what control measures; `backends` are the configured ones with their addresses.
    """

    def __init__(
        self,
        totals: Totals,
        traffic: KeyTraffic,
        key_name: Callable[[str], str],
        measured: Callable[[], Measured],
        backends: Callable[[], Backends],
    ) -> None:
        self._totals = totals
        self._traffic = traffic
        self._key_name = key_name
        self._measured = measured
        self._backends = backends

    def collect(self) -> Iterator[Family]:
        """Give every family of the catalogue (prometheus_client)."""
        own = {**self._measured(), **self._per_key()}
        for metric in metrics.METRICS:
            match metric.kind:
                case Kind.COUNTER:
                    yield _counter(metric, own.get(metric.name) or self._totals.counters(metric))
                case Kind.HISTOGRAM:
                    yield _histogram(metric, self._totals.histograms(metric))
                case Kind.GAUGE:
                    yield _gauge(metric, self._gauges(metric, own))

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return body and Content-Type for a scraper's `Accept` field."""
        try:
            encode, content_type = exposition.choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none: as if nothing was asked for
            encode, content_type = exposition.choose_encoder("")
        return encode(self), content_type

    def _gauges(self, metric: Metric, own: Measured) -> Mapping[Labels, float]:
        values = self._totals.gauges(metric) if metric.from_worker else own.get(metric.name, {})
        return {**gauges_at_zero(metric, self._backends()), **values}

    def _per_key(self) -> dict[str, dict[Labels, float]]:
        requests = dict(self._totals.counters(metrics.KEY_REQUESTS))
        octets = dict(self._totals.counters(metrics.KEY_BYTES))
        named = [(key_id, self._key_name(key_id), t) for key_id, t in self._traffic.keys.items()]
        for key_id, name, traffic in [*named, (OTHER, "", self._traffic.other)]:
            _add_traffic(requests, octets, (key_id, name), traffic)
        return {metrics.KEY_REQUESTS.name: requests, metrics.KEY_BYTES.name: octets}


def _add_traffic(
    requests: dict[Labels, float],
    octets: dict[Labels, float],
    key: tuple[str, str],
    traffic: Traffic,
) -> None:
    for outcome, count in traffic.requests.items():
        requests[*key, outcome] = count
        octets[*key, outcome] = traffic.bytes[outcome]


def _counter(metric: Metric, series: Mapping[Labels, float]) -> Family:
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in series.items():
        family.add_metric(labels, value)
    return family


def _gauge(metric: Metric, series: Mapping[Labels, float]) -> Family:
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in series.items():
        family.add_metric(labels, value)
    return family


def _histogram(metric: Metric, series: Mapping[Labels, list[float]]) -> Family:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, values in series.items():
        counts, seconds = values[:-1], values[-1]
        family.add_metric(labels, list(zip(_BOUNDS, accumulate(counts), strict=True)), seconds)
    return family
