"""Sample telemetry like that of a real program: one checkout in a small shop per round.

The signals of a round belong together: the logs, the histogram's exemplar and the profile's sample
refer to the trace and span in the traces.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final, assert_never

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import SeverityNumber
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.profiles.v1development.profiles_pb2 import ProfilesDictionary
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gateway import __version__
from gateway.model import Signal
from gateway.otlp.services import SERVICE_NAME, ExportRequest

SAMPLE_SERVICE: Final = "gateway-send"
"""`service.name` of all telemetry that is sent."""

_MS: Final = 1_000_000
"""Nanoseconds in a millisecond."""
_CHECKOUT_MS: Final = 42.0
_BOUNDS_MS: Final = (5.0, 10.0, 25.0, 50.0, 100.0, 250.0)
_SCOPE: Final = InstrumentationScope(name="gateway.send", version=__version__)


def _attributes(**values: str | int) -> list[KeyValue]:
    """Build attributes; underscores in names become the dots of the semantic conventions."""
    return [
        KeyValue(key=name.replace("_", "."), value=_any_value(value))
        for name, value in values.items()
    ]


def _any_value(value: str | int) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case str():
            return AnyValue(string_value=value)
        case _:
            assert_never(value)


_RESOURCE: Final = Resource(
    attributes=[
        KeyValue(key=SERVICE_NAME, value=AnyValue(string_value=SAMPLE_SERVICE)),
        *_attributes(
            service_version=__version__,
            deployment_environment_name="test",
            telemetry_sdk_language="python",
            telemetry_sdk_name="otlp-gateway",
            telemetry_sdk_version=__version__,
        ),
    ]
)


@dataclass(frozen=True, slots=True)
class Round:
    """One checkout: the data that all of its signals share."""

    number: int
    """1, 2, …: counters grow with it."""
    started_ns: int
    """Unix time in nanoseconds."""
    trace_id: bytes
    span_ids: tuple[bytes, bytes, bytes]
    """The request, the payment call inside it, the query inside it."""

    def request(self, signal: Signal) -> ExportRequest:
        """Build the batch for one of the four OTLP signals.

        Raises:
            ValueError: it is another signal.
        """
        match signal:
            case Signal.TRACES:
                return self._traces()
            case Signal.METRICS:
                return self._metrics()
            case Signal.LOGS:
                return self._logs()
            case Signal.PROFILES:
                return self._profiles()
            case Signal.INTAKE:
                msg = "the agent intake is not OTLP: there is no sample for it here"
                raise ValueError(msg)
            case _:
                assert_never(signal)

    def _at(self, offset_ms: float) -> int:
        return self.started_ns + int(offset_ms * _MS)

    def _traces(self) -> ExportTraceServiceRequest:
        request = ExportTraceServiceRequest()
        scope = request.resource_spans.add(resource=_RESOURCE).scope_spans.add(scope=_SCOPE)
        root, payment, query = self.span_ids
        scope.spans.append(
            self._span("POST /checkout", Span.SPAN_KIND_SERVER, root, b"", (0, _CHECKOUT_MS))
        )
        scope.spans.append(
            self._span("POST payment", Span.SPAN_KIND_CLIENT, payment, root, (3, 30))
        )
        scope.spans.append(
            self._span("INSERT orders", Span.SPAN_KIND_CLIENT, query, root, (31, 40))
        )
        scope.spans[0].attributes.extend(
            _attributes(http_request_method="POST", url_path="/checkout", cached=False)
        )
        scope.spans[0].attributes.append(
            KeyValue(key="http.response.status_code", value=AnyValue(int_value=200))
        )
        scope.spans[1].events.add(name="card accepted", time_unix_nano=self._at(29))
        scope.spans[2].attributes.extend(
            _attributes(db_system_name="postgresql", db_collection_name="orders")
        )
        return request

    def _span(
        self,
        name: str,
        kind: Span.SpanKind.ValueType,
        span_id: bytes,
        parent: bytes,
        from_to_ms: tuple[float, float],
    ) -> Span:
        return Span(
            trace_id=self.trace_id,
            span_id=span_id,
            parent_span_id=parent,
            name=name,
            kind=kind,
            start_time_unix_nano=self._at(from_to_ms[0]),
            end_time_unix_nano=self._at(from_to_ms[1]),
            status=Status(code=Status.STATUS_CODE_OK),
        )

    def _metrics(self) -> ExportMetricsServiceRequest:
        request = ExportMetricsServiceRequest()
        scope = request.resource_metrics.add(resource=_RESOURCE).scope_metrics.add(scope=_SCOPE)
        now = self._at(_CHECKOUT_MS)
        queue = scope.metrics.add(name="shop.queue.size", unit="{order}", description="Open orders")
        queue.gauge.data_points.add(time_unix_nano=now, as_int=self.number % 7)
        orders = scope.metrics.add(name="shop.orders", unit="{order}", description="Orders so far")
        orders.sum.is_monotonic = True
        orders.sum.aggregation_temporality = (
            AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        )
        orders.sum.data_points.add(
            start_time_unix_nano=self.started_ns,
            time_unix_nano=now,
            as_int=self.number,
            attributes=_attributes(payment="card"),
        )
        duration = scope.metrics.add(
            name="http.server.request.duration", unit="ms", description="Duration of requests"
        )
        duration.histogram.aggregation_temporality = (
            AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
        )
        point = duration.histogram.data_points.add(
            start_time_unix_nano=self.started_ns,
            time_unix_nano=now,
            count=1,
            sum=_CHECKOUT_MS,
            min=_CHECKOUT_MS,
            max=_CHECKOUT_MS,
            explicit_bounds=_BOUNDS_MS,
            bucket_counts=_bucket_counts(_CHECKOUT_MS),
        )
        point.exemplars.add(
            time_unix_nano=now,
            as_double=_CHECKOUT_MS,
            trace_id=self.trace_id,
            span_id=self.span_ids[0],
        )
        return request

    def _logs(self) -> ExportLogsServiceRequest:
        request = ExportLogsServiceRequest()
        scope = request.resource_logs.add(resource=_RESOURCE).scope_logs.add(scope=_SCOPE)
        lines = (
            (1, "INFO", SeverityNumber.SEVERITY_NUMBER_INFO, f"order {self.number} received"),
            (35, "WARN", SeverityNumber.SEVERITY_NUMBER_WARN, "payment took longer than 25 ms"),
        )
        for offset_ms, name, severity, text in lines:
            scope.log_records.add(
                time_unix_nano=self._at(offset_ms),
                observed_time_unix_nano=self._at(offset_ms),
                severity_number=severity,
                severity_text=name,
                body=AnyValue(string_value=text),
                attributes=_attributes(order_number=self.number),
                trace_id=self.trace_id,
                span_id=self.span_ids[0],
                flags=1,
            )
        return request

    def _profiles(self) -> ExportProfilesServiceRequest:
        request = ExportProfilesServiceRequest()
        request.dictionary.CopyFrom(self._dictionary())
        scope = request.resource_profiles.add(resource=_RESOURCE).scope_profiles.add(scope=_SCOPE)
        profile = scope.profiles.add(
            time_unix_nano=self.started_ns, duration_nano=int(_CHECKOUT_MS * _MS), period=10 * _MS
        )
        cpu, nanoseconds = _STRINGS.index("cpu"), _STRINGS.index("nanoseconds")
        for value_type in (profile.sample_type, profile.period_type):
            value_type.type_strindex, value_type.unit_strindex = cpu, nanoseconds
        profile.samples.add(stack_index=1, link_index=1, values=[30 * _MS])
        return request

    def _dictionary(self) -> ProfilesDictionary:
        """Build the tables that the profile refers to; entry 0 of each must be empty."""
        tables = ProfilesDictionary(string_table=_STRINGS)
        tables.mapping_table.add()
        tables.attribute_table.add()
        tables.link_table.add()
        tables.link_table.add(trace_id=self.trace_id, span_id=self.span_ids[1])
        tables.function_table.add()
        tables.location_table.add()
        for position, name in enumerate(("pay", "checkout"), start=1):
            tables.function_table.add(
                name_strindex=_STRINGS.index(name), filename_strindex=_STRINGS.index("shop.py")
            )
            tables.location_table.add().lines.add(function_index=position, line=10 * position)
        tables.stack_table.add()
        tables.stack_table.add(location_indices=[1, 2])
        return tables


_STRINGS: Final = ["", "cpu", "nanoseconds", "pay", "checkout", "shop.py"]


def _bucket_counts(value: float) -> list[int]:
    bucket = sum(value > bound for bound in _BOUNDS_MS)
    return [int(position == bucket) for position in range(len(_BOUNDS_MS) + 1)]


def new_round(number: int, started_ns: int) -> Round:
    """Create a round with new random ids.

    Args:
        number: 1, 2, … within one run.
        started_ns: Unix time in nanoseconds.
    """
    first, second, third = (secrets.token_bytes(8) for _ in range(3))
    return Round(number, started_ns, secrets.token_bytes(16), (first, second, third))
