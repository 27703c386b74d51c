"""The OpenTelemetry Python SDK's own exporters as senders of numbered items.

The items are made by the SDK (tracer, meter, logger), so what leaves is what an application sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
    OTLPMetricExporter as GrpcMetrics,
)
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
    OTLPMetricExporter as HttpMetrics,
)
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.bodies import NUMBER, SERVICE, SIGNALS

SDK_SIGNALS = ("traces", "metrics", "logs")
"""The signals that the SDK can send."""

_RESOURCE = Resource({"service.name": SERVICE})

_GRPC_COMPRESSION = {
    "none": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}
_GRPC_EXPORTERS: dict[str, Any] = {"traces": GrpcSpans, "metrics": GrpcMetrics, "logs": GrpcLogs}
_HTTP_EXPORTERS: dict[str, Any] = {"traces": HttpSpans, "metrics": HttpMetrics, "logs": HttpLogs}


def _spans(numbers: Iterable[int]) -> Sequence[ReadableSpan]:
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=_RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("tests")
    for number in numbers:
        with tracer.start_as_current_span(f"item {number}", attributes={NUMBER: number}):
            pass
    provider.shutdown()
    return memory.get_finished_spans()


def _metrics(numbers: Iterable[int]) -> MetricsData:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], resource=_RESOURCE, shutdown_on_exit=False)
    counter = provider.get_meter("tests").create_counter("items")
    for number in numbers:
        counter.add(1, {NUMBER: number})
    data = reader.get_metrics_data()
    provider.shutdown()
    assert data is not None
    return data


def _logs(numbers: Iterable[int]) -> Sequence[ReadableLogRecord]:
    memory = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # untyped in the SDK
    provider = LoggerProvider(resource=_RESOURCE, shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(memory))
    logger = provider.get_logger("tests")
    for number in numbers:
        record = LogRecord(
            severity_number=SeverityNumber.INFO, body=f"item {number}", attributes={NUMBER: number}
        )
        logger.emit(record)
    records = memory.get_finished_logs()
    provider.shutdown()
    return records


_MAKERS: dict[str, Any] = {"traces": _spans, "metrics": _metrics, "logs": _logs}


@dataclass(frozen=True, slots=True)
class SdkSender:
    """How the SDK's exporters are set up."""

    protocol: Literal["grpc", "http"]
    port: int
    authorization: str
    """The header's value; empty sends none."""
    compression: str = "none"
    ca_file: Path | None = None
    """TLS with this authority; None is cleartext."""
    timeout_s: float = 10.0
    """The exporter's whole budget, retries included: the SDK's own default."""

    async def send(self, signal: str, numbers: Iterable[int]) -> bool:
        """Export one batch and return whether the exporter calls it a success.

        False means that the batch is lost: the SDK's processors do not offer it again.
        """
        return await asyncio.to_thread(self._send, signal, list(numbers))

    def _send(self, signal: str, numbers: list[int]) -> bool:
        data = _MAKERS[signal](numbers)
        exporter = self._grpc(signal) if self.protocol == "grpc" else self._http(signal)
        try:
            return bool(exporter.export(data).name == "SUCCESS")
        finally:
            exporter.shutdown()

    def _grpc(self, signal: str) -> Any:
        credentials = None
        if self.ca_file is not None:
            credentials = grpc.ssl_channel_credentials(self.ca_file.read_bytes())
        return _GRPC_EXPORTERS[signal](
            endpoint=f"localhost:{self.port}",
            insecure=credentials is None,
            credentials=credentials,
            headers={"authorization": self.authorization} if self.authorization else {},
            timeout=self.timeout_s,
            compression=_GRPC_COMPRESSION[self.compression],
        )

    def _http(self, signal: str) -> Any:
        scheme = "http" if self.ca_file is None else "https"
        return _HTTP_EXPORTERS[signal](
            endpoint=f"{scheme}://localhost:{self.port}{SIGNALS[signal].http_path}",
            certificate_file=None if self.ca_file is None else str(self.ca_file),
            headers={"Authorization": self.authorization} if self.authorization else {},
            timeout=self.timeout_s,
            compression=Compression(self.compression),
        )
