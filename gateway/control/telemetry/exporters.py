"""Makes the OTLP exporters of opentelemetry-sdk as `telemetry` in the configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import (
    OTLPLogExporter as GrpcLogExporter,
)
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
    OTLPMetricExporter as GrpcMetricExporter,
)
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GrpcSpanExporter,
)
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import (
    OTLPLogExporter as HttpLogExporter,
)
from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
    OTLPMetricExporter as HttpMetricExporter,
)
from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
    OTLPSpanExporter as HttpSpanExporter,
)
from opentelemetry.sdk._logs.export import LogRecordExporter
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace.export import SpanExporter

from gateway.config.telemetry import TelemetryConfig, TelemetryTlsConfig
from gateway.settings import OWN_TELEMETRY_FIELD

TIMEOUT_S: Final = 5
"""How long one export may take, with its repetitions."""


@dataclass(frozen=True, slots=True)
class Exporters:
    """One for each signal."""

    traces: SpanExporter
    metrics: MetricExporter
    logs: LogRecordExporter


def make_exporters(telemetry: TelemetryConfig, endpoint: str) -> Exporters:
    """Make all three. Raises `OSError`: a file for TLS cannot be read."""
    headers = {
        name.lower(): value.get_secret_value() for name, value in telemetry.headers.items()
    } | {OWN_TELEMETRY_FIELD: "1"}
    tls = telemetry.tls or TelemetryTlsConfig()
    if telemetry.protocol == "grpc":
        return _over_grpc(endpoint, headers, tls)
    return _over_http(endpoint.rstrip("/"), headers, tls)


def _over_grpc(endpoint: str, headers: Mapping[str, str], tls: TelemetryTlsConfig) -> Exporters:
    is_cleartext = endpoint.startswith("http://")
    credentials = None
    if not is_cleartext:
        credentials = grpc.ssl_channel_credentials(
            _content(tls.ca_file), _content(tls.key_file), _content(tls.cert_file)
        )
    pairs = tuple(headers.items())
    gzip = grpc.Compression.Gzip
    return Exporters(
        GrpcSpanExporter(endpoint, is_cleartext, credentials, pairs, TIMEOUT_S, gzip),
        GrpcMetricExporter(endpoint, is_cleartext, credentials, pairs, TIMEOUT_S, gzip),
        GrpcLogExporter(endpoint, is_cleartext, credentials, pairs, TIMEOUT_S, gzip),
    )


def _over_http(base: str, headers: dict[str, str], tls: TelemetryTlsConfig) -> Exporters:
    files = _path(tls.ca_file), _path(tls.key_file), _path(tls.cert_file)
    gzip = Compression.Gzip
    return Exporters(
        HttpSpanExporter(f"{base}/v1/traces", *files, headers, TIMEOUT_S, gzip),
        HttpMetricExporter(f"{base}/v1/metrics", *files, headers, TIMEOUT_S, gzip),
        HttpLogExporter(f"{base}/v1/logs", *files, headers, TIMEOUT_S, gzip),
    )


def _content(file: Path | None) -> bytes | None:
    return None if file is None else file.read_bytes()


def _path(file: Path | None) -> str | None:
    return None if file is None else str(file)
