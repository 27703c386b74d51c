"""Open what the sink recorded: decompress, parse, count and read back the numbered items.

Written for the tests alone: the gateway never opens a body, and the debug receiver's own decoder
must not judge itself.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from tests.support.bodies import NUMBER, SIGNALS, Batch, number_of_profile
from tests.support.encodings import decompress
from tests.support.exchange import JSON, Request

_HEX_IDS = re.compile(r'"(traceId|spanId|parentSpanId)"\s*:\s*"([0-9a-fA-F]*)"')


def payload(request: Request) -> bytes:
    """Return the plain protobuf or JSON bytes of a recorded request."""
    if not request.is_grpc:
        return decompress(request.body, request.field("content-encoding"))
    (message,) = request.messages
    encoding = request.field("grpc-encoding") if message.compressed else None
    return decompress(message.data, encoding)


def signal_of(request: Request) -> str:
    """Return which signal a request's path carries.

    Raises:
        LookupError: the path is none of OTLP's.

    """
    for name, signal in SIGNALS.items():
        if request.path in (signal.grpc_path, signal.http_path):
            return name
    message = f"{request.path} is no path of OTLP"
    raise LookupError(message)


def batch_of(request: Request) -> Batch:
    """Parse a recorded request (raises google.protobuf's DecodeError or ParseError)."""
    batch = SIGNALS[signal_of(request)].request()
    data = payload(request)
    if request.content_type == JSON:
        json_format.Parse(_plain_ids(data.decode()), batch, ignore_unknown_fields=True)
    else:
        batch.ParseFromString(data)
    return batch


def _plain_ids(text: str) -> str:
    """Rewrite OTLP/JSON's hexadecimal ids into the base64 of protobuf's own JSON."""

    def to_base64(match: re.Match[str]) -> str:
        return f'"{match[1]}": "{base64.b64encode(bytes.fromhex(match[2])).decode()}"'

    return _HEX_IDS.sub(to_base64, text)


def count(batch: Batch) -> int:
    """Return how many spans, data points, log records or profiles a batch holds."""
    return sum(1 for _ in _items(batch))


def numbers(batch: Batch) -> list[int]:
    """Return the numbers that `bodies` gave to a batch's items, in order.

    Raises:
        LookupError: an item without a number.

    """
    return [_number(item) for item in _items(batch)]


def _number(item: Any) -> int:
    if hasattr(item, "profile_id"):
        return number_of_profile(item)
    attributes: list[KeyValue] = list(item.attributes)
    for attribute in attributes:
        if attribute.key == NUMBER:
            return attribute.value.int_value
    message = f"an item without a number: {item}"
    raise LookupError(message)


_PARTS = {
    ExportTraceServiceRequest: ("resource_spans", "scope_spans", "spans"),
    ExportMetricsServiceRequest: ("resource_metrics", "scope_metrics", "metrics"),
    ExportLogsServiceRequest: ("resource_logs", "scope_logs", "log_records"),
    ExportProfilesServiceRequest: ("resource_profiles", "scope_profiles", "profiles"),
}


def _items(batch: Batch) -> Iterator[Any]:
    resources, scopes, items = _PARTS[type(batch)]
    for resource in getattr(batch, resources):
        for scope in getattr(resource, scopes):
            for item in getattr(scope, items):
                yield from _points(item) if isinstance(item, Metric) else (item,)


def _points(metric: Metric) -> Iterator[Any]:
    kind = metric.WhichOneof("data")
    if kind is not None:
        yield from getattr(metric, kind).data_points
