"""What a worker counts, and how it reports that."""

from __future__ import annotations

import pytest

from gateway import metrics
from gateway.channel import Usage
from gateway.dataplane.core.counters import Counters, Histogram
from gateway.model import Protocol, Signal


@pytest.mark.parametrize("bound", [0, 1, 10, 20, len(metrics.BUCKETS_S) - 1])
def test_a_duration_falls_into_the_bucket_of_its_bound(bound: int) -> None:
    histogram = Histogram()
    below = metrics.BUCKETS_S[bound] * 0.99
    above = metrics.BUCKETS_S[bound] * 1.01
    histogram.observe(below)
    histogram.observe(above)
    taken = histogram.take()
    assert taken is not None
    assert len(taken) == len(metrics.BUCKETS_S) + 2, "the buckets, +Inf, and the sum"
    assert [place for place, count in enumerate(taken[:-1]) if count] == [bound, bound + 1]
    assert taken[-1] == pytest.approx(below + above)
    assert histogram.take() is None


def test_a_report_holds_each_change_once() -> None:
    counters = Counters()
    route = counters.route(Protocol.GRPC, Signal.TRACES)
    route.count("OK", "accepted")
    route.count("OK", "accepted")
    route.count("OK", "denied")
    route.count("UNAVAILABLE", "accepted")
    route.allowed += 3
    route.verdicts["allowed", "authority"] += 1
    for code in ("OK", "OK", "none"):
        counters.backend("otlp_grpc").count(code)
    route.request_bytes += 10
    counters.count(metrics.INTERNAL_ERRORS, "exchange")
    counters.use("7", "allowed", 4, 3)
    counters.use("7", "allowed", 6, 5)
    counters.use("7", "KEY_EXPIRED", 1, 6)
    deltas = {(series.metric, series.labels): series.value for series in counters.take_deltas()}
    assert deltas[metrics.REQUESTS.name, ("grpc", "traces", "OK", "accepted")] == 2
    assert deltas[metrics.REQUESTS.name, ("grpc", "traces", "OK", "denied")] == 1
    assert deltas[metrics.REQUESTS.name, ("grpc", "traces", "UNAVAILABLE", "accepted")] == 1
    assert deltas[metrics.AUTH_DECISIONS.name, ("grpc", "traces", "allowed", "keyring")] == 3
    assert deltas[metrics.AUTH_DECISIONS.name, ("grpc", "traces", "allowed", "authority")] == 1
    assert deltas[metrics.BACKEND_REQUESTS.name, ("otlp_grpc", "OK")] == 2
    assert deltas[metrics.BACKEND_REQUESTS.name, ("otlp_grpc", "none")] == 1
    assert deltas[metrics.REQUEST_BYTES.name, ("grpc", "traces")] == 10
    assert deltas[metrics.INTERNAL_ERRORS.name, ("exchange",)] == 1
    assert counters.take_deltas() == []
    assert sorted(counters.take_usage(), key=lambda usage: usage.outcome) == [
        Usage("7", "KEY_EXPIRED", 1, 1, 6),
        Usage("7", "allowed", 2, 10, 5),
    ]
    assert counters.take_usage() == []
