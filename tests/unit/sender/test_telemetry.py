from __future__ import annotations

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.model import Signal
from gateway.otlp import json_codec
from gateway.otlp.services import SERVICES, item_count, service_names
from gateway.sender.telemetry import Round, new_round

STARTED_NS = 1_700_000_000_000_000_000


@pytest.fixture(name="sample")
def _sample() -> Round:
    return new_round(3, STARTED_NS)


def _traces(sample: Round) -> ExportTraceServiceRequest:
    request = sample.request(Signal.TRACES)
    assert isinstance(request, ExportTraceServiceRequest)
    return request


@pytest.mark.parametrize(
    "signal, items",
    [(Signal.TRACES, 3), (Signal.METRICS, 3), (Signal.LOGS, 2), (Signal.PROFILES, 1)],
)
def test_every_signal_has_items_and_names_its_service(
    sample: Round, signal: Signal, items: int
) -> None:
    request = sample.request(signal)
    assert item_count(request) == items
    assert service_names(request) == ("gateway-send",)


@pytest.mark.parametrize("signal", SERVICES)
def test_samples_survive_otlp_json(sample: Round, signal: Signal) -> None:
    request = sample.request(signal)
    assert json_codec.decode(type(request), json_codec.encode(request)) == request


def test_a_trace_is_a_tree_under_one_root_within_its_time(sample: Round) -> None:
    root, *children = _traces(sample).resource_spans[0].scope_spans[0].spans
    assert root.parent_span_id == b""
    for child in children:
        assert child.parent_span_id == root.span_id
        assert child.trace_id == root.trace_id
        assert root.start_time_unix_nano <= child.start_time_unix_nano
        assert child.start_time_unix_nano < child.end_time_unix_nano <= root.end_time_unix_nano
    assert len({span.span_id for span in (root, *children)}) == 3


def test_logs_exemplar_and_profile_name_the_trace(sample: Round) -> None:
    spans = _traces(sample).resource_spans[0].scope_spans[0].spans
    logs, metrics = sample.request(Signal.LOGS), sample.request(Signal.METRICS)
    profiles = sample.request(Signal.PROFILES)
    assert isinstance(logs, ExportLogsServiceRequest)
    assert isinstance(metrics, ExportMetricsServiceRequest)
    assert isinstance(profiles, ExportProfilesServiceRequest)
    records = logs.resource_logs[0].scope_logs[0].log_records
    histogram = metrics.resource_metrics[0].scope_metrics[0].metrics[2].histogram
    exemplar = histogram.data_points[0].exemplars[0]
    assert {record.trace_id for record in records} == {spans[0].trace_id}
    assert (exemplar.trace_id, exemplar.span_id) == (spans[0].trace_id, spans[0].span_id)
    assert profiles.dictionary.link_table[1].trace_id == spans[0].trace_id


def test_the_metrics_are_a_gauge_a_growing_sum_and_a_histogram(sample: Round) -> None:
    request = sample.request(Signal.METRICS)
    assert isinstance(request, ExportMetricsServiceRequest)
    gauge, total, histogram = request.resource_metrics[0].scope_metrics[0].metrics
    kinds = [metric.WhichOneof("data") for metric in (gauge, total, histogram)]
    assert kinds == ["gauge", "sum", "histogram"]
    assert total.sum.is_monotonic
    assert total.sum.data_points[0].as_int == sample.number
    point = histogram.histogram.data_points[0]
    assert sum(point.bucket_counts) == point.count == 1
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1


def test_every_table_of_a_profile_begins_with_an_empty_entry(sample: Round) -> None:
    request = sample.request(Signal.PROFILES)
    assert isinstance(request, ExportProfilesServiceRequest)
    tables = request.dictionary
    assert tables.string_table[0] == ""
    for field, table in tables.ListFields():
        if field.name != "string_table":
            assert table[0] == type(table[0])(), field.name


def test_a_profile_points_only_at_what_is_there(sample: Round) -> None:
    request = sample.request(Signal.PROFILES)
    assert isinstance(request, ExportProfilesServiceRequest)
    tables = request.dictionary
    sample_ = request.resource_profiles[0].scope_profiles[0].profiles[0].samples[0]
    stack = tables.stack_table[sample_.stack_index]
    functions = [
        tables.function_table[tables.location_table[index].lines[0].function_index]
        for index in stack.location_indices
    ]
    names = [tables.string_table[function.name_strindex] for function in functions]
    assert names == ["pay", "checkout"]


def test_no_two_rounds_share_an_id() -> None:
    rounds = [new_round(number, STARTED_NS) for number in range(1, 101)]
    assert len({sample.trace_id for sample in rounds}) == 100
    assert len({span_id for sample in rounds for span_id in sample.span_ids}) == 300


def test_there_is_no_otlp_sample_for_the_agent_intake(sample: Round) -> None:
    with pytest.raises(ValueError, match="not OTLP"):
        sample.request(Signal.INTAKE)
