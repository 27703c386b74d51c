"""A real OpenTelemetry Collector takes all that the gateway exports of itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.clients import http1_request
from tests.support.collector import running_collector
from tests.support.polling import until
from tests.support.process import running_gateway

SHOWN = ("otlp-gateway", "gateway_requests_total", "Body: Str(ready)", "http other")
"""What the Collector's `debug` exporter prints of it: the resource, a metric, a line, a span."""


async def test_a_collector_gets_spans_metrics_and_lines_of_the_log(
    tmp_path: Path, tool: Callable[[str], Path]
) -> None:
    part = {"exporters": {"debug": {"verbosity": "detailed"}}}
    (tmp_path / "collector").mkdir()
    async with running_collector(tool("otelcol"), tmp_path / "collector", part) as collector:
        telemetry = {
            "endpoint": f"http://127.0.0.1:{collector.http_port}",
            "protocol": "http/protobuf",
            "sample_ratio": 1,
            "metrics_interval": "1s",
        }
        async with running_gateway(tmp_path, {"telemetry": telemetry}) as gateway:
            await http1_request(gateway.port, "/nowhere", (("host", "h"),))
            for text in SHOWN:
                try:
                    await until(lambda text=text: bool(collector.logged(text)))  # type: ignore[misc]
                except TimeoutError:
                    pytest.fail(f"no {text} in:\n{collector.program.output}")
