"""What a worker counts, in plain integers; `take_report` turns it into the channel's series.

The data path touches attributes and small dicts only. Names and labels stand in `gateway.metrics`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from gateway import metrics
from gateway.channel import Series, Usage
from gateway.model import Protocol, Signal

_LAST: Final = len(metrics.BUCKETS_S) + 1
"""Bit length of the first whole number of µs that lies beyond the last bound."""
_BITS: Final = 80
"""More than any duration has: no check is needed while counting."""


class Histogram:
    """Durations in power-of-two buckets of microseconds (`metrics.BUCKETS_S`)."""

    __slots__ = ("_counts", "_total_s")

    def __init__(self) -> None:
        self._counts = [0] * _BITS
        """By the bit length of the duration in whole µs: 0 and 1 are the first bucket, what is
        beyond the last bound is one.
        """
        self._total_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration in seconds."""
        self._counts[int(seconds * 1_000_000).bit_length()] += 1
        self._total_s += seconds

    def take(self) -> list[float] | None:
        """Return what came since the last call as [bucket counts…, sum], None if nothing did."""
        counts = self._counts
        if not any(counts):
            return None
        first, beyond = sum(counts[:2]), sum(counts[_LAST:])
        taken = [*map(float, (first, *counts[2:_LAST], beyond)), self._total_s]
        self._counts = [0] * _BITS
        self._total_s = 0.0
        return taken


class RouteCounters:
    """Everything counted per protocol and signal."""

    __slots__ = (
        "duration",
        "in_flight",
        "protocol",
        "request_bytes",
        "requests",
        "response_bytes",
        "signal",
        "verdicts",
    )

    def __init__(self, protocol: str, signal: str) -> None:
        self.protocol = protocol
        self.signal = signal
        self.requests: defaultdict[tuple[str, str], int] = defaultdict(int)
        """(code, result) → count."""
        self.verdicts: defaultdict[tuple[str, str], int] = defaultdict(int)
        """(outcome, source) → count."""
        self.request_bytes = 0
        self.response_bytes = 0
        self.in_flight = 0
        """Requests that have begun and not ended."""
        self.duration = Histogram()


class Counters:
    """All counters and gauges of one worker."""

    def __init__(self) -> None:
        self.routes: dict[tuple[Protocol, Signal], RouteCounters] = {}
        self._unrouted: dict[str, RouteCounters] = {}
        self.auth_duration: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.backend_duration: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.backend_requests: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.plain: defaultdict[tuple[str, tuple[str, ...]], int] = defaultdict(int)
        """Everything rare: (metric name, labels) → count since the last report."""
        self.gauges: dict[tuple[str, tuple[str, ...]], float] = {}
        """(metric name, labels) → value; the owner keeps it current."""
        self.usage: dict[tuple[str, str], list[int]] = {}
        """(key id, outcome) → [requests, bytes, last used ms] since the last report."""

    def route(self, protocol: Protocol, signal: Signal) -> RouteCounters:
        """Return the counters of a route, made when first asked for."""
        counters = self.routes.get((protocol, signal))
        if counters is None:
            counters = self.routes[protocol, signal] = RouteCounters(protocol.value, signal.value)
        return counters

    def unrouted(self, protocol: str) -> RouteCounters:
        """Return the counters of requests for no route."""
        counters = self._unrouted.get(protocol)
        if counters is None:
            counters = self._unrouted[protocol] = RouteCounters(protocol, metrics.NO_SIGNAL)
        return counters

    def count(self, metric: metrics.Metric, *labels: str) -> None:
        """Count one of something rare."""
        self.plain[metric.name, labels] += 1

    @property
    def in_flight(self) -> dict[str, int]:
        """Protocol → requests that have begun and not ended."""
        counts = {protocol.value: 0 for protocol in Protocol}
        for route in (*self.routes.values(), *self._unrouted.values()):
            counts[route.protocol] += route.in_flight
        return counts

    def take_deltas(self) -> list[Series]:
        """Return all counters' changes since the last call."""
        series: list[Series] = []
        for route in (*self.routes.values(), *self._unrouted.values()):
            labels = (route.protocol, route.signal)
            _take(series, metrics.REQUESTS, labels, route.requests)
            _take(series, metrics.AUTH_DECISIONS, labels, route.verdicts)
            if route.request_bytes or route.response_bytes:
                series.append(Series(metrics.REQUEST_BYTES.name, labels, route.request_bytes))
                series.append(Series(metrics.RESPONSE_BYTES.name, labels, route.response_bytes))
                route.request_bytes = route.response_bytes = 0
            _take_histogram(series, metrics.REQUEST_DURATION, labels, route.duration)
        _take(series, metrics.BACKEND_REQUESTS, (), self.backend_requests)
        for source, histogram in self.auth_duration.items():
            _take_histogram(series, metrics.AUTH_DURATION, (source,), histogram)
        for backend, histogram in self.backend_duration.items():
            _take_histogram(series, metrics.BACKEND_DURATION, (backend,), histogram)
        series.extend(Series(name, labels, count) for (name, labels), count in self.plain.items())
        self.plain.clear()
        return series

    def take_gauges(self) -> list[Series]:
        """Return all gauges' values."""
        gauges = [Series(name, labels, value) for (name, labels), value in self.gauges.items()]
        gauges.extend(
            Series(metrics.IN_FLIGHT.name, (protocol,), count)
            for protocol, count in self.in_flight.items()
        )
        return gauges

    def take_usage(self) -> list[Usage]:
        """Return the keys' traffic since the last call."""
        usage = [
            Usage(key_id, outcome, *numbers) for (key_id, outcome), numbers in self.usage.items()
        ]
        self.usage.clear()
        return usage


def _take(
    series: list[Series],
    metric: metrics.Metric,
    labels: tuple[str, ...],
    counts: defaultdict[tuple[str, str], int],
) -> None:
    for key, count in counts.items():
        series.append(Series(metric.name, labels + key, count))
    counts.clear()


def _take_histogram(
    series: list[Series], metric: metrics.Metric, labels: tuple[str, ...], histogram: Histogram
) -> None:
    taken = histogram.take()
    if taken is not None:
        series.append(Series(metric.name, labels, taken))
