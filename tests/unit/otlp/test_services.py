from __future__ import annotations

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from gateway.model import Signal
from gateway.otlp.services import SERVICES, ExportRequest, Service, item_count, service_names


def _resource(name: str) -> Resource:
    value = AnyValue(string_value=name)
    return Resource(attributes=[KeyValue(key="service.name", value=value)])


def _metrics() -> ExportMetricsServiceRequest:
    gauge, total, spread, none = Metric(), Metric(), Metric(), Metric(name="no data")
    gauge.gauge.data_points.add()
    total.sum.data_points.add()
    total.sum.data_points.add()
    spread.exponential_histogram.data_points.add()
    request = ExportMetricsServiceRequest()
    request.resource_metrics.add(resource=_resource("shop")).scope_metrics.add(
        metrics=[gauge, total, spread, none]
    )
    return request


def _traces() -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    for name, spans in (("shop", 2), ("cart", 3), ("shop", 0)):
        scope = request.resource_spans.add(resource=_resource(name)).scope_spans.add()
        for _ in range(spans):
            scope.spans.add()
    return request


def _logs() -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    request.resource_logs.add(resource=_resource("shop")).scope_logs.add().log_records.add()
    return request


def _profiles() -> ExportProfilesServiceRequest:
    request = ExportProfilesServiceRequest()
    request.resource_profiles.add(resource=_resource("shop")).scope_profiles.add().profiles.add()
    return request


@pytest.mark.parametrize(
    "request_, items", [(_traces(), 5), (_metrics(), 4), (_logs(), 1), (_profiles(), 1)]
)
def test_items_are_counted_in_the_signals_own_unit(request_: ExportRequest, items: int) -> None:
    assert item_count(request_) == items


@pytest.mark.parametrize("request_", [_metrics(), _logs(), _profiles()])
def test_the_service_is_named_for_every_signal(request_: ExportRequest) -> None:
    assert service_names(request_) == ("shop",)


def test_each_service_is_named_once_in_order() -> None:
    assert service_names(_traces()) == ("shop", "cart")


def test_a_request_without_a_service_name_has_none() -> None:
    request = ExportTraceServiceRequest()
    request.resource_spans.add(resource=_resource(""))
    request.resource_spans.add()
    assert service_names(request) == ()


def test_every_otlp_signal_has_its_service() -> None:
    assert set(SERVICES) == set(Signal) - {Signal.INTAKE}


@pytest.mark.parametrize("service", SERVICES.values(), ids=str)
def test_the_partial_success_counter_is_a_field_of_the_response(service: Service) -> None:
    response = service.response()
    partial = response.DESCRIPTOR.fields_by_name["partial_success"].message_type
    assert partial is not None
    assert service.rejected_field in partial.fields_by_name


def test_amounts_are_written_with_their_unit() -> None:
    service = SERVICES[Signal.METRICS]
    assert (service.count(1), service.count(2)) == ("1 data point", "2 data points")
