"""The four OTLP services: paths, messages, and the contents of requests.

Paths and partial-success counters are those of the OTLP specification 1.x (opentelemetry-proto,
`docs/specification.md`, "OTLP/gRPC" and "OTLP/HTTP Request").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
    ExportProfilesServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from gateway.model import Signal

ExportRequest = (
    ExportTraceServiceRequest
    | ExportMetricsServiceRequest
    | ExportLogsServiceRequest
    | ExportProfilesServiceRequest
)
"""A batch of one of the four signals."""


@dataclass(frozen=True, slots=True)
class Service:
    """One signal's collector service."""

    signal: Signal
    grpc_path: str
    """The full method, as in `:path`."""
    http_path: str
    request: type[ExportRequest]
    response: type[Message]
    item: str
    """The unit of a batch, singular; also part of the name of the partial-success counter."""
    rejected_field: str
    """Field of `partial_success` that counts the items that the server rejected."""

    def count(self, amount: int) -> str:
        """Format an amount with its unit: `1 span`, `3 spans`."""
        return f"{amount} {self.item}{'' if amount == 1 else 's'}"


SERVICES: Final[dict[Signal, Service]] = {
    Signal.TRACES: Service(
        Signal.TRACES,
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        "/v1/traces",
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
        "span",
        "rejected_spans",
    ),
    Signal.METRICS: Service(
        Signal.METRICS,
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        "/v1/metrics",
        ExportMetricsServiceRequest,
        ExportMetricsServiceResponse,
        "data point",
        "rejected_data_points",
    ),
    Signal.LOGS: Service(
        Signal.LOGS,
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        "/v1/logs",
        ExportLogsServiceRequest,
        ExportLogsServiceResponse,
        "log record",
        "rejected_log_records",
    ),
    Signal.PROFILES: Service(
        Signal.PROFILES,
        "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export",
        "/v1development/profiles",
        ExportProfilesServiceRequest,
        ExportProfilesServiceResponse,
        "profile",
        "rejected_profiles",
    ),
}
"""The table of OTLP's signals."""

BY_GRPC_PATH: Final = {service.grpc_path: service for service in SERVICES.values()}
BY_HTTP_PATH: Final = {service.http_path: service for service in SERVICES.values()}

SERVICE_NAME: Final = "service.name"
"""The resource attribute that says which program the telemetry is about (semantic conventions)."""


def service_names(request: ExportRequest) -> tuple[str, ...]:
    """Return the distinct `service.name` values of a request, in order of appearance."""
    names = {
        attribute.value.string_value: None
        for resource in _resources(request)
        for attribute in resource.attributes
        if attribute.key == SERVICE_NAME and attribute.value.string_value
    }
    return tuple(names)


def item_count(request: ExportRequest) -> int:
    """Count the items of a request: spans, data points, log records or profiles."""
    match request:
        case ExportTraceServiceRequest():
            return sum(len(s.spans) for r in request.resource_spans for s in r.scope_spans)
        case ExportMetricsServiceRequest():
            return sum(
                _data_points(metric)
                for resource in request.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
            )
        case ExportLogsServiceRequest():
            return sum(len(s.log_records) for r in request.resource_logs for s in r.scope_logs)
        case ExportProfilesServiceRequest():
            return sum(len(s.profiles) for r in request.resource_profiles for s in r.scope_profiles)


def _data_points(metric: Metric) -> int:
    """Count a metric's data points, whatever its kind."""
    kind = metric.WhichOneof("data")
    return 0 if kind is None else len(getattr(metric, kind).data_points)


def _resources(request: ExportRequest) -> Iterator[Resource]:
    """Iterate over the resources, whatever the signal."""
    match request:
        case ExportTraceServiceRequest():
            yield from (entry.resource for entry in request.resource_spans)
        case ExportMetricsServiceRequest():
            yield from (entry.resource for entry in request.resource_metrics)
        case ExportLogsServiceRequest():
            yield from (entry.resource for entry in request.resource_logs)
        case ExportProfilesServiceRequest():
            yield from (entry.resource for entry in request.resource_profiles)
