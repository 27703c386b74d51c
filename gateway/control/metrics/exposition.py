"""What a scrape returns: the catalogue in `gateway.metrics` with all values.

Prometheus text, or OpenMetrics where the scraper asks for it. Everything is read from memory: a
scrape never waits for a worker. A page has thousands of lines, and is written in pieces, so that a
probe does not wait for all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import exposition
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from gateway import metrics
from gateway.control.core.current_config import Backends
from gateway.control.metrics.busiest_keys import OTHER, BusiestKeys, KeyTotals
from gateway.control.metrics.initial_series import gauges_at_zero
from gateway.control.metrics.metric_totals import Labels, MetricTotals
from gateway.metrics import Kind, Metric

SeriesByName = Mapping[str, Mapping[Labels, float]]
"""Metric name → labels → value."""

SAMPLES_AT_ONCE: Final = 50
"""Samples that one turn of the loop writes: less than a millisecond."""

_BOUNDS = [*(repr(bound) for bound in metrics.BUCKETS_S), "+Inf"]


class Exposition(Collector):
    """All metrics of the catalogue, in its order.

    `key_name` returns the name of a key id, "" for an unknown one. Each of `sources` returns series
    that are in no totals, at the moment of a scrape. `backends` returns the configured ones.
    """

    def __init__(
        self,
        totals: MetricTotals,
        busiest_keys: BusiestKeys,
        key_name: Callable[[str], str],
        sources: Sequence[Callable[[], SeriesByName]],
        backends: Callable[[], Backends],
    ) -> None:
        self._totals = totals
        self._busiest_keys = busiest_keys
        self._key_name = key_name
        self._sources = tuple(sources)
        self._backends = backends
        self._turn = asyncio.Lock()

    def collect(self) -> Iterator[Family]:
        """Yield every family of the catalogue (prometheus_client)."""
        own = self._per_key()
        for source in self._sources:
            own |= source()
        for metric in metrics.METRICS:
            match metric.kind:
                case Kind.COUNTER:
                    yield _counter(metric, own.get(metric.name) or self._totals.counters(metric))
                case Kind.HISTOGRAM:
                    yield _histogram(metric, self._totals.histograms(metric))
                case Kind.GAUGE:
                    yield _gauge(metric, self._gauges(metric, own))

    async def render(self, accept: str) -> tuple[bytes, str]:
        """Return body and Content-Type for a scraper's `Accept` field.

        Others are served meanwhile. Scrapes take turns, so that many of them do not make long ones.
        """
        async with self._turn:
            content_type, pieces = self.pieces(accept)
            page = []
            for piece in pieces:
                page.append(piece)
                await asyncio.sleep(0)
        return b"".join(page), content_type

    def pieces(self, accept: str) -> tuple[str, Iterator[bytes]]:
        """Return the Content-Type and the body for a scraper's `Accept` field, piece by piece."""
        try:
            encode, content_type = exposition.choose_encoder(accept)
        except (TypeError, ValueError):  # no valid version: as if nothing was asked for
            encode, content_type = exposition.choose_encoder("")
        return content_type, self._encoded(encode)

    def _encoded(self, encode: Callable[[Collector], bytes]) -> Iterator[bytes]:
        end = encode(_Families([]))
        for family in self.collect():
            for number, part in enumerate(_parts(family)):
                lines = encode(_Families([part])).removesuffix(end)
                while number and lines.startswith(b"# "):  # the first part has the family's head
                    _, _, lines = lines.partition(b"\n")
                yield lines
        yield end

    def _gauges(self, metric: Metric, own: SeriesByName) -> Mapping[Labels, float]:
        values = self._totals.gauges(metric) if metric.from_worker else own.get(metric.name, {})
        return {**gauges_at_zero(metric, self._backends()), **values}

    def _per_key(self) -> dict[str, Mapping[Labels, float]]:
        requests = dict(self._totals.counters(metrics.KEY_REQUESTS))
        octets = dict(self._totals.counters(metrics.KEY_BYTES))
        busiest = self._busiest_keys
        named = [(key_id, self._key_name(key_id), sums) for key_id, sums in busiest.keys.items()]
        for key_id, name, traffic in [*named, (OTHER, "", busiest.other)]:
            _add_traffic(requests, octets, (key_id, name), traffic)
        return {metrics.KEY_REQUESTS.name: requests, metrics.KEY_BYTES.name: octets}


class _Families(Collector):
    """Families that are encoded together."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Family]:
        """Yield them (prometheus_client)."""
        yield from self._families


def _parts(family: Family) -> Iterator[Family]:
    """Split a family into parts that are encoded in one turn each."""
    samples = family.samples
    for at in range(0, len(samples) or 1, SAMPLES_AT_ONCE):
        part = Family(family.name, family.documentation, family.type, family.unit)
        part.samples = samples[at : at + SAMPLES_AT_ONCE]
        yield part


def _add_traffic(
    requests: dict[Labels, float],
    octets: dict[Labels, float],
    key: tuple[str, str],
    traffic: KeyTotals,
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
