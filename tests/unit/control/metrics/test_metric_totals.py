from __future__ import annotations

import pytest

from gateway import metrics
from gateway.channel import Series
from gateway.control.metrics.metric_totals import HISTOGRAM_VALUES, MetricTotals, UnknownSeriesError

REQUESTS = metrics.REQUESTS.name
LABELS = ("grpc", "traces", "OK", "accepted")


def test_counters_of_all_workers_are_summed() -> None:
    totals = MetricTotals()
    totals.add([Series(REQUESTS, LABELS, 3)])
    totals.add([Series(REQUESTS, LABELS, 4)])
    assert totals.counters(metrics.REQUESTS) == {LABELS: 7}


def test_counters_stay_and_gauges_go_when_a_worker_is_gone() -> None:
    totals = MetricTotals()
    totals.add([Series(REQUESTS, LABELS, 3)])
    totals.set_gauges("first", [Series(metrics.CONNECTIONS.name, (), 5)])
    totals.set_gauges("second", [Series(metrics.CONNECTIONS.name, (), 2)])
    assert totals.gauges(metrics.CONNECTIONS) == {(): 7}
    totals.forget_gauges("first")
    assert totals.gauges(metrics.CONNECTIONS) == {(): 2}
    assert totals.counters(metrics.REQUESTS) == {LABELS: 3}


def test_gauges_are_replaced_by_each_report() -> None:
    totals = MetricTotals()
    gone = Series(metrics.BACKEND_CONNECTIONS.name, ("otlp_grpc", "a:1"), 1)
    kept = Series(metrics.BACKEND_CONNECTIONS.name, ("otlp_grpc", "b:1"), 1)
    totals.set_gauges("worker", [gone, kept])
    totals.set_gauges("worker", [kept])
    assert totals.gauges(metrics.BACKEND_CONNECTIONS) == {("otlp_grpc", "b:1"): 1}


def test_a_backend_that_one_worker_cannot_reach_is_not_up() -> None:
    totals = MetricTotals()
    labels = ("otlp_grpc", "a:1")
    totals.set_gauges("first", [Series(metrics.BACKEND_UP.name, labels, 1)])
    totals.set_gauges("second", [Series(metrics.BACKEND_UP.name, labels, 0)])
    assert totals.gauges(metrics.BACKEND_UP) == {labels: 0}


def test_histograms_are_summed_bucket_by_bucket() -> None:
    totals = MetricTotals()
    values = [float(number) for number in range(HISTOGRAM_VALUES)]
    labels = ("grpc", "traces")
    totals.add([Series(metrics.REQUEST_DURATION.name, labels, values)])
    totals.add([Series(metrics.REQUEST_DURATION.name, labels, values)])
    assert totals.histograms(metrics.REQUEST_DURATION) == {labels: [2 * v for v in values]}


@pytest.mark.parametrize(
    "seconds,bucket",
    [(0.0, 0), (2e-6, 0), (2.1e-6, 1), (4e-6, 1), (0.5, 18), (67.0, 25), (1000.0, 26)],
)
def test_an_observation_of_control_falls_into_the_bucket_that_bounds_it(
    seconds: float, bucket: int
) -> None:
    totals = MetricTotals()
    totals.observe(metrics.REVOCATION_LAG, ("sqlite",), seconds)
    values = totals.histograms(metrics.REVOCATION_LAG)["sqlite",]
    assert [index for index, count in enumerate(values[:-1]) if count] == [bucket]
    assert values[-1] == seconds


@pytest.mark.parametrize(
    "series",
    [
        Series("gateway_of_another_version_total", (), 1),
        Series(REQUESTS, ("grpc",), 1),
        Series(REQUESTS, LABELS, [1.0]),
        Series(metrics.REQUEST_DURATION.name, ("grpc", "traces"), [1.0, 2.0]),
        Series(metrics.REQUEST_DURATION.name, ("grpc", "traces"), 1),
        Series(metrics.CONNECTIONS.name, (), 1),
        Series(metrics.WORKER_RESTARTS.name, ("died",), 1),
    ],
)
def test_a_series_that_is_in_no_catalogue_is_told_and_the_rest_is_taken(series: Series) -> None:
    totals = MetricTotals()
    with pytest.raises(UnknownSeriesError, match=series.metric):
        totals.add([series, Series(REQUESTS, LABELS, 3)])
    assert totals.counters(metrics.REQUESTS) == {LABELS: 3}


@pytest.mark.parametrize(
    "series",
    [Series(REQUESTS, LABELS, 1), Series(metrics.WORKERS.name, (), 1), Series("unknown", (), 1)],
)
def test_a_gauge_that_is_in_no_catalogue_is_told_and_the_rest_is_taken(series: Series) -> None:
    totals = MetricTotals()
    with pytest.raises(UnknownSeriesError, match=series.metric):
        totals.set_gauges("worker", [series, Series(metrics.CONNECTIONS.name, (), 5)])
    assert totals.gauges(metrics.CONNECTIONS) == {(): 5}


def test_a_series_started_at_zero_keeps_what_was_counted() -> None:
    totals = MetricTotals()
    totals.add([Series(REQUESTS, LABELS, 3)])
    totals.start_at_zero(metrics.REQUESTS, LABELS)
    assert totals.counters(metrics.REQUESTS) == {LABELS: 3}
