"""What a worker counts, in plain integers; `take_report` turns it into the channel's series.

The data path touches attributes and small dicts only. Names and labels stand in `gateway.metrics`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from gateway import metrics
from gateway.channel import Series, Usage
from gateway.model import BackendName, Protocol, Signal
from gateway.outcome import Result

_LAST: Final = len(metrics.BUCKETS_S) + 1
"""Bit length of the first whole number of µs that lies beyond the last bound."""
_BITS: Final = 80
"""More than any duration has: no check is needed while counting."""
_BITS_OF: Final = bytes([number.bit_length() for number in range(4096)])
"""Bit lengths of most durations: a look-up costs less than a method."""


GRPC_OK: Final = "OK"
HTTP_OK: Final = "200"
_ACCEPTED: Final = Result.ACCEPTED.value
_ALLOWED: Final = "allowed"
_OTLP_GRPC: Final = BackendName.OTLP_GRPC.value
_KEYRING: Final = "keyring"
"""A source of verdicts (`metrics.SOURCES`)."""


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
        length = int(seconds * 1_000_000)
        self._counts[_BITS_OF[length] if length < len(_BITS_OF) else length.bit_length()] += 1
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


class BackendCounters:
    """What is counted of each answer of one backend."""

    __slots__ = ("_others", "_usual", "_usual_code", "duration")

    def __init__(self, usual_code: str) -> None:
        self._usual_code = usual_code
        self._usual = 0
        """Answers with the usual code: most of all."""
        self._others: defaultdict[str, int] = defaultdict(int)
        """Code → count."""
        self.duration = Histogram()

    def count(self, code: str) -> None:
        """Count one answer, or `none`."""
        if code == self._usual_code:
            self._usual += 1
        else:
            self._others[code] += 1

    def take(self) -> dict[str, int]:
        """Return code → count since the last call."""
        counts = dict(self._others)
        if self._usual:
            counts[self._usual_code] = self._usual
        self._others.clear()
        self._usual = 0
        return counts


class KeyUse:
    """The traffic of one key that was allowed."""

    __slots__ = ("last_used_ms", "request_bytes", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.request_bytes = 0
        self.last_used_ms = 0


class RouteCounters:
    """Everything counted per protocol and signal.

    What is usual is counted in a plain attribute, everything else under its labels: that takes
    three look-ups of a pair of strings.
    """

    __slots__ = (
        "accepted",
        "allowed",
        "duration",
        "in_flight",
        "protocol",
        "request_bytes",
        "requests",
        "response_bytes",
        "signal",
        "usual_code",
        "verdicts",
    )

    def __init__(self, protocol: str, signal: str) -> None:
        self.protocol = protocol
        self.signal = signal
        self.usual_code = GRPC_OK if protocol == Protocol.GRPC.value else HTTP_OK
        """The code of most answers."""
        self.accepted = 0
        """Requests that ended with the usual code, accepted."""
        self.allowed = 0
        """Verdicts "allowed" by the keyring."""
        self.requests: defaultdict[tuple[str, str], int] = defaultdict(int)
        """(code, result) → count."""
        self.verdicts: defaultdict[tuple[str, str], int] = defaultdict(int)
        """(outcome, source) → count."""
        self.request_bytes = 0
        self.response_bytes = 0
        self.in_flight = 0
        """Requests that have begun and not ended."""
        self.duration = Histogram()

    def count(self, code: str, result: str) -> None:
        """Count a request that has ended."""
        if result == _ACCEPTED and code == self.usual_code:
            self.accepted += 1
        else:
            self.requests[code, result] += 1

    def settle(self) -> None:
        """Put what was counted in attributes under its labels."""
        if self.accepted:
            self.requests[self.usual_code, _ACCEPTED] += self.accepted
            self.accepted = 0
        if self.allowed:
            self.verdicts[_ALLOWED, _KEYRING] += self.allowed
            self.allowed = 0


class Counters:
    """All counters and gauges of one worker."""

    def __init__(self) -> None:
        self.routes: dict[tuple[Protocol, Signal], RouteCounters] = {}
        self._unrouted: dict[str, RouteCounters] = {}
        self.auth_duration: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.keyring_duration = self.auth_duration[_KEYRING]
        self._backends: dict[str, BackendCounters] = {}
        self.plain: defaultdict[tuple[str, tuple[str, ...]], int] = defaultdict(int)
        """Everything rare: (metric name, labels) → count since the last report."""
        self.gauges: dict[tuple[str, tuple[str, ...]], float] = {}
        """(metric name, labels) → value; the owner keeps it current."""
        self.usage: dict[tuple[str, str], list[int]] = {}
        """(key id, outcome) → [requests, bytes, last used ms] since the last report, but for keys
        that were allowed.
        """
        self._used: dict[str, KeyUse] = {}
        """Key id → its allowed traffic since the last report."""

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

    def backend(self, name: str) -> BackendCounters:
        """Return the counters of a backend, made when first asked for."""
        counters = self._backends.get(name)
        if counters is None:
            usual_code = GRPC_OK if name == _OTLP_GRPC else HTTP_OK
            counters = self._backends[name] = BackendCounters(usual_code)
        return counters

    def use(self, key_id: str, outcome: str, request_bytes: int, used_ms: int) -> None:
        """Count a request with a known key. `outcome`: the verdict on it."""
        if outcome == _ALLOWED:
            use = self._used.get(key_id)
            if use is None:
                use = self._used[key_id] = KeyUse()
            use.requests += 1
            use.request_bytes += request_bytes
            use.last_used_ms = used_ms
            return
        key = key_id, outcome
        usage = self.usage.get(key)
        if usage is None:
            usage = self.usage[key] = [0, 0, 0]
        usage[0] += 1
        usage[1] += request_bytes
        usage[2] = used_ms

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
            route.settle()
            _take(series, metrics.REQUESTS, labels, route.requests)
            _take(series, metrics.AUTH_DECISIONS, labels, route.verdicts)
            if route.request_bytes or route.response_bytes:
                series.append(Series(metrics.REQUEST_BYTES.name, labels, route.request_bytes))
                series.append(Series(metrics.RESPONSE_BYTES.name, labels, route.response_bytes))
                route.request_bytes = route.response_bytes = 0
            _take_histogram(series, metrics.REQUEST_DURATION, labels, route.duration)
        for source, histogram in self.auth_duration.items():
            _take_histogram(series, metrics.AUTH_DURATION, (source,), histogram)
        for name, backend in self._backends.items():
            for code, count in backend.take().items():
                series.append(Series(metrics.BACKEND_REQUESTS.name, (name, code), count))
            _take_histogram(series, metrics.BACKEND_DURATION, (name,), backend.duration)
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
        usage.extend(
            Usage(key_id, _ALLOWED, use.requests, use.request_bytes, use.last_used_ms)
            for key_id, use in self._used.items()
        )
        self._used.clear()
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
