from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from prometheus_client import Metric as Family
from prometheus_client import exposition as encoders
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway import metrics
from gateway.channel import Series, Usage
from gateway.control.metrics.busiest_keys import BusiestKeys
from gateway.control.metrics.exposition import SAMPLES_AT_ONCE, Exposition
from gateway.control.metrics.initial_series import ROUTES, SOURCE_OUTCOMES, start_at_zero
from gateway.control.metrics.metric_totals import HISTOGRAM_VALUES, Labels, MetricTotals
from gateway.metrics import Kind
from gateway.outcome import OUTCOMES, AuthOutcome, Result

BACKENDS = [("otlp_grpc", ["collector:4317"])]
MEASURED: Mapping[str, Mapping[Labels, float]] = {
    metrics.WORKERS.name: {(): 2},
    metrics.WORKERS_UNSTEADY.name: {(): 0},
}


class Fixture:
    """An exposition as it is right after the start."""

    def __init__(self) -> None:
        self.totals = MetricTotals()
        self.busiest_keys = BusiestKeys()
        start_at_zero(self.totals, BACKENDS, ["sqlite"])
        self.exposition = Exposition(
            self.totals,
            self.busiest_keys,
            lambda key_id: f"name {key_id}",
            [lambda: MEASURED],
            self.backends,
        )

    def backends(self) -> list[tuple[str, list[str]]]:
        return BACKENDS

    def families(self) -> dict[str, Family]:
        _, pieces = self.exposition.pieces("")
        body = b"".join(pieces)
        return {family.name: family for family in parse_text(body.decode())}

    def value(self, sample: str, **labels: str) -> float | None:
        return next(
            (
                found.value
                for family in self.families().values()
                for found in family.samples
                if found.name == sample and found.labels == labels
            ),
            None,
        )


@pytest.fixture
def exposed() -> Fixture:
    return Fixture()


def test_every_metric_of_the_catalogue_is_exposed_with_its_kind_and_help(exposed: Fixture) -> None:
    families = exposed.families()
    for metric in metrics.METRICS:
        family = families.pop(metric.name.removesuffix("_total"))
        assert family.type == metric.kind
        assert family.documentation == metric.help
    assert not families


OPEN_SETS = {  # whose labels' values nobody knows before they occur
    metrics.KEYS,
    metrics.KEY_LAST_USED,
    metrics.KEY_EXPIRY,
    metrics.KEY_STORE_UP,
    metrics.KEY_STORE_SYNC,
    metrics.KEY_STORE_REVISION,
    metrics.KEY_STORE_ERRORS,
    metrics.CONFIG_RELOAD_OK,
    metrics.TLS_FILES_OK,
    metrics.CONFIG_RELOAD_AT,
    metrics.CERTIFICATE_EXPIRY,
    metrics.CRL_NEXT_UPDATE,
    metrics.BUILD_INFO,  # all of these are measured by control, see test_control_gauges
    metrics.BACKEND_UP,  # absent until the first connection
}


@pytest.mark.parametrize(
    "metric", [m for m in metrics.METRICS if m not in OPEN_SETS], ids=lambda metric: metric.name
)
def test_every_metric_of_closed_labels_has_series_from_the_start(
    exposed: Fixture, metric: metrics.Metric
) -> None:
    family = exposed.families()[metric.name.removesuffix("_total")]
    assert family.samples
    assert {sample.value for sample in family.samples} <= {0.0, 2.0}


def test_every_outcome_of_the_table_has_a_request_series_from_the_start(exposed: Fixture) -> None:
    family = exposed.families()["gateway_requests"]
    found = {
        tuple(sample.labels[label] for label in metrics.REQUESTS.labels)
        for sample in family.samples
    }
    for protocol, signal in ROUTES:
        results = {labels[3] for labels in found if labels[:2] == (protocol, signal)}
        assert results == {outcome.result for outcome in OUTCOMES} | {Result.ACCEPTED}
    unrouted = {labels[3] for labels in found if labels[:2] == ("http", "none")}
    assert {"accepted", "not_found", "malformed"} <= unrouted
    assert "denied" not in unrouted
    assert ("grpc", "traces", "RESOURCE_EXHAUSTED", "quota") in found
    assert ("grpc", "traces", "415", "media_type") in found
    assert ("http", "logs", "413", "too_large") in found
    assert ("intake", "intake", "403", "denied") in found
    assert ("intake", "intake", "503", "undecided") in found


def test_every_outcome_of_a_key_can_come_from_somewhere() -> None:
    outcomes = {outcome for each in SOURCE_OUTCOMES.values() for outcome in each}
    assert outcomes == set(AuthOutcome)
    assert set(SOURCE_OUTCOMES) == set(metrics.SOURCES)


def test_what_workers_count_is_seen_in_the_next_scrape(exposed: Fixture) -> None:
    exposed.totals.add([Series(metrics.REQUESTS.name, ("grpc", "traces", "OK", "accepted"), 3)])
    exposed.totals.set_gauges("worker", [Series(metrics.CONNECTIONS.name, (), 5)])
    labels = {"protocol": "grpc", "signal": "traces", "code": "OK", "result": "accepted"}
    assert exposed.value("gateway_requests_total", **labels) == 3
    assert exposed.value("gateway_connections") == 5


def test_a_histogram_s_buckets_are_cumulated_and_end_with_their_count(exposed: Fixture) -> None:
    values = [0.0] * HISTOGRAM_VALUES
    values[0], values[2], values[-2], values[-1] = 1, 2, 4, 9.5
    exposed.totals.add([Series(metrics.BACKEND_DURATION.name, ("intake",), values)])
    name = metrics.BACKEND_DURATION.name
    bucket = f"{name}_bucket"
    assert exposed.value(bucket, backend="intake", le="2e-06") == 1
    assert exposed.value(bucket, backend="intake", le="4e-06") == 1
    assert exposed.value(bucket, backend="intake", le="8e-06") == 3
    assert exposed.value(bucket, backend="intake", le="67.108864") == 3
    assert exposed.value(bucket, backend="intake", le="+Inf") == 7
    assert exposed.value(f"{name}_count", backend="intake") == 7
    assert exposed.value(f"{name}_sum", backend="intake") == 9.5


def test_a_key_s_traffic_is_shown_with_its_name_and_the_rest_as_other(exposed: Fixture) -> None:
    exposed.busiest_keys.add([Usage("7", "allowed", 3, 300, 0)])
    exposed.busiest_keys.other.add(Usage("8", "key_expired", 2, 20, 0))
    key = {"key_id": "7", "key_name": "name 7"}
    other = {"key_id": "other", "key_name": ""}
    assert exposed.value("gateway_key_requests_total", **key, outcome="allowed") == 3
    assert exposed.value("gateway_key_bytes_total", **key, outcome="allowed") == 300
    assert exposed.value("gateway_key_requests_total", **other, outcome="key_expired") == 2
    assert exposed.value("gateway_key_requests_total", **other, outcome="allowed") == 0


def test_backends_of_a_new_configuration_get_their_series(exposed: Fixture) -> None:
    new = [("otlp_http", ["other:4318"])]
    start_at_zero(exposed.totals, new)
    labels = {"backend": "otlp_http", "address": "other:4318"}
    assert exposed.value("gateway_backend_connect_errors_total", **labels) == 0


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2",
        "application/openmetrics-text",
    ],
)
async def test_openmetrics_is_given_where_it_is_asked_for(exposed: Fixture, accept: str) -> None:
    body, content_type = await exposed.exposition.render(accept)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = list(parse_openmetrics(body.decode()))  # type: ignore[no-untyped-call] # untyped there
    assert len(families) == len(metrics.METRICS)


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/plain;version=0.0.4",
        "application/openmetrics-text;version=rubbish",
        "a;;=,",
    ],
)
async def test_text_is_given_otherwise(exposed: Fixture, accept: str) -> None:
    body, content_type = await exposed.exposition.render(accept)
    assert content_type.startswith("text/plain")
    assert body.startswith(b"# HELP gateway_requests_total ")


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
async def test_a_page_in_pieces_is_the_page_that_is_written_at_once(
    exposed: Fixture, accept: str
) -> None:
    usages = [
        Usage(key_id=f"k{number}", outcome="allowed", requests=number, bytes=1, last_used_ms=1)
        for number in range(3 * SAMPLES_AT_ONCE)
    ]
    exposed.busiest_keys.add(usages)
    encode, _ = encoders.choose_encoder(accept)
    body, _ = await exposed.exposition.render(accept)
    assert body == encode(exposed.exposition)


async def test_others_are_served_while_a_page_is_written_and_pages_take_turns(
    exposed: Fixture,
) -> None:
    _, pieces = exposed.exposition.pieces("")
    lengths = [
        sum(not line.startswith(b"#") for line in piece.split(b"\n")[:-1]) for piece in pieces
    ]
    assert max(lengths) <= SAMPLES_AT_ONCE
    turns = 0
    ended: list[int] = []

    async def scrape() -> None:
        await exposed.exposition.render("")
        ended.append(turns)

    scrapes = asyncio.gather(scrape(), scrape())
    while not scrapes.done():
        await asyncio.sleep(0)
        turns += 1
    assert ended[0] >= len(lengths)
    assert ended[1] >= ended[0] + len(lengths)


def test_no_metric_of_a_worker_is_one_that_control_measures() -> None:
    of_control = {metric for metric in metrics.METRICS if not metric.from_worker}
    assert metrics.INTERNAL_ERRORS not in of_control
    assert all(metric.kind is not Kind.HISTOGRAM or metric.labels for metric in of_control)
