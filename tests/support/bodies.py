"""OTLP batches whose items carry numbers, so that a test can tell what arrived, and how often."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import SEVERITY_NUMBER_INFO
from opentelemetry.proto.profiles.v1development.profiles_pb2 import Profile
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Batch = (
    ExportTraceServiceRequest
    | ExportMetricsServiceRequest
    | ExportLogsServiceRequest
    | ExportProfilesServiceRequest
)

NUMBER: Final = "test.number"
"""The attribute that carries an item's number."""

SERVICE: Final = "numbered"
"""`service.name` of every batch made here."""

_NOW_NS: Final = 1_760_000_000_000_000_000


@dataclass(frozen=True, slots=True)
class SignalUnderTest:
    """Where a signal goes, what it is made of, and how to make a batch of it."""

    grpc_path: str
    http_path: str
    request: Callable[[], Batch]
    make: Callable[[Iterable[int]], Batch]


def _describe(resource: Resource) -> None:
    attribute = resource.attributes.add(key="service.name")
    attribute.value.string_value = SERVICE


def _id(number: int, size: int) -> bytes:
    """Return an id that is the same in every run and never all zeros."""
    return hashlib.sha256(str(number).encode()).digest()[:size]


def traces(numbers: Iterable[int]) -> ExportTraceServiceRequest:
    """Return one span for each number."""
    batch = ExportTraceServiceRequest()
    spans = batch.resource_spans.add()
    _describe(spans.resource)
    scope = spans.scope_spans.add()
    for number in numbers:
        span = scope.spans.add(
            trace_id=_id(number, 16),
            span_id=_id(number, 8),
            name=f"GET /items/{number}",
            kind=Span.SPAN_KIND_SERVER,
            start_time_unix_nano=_NOW_NS,
            end_time_unix_nano=_NOW_NS + 1_000_000,
        )
        span.attributes.add(key=NUMBER).value.int_value = number
    return batch


def metrics(numbers: Iterable[int]) -> ExportMetricsServiceRequest:
    """Return one gauge with a data point for each number."""
    batch = ExportMetricsServiceRequest()
    resource = batch.resource_metrics.add()
    _describe(resource.resource)
    metric = resource.scope_metrics.add().metrics.add(name="test.value", unit="1")
    for number in numbers:
        point = metric.gauge.data_points.add(time_unix_nano=_NOW_NS, as_int=number)
        point.attributes.add(key=NUMBER).value.int_value = number
    return batch


def logs(numbers: Iterable[int]) -> ExportLogsServiceRequest:
    """Return one log record for each number."""
    batch = ExportLogsServiceRequest()
    resource = batch.resource_logs.add()
    _describe(resource.resource)
    scope = resource.scope_logs.add()
    for number in numbers:
        record = scope.log_records.add(
            time_unix_nano=_NOW_NS,
            observed_time_unix_nano=_NOW_NS,
            severity_number=SEVERITY_NUMBER_INFO,
            severity_text="INFO",
        )
        record.body.string_value = f"item {number} was stored"
        record.attributes.add(key=NUMBER).value.int_value = number
    return batch


def profiles(numbers: Iterable[int]) -> ExportProfilesServiceRequest:
    """Return one profile for each number; the number is the profile's id.

    Index 0 of every table of the dictionary is the zero value (profiles.proto).
    """
    batch = ExportProfilesServiceRequest()
    dictionary = batch.dictionary
    dictionary.string_table.extend(["", "cpu", "nanoseconds"])
    dictionary.mapping_table.add()
    dictionary.location_table.add()
    dictionary.function_table.add()
    dictionary.link_table.add()
    dictionary.attribute_table.add()
    dictionary.stack_table.add()
    resource = batch.resource_profiles.add()
    _describe(resource.resource)
    scope = resource.scope_profiles.add()
    for number in numbers:
        profile = scope.profiles.add(
            profile_id=number.to_bytes(16, "big"),
            time_unix_nano=_NOW_NS,
            duration_nano=1_000_000,
        )
        profile.sample_type.type_strindex = 1
        profile.sample_type.unit_strindex = 2
        profile.samples.add(values=[number])
    return batch


def number_of_profile(profile: Profile) -> int:
    """Return the number that `profiles` gave."""
    return int.from_bytes(profile.profile_id, "big")


_COLLECTOR: Final = "/opentelemetry.proto.collector"

SIGNALS: Final[dict[str, SignalUnderTest]] = {
    "traces": SignalUnderTest(
        f"{_COLLECTOR}.trace.v1.TraceService/Export",
        "/v1/traces",
        ExportTraceServiceRequest,
        traces,
    ),
    "metrics": SignalUnderTest(
        f"{_COLLECTOR}.metrics.v1.MetricsService/Export",
        "/v1/metrics",
        ExportMetricsServiceRequest,
        metrics,
    ),
    "logs": SignalUnderTest(
        f"{_COLLECTOR}.logs.v1.LogsService/Export",
        "/v1/logs",
        ExportLogsServiceRequest,
        logs,
    ),
    "profiles": SignalUnderTest(
        f"{_COLLECTOR}.profiles.v1development.ProfilesService/Export",
        "/v1development/profiles",
        ExportProfilesServiceRequest,
        profiles,
    ),
}


def _json_resource() -> dict[str, Any]:
    return {"attributes": [{"key": "service.name", "value": {"stringValue": SERVICE}}]}


def _json_number(number: int) -> list[dict[str, Any]]:
    """Write a 64-bit integer as a decimal string, as proto3's JSON does."""
    return [{"key": NUMBER, "value": {"intValue": str(number)}}]


def _json_span(number: int) -> dict[str, Any]:
    return {
        "traceId": _id(number, 16).hex().upper(),
        "spanId": _id(number, 8).hex(),
        "name": f"GET /items/{number}",
        "kind": 2,
        "startTimeUnixNano": str(_NOW_NS),
        "endTimeUnixNano": str(_NOW_NS + 1_000_000),
        "attributes": _json_number(number),
    }


def _json_point(number: int) -> dict[str, Any]:
    return {
        "timeUnixNano": str(_NOW_NS),
        "asInt": str(number),
        "attributes": _json_number(number),
    }


def _json_log(number: int) -> dict[str, Any]:
    return {
        "timeUnixNano": str(_NOW_NS),
        "severityNumber": 9,
        "severityText": "INFO",
        "body": {"stringValue": f"item {number} was stored"},
        "attributes": _json_number(number),
    }


def json_body(signal: str, numbers: Iterable[int]) -> bytes:
    """Return a batch in OTLP/JSON, written by hand after the specification's rules.

    Ids are hexadecimal in either case, enums are integers, 64-bit integers are decimal strings,
    names are lowerCamelCase, and a field that no receiver knows must be ignored ("JSON Protobuf
    Encoding").
    """
    body: dict[str, Any]
    match signal:
        case "traces":
            scope = {"spans": [_json_span(n) for n in numbers]}
            body = {"resourceSpans": [{"resource": _json_resource(), "scopeSpans": [scope]}]}
        case "metrics":
            points = [_json_point(n) for n in numbers]
            metric = {"name": "test.value", "unit": "1", "gauge": {"dataPoints": points}}
            scope = {"metrics": [metric]}
            body = {"resourceMetrics": [{"resource": _json_resource(), "scopeMetrics": [scope]}]}
        case "logs":
            scope = {"logRecords": [_json_log(n) for n in numbers]}
            body = {"resourceLogs": [{"resource": _json_resource(), "scopeLogs": [scope]}]}
        case _:
            message = f"no JSON bodies for {signal}"
            raise LookupError(message)
    body["aFieldOfTheFuture"] = {"nested": [1, "two", None]}
    return json.dumps(body).encode()
