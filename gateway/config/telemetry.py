"""The settings of the gateway's own telemetry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from gateway.config.node import Node
from gateway.config.units import Duration
from gateway.config.values import FilePath, Token, Url

MAX_REQUESTS = 1000
_LEAST_INTERVAL_S = 1.0


def _as_ratio(value: object) -> object:
    """Accept a percentage, and digits: values from the environment are text."""
    if isinstance(value, str) and value.endswith("%"):
        try:
            return float(value[:-1]) / 100
        except ValueError:
            return value
    return value


Ratio = Annotated[float, BeforeValidator(_as_ratio), Field(ge=0, le=1)]


class TelemetryTlsConfig(Node):
    """TLS towards the endpoint."""

    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None


class TelemetryConfig(Node):
    """Where the gateway sends traces, metrics and logs of its own, and how much of them."""

    endpoint: Url | None = None
    protocol: Literal["grpc", "http/protobuf"] = "grpc"
    headers: dict[Token, SecretStr] = {}
    tls: TelemetryTlsConfig | None = None
    sample_ratio: Ratio = 0.01
    max_requests_per_second: Annotated[int, Field(ge=0, le=MAX_REQUESTS)] = 20
    metrics_interval: Annotated[Duration, Field(ge=0)] = 60.0
    logs: bool = True
