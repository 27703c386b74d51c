"""The real senders against the recording backend alone, with no gateway between.

What fails here is a fault of the instruments, and says so before any test blames the gateway.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from tests.support.collector import (
    DROPPED,
    WILL_RETRY,
    Destination,
    running_collector,
    telemetrygen,
)
from tests.support.decode import batch_of, count, numbers, signal_of
from tests.support.sdk import SDK_SIGNALS, SdkSender
from tests.support.sink import Answer, RawSink

COMPRESSIONS = ["none", "gzip", "zstd", "snappy"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_a_collector_reaches_the_sink_with_both_exporters(
    raw_sink: RawSink, tool: Callable[[str], Path], tmp_path: Path, compression: str
) -> None:
    part = {
        "exporters": {
            "otlp": {
                "endpoint": f"127.0.0.1:{raw_sink.grpc_port}",
                "tls": {"insecure": True},
                "compression": compression,
            },
            "otlphttp": {"endpoint": raw_sink.http_url, "compression": compression},
        }
    }
    signals = ["traces", "metrics", "logs", "profiles"]
    async with running_collector(tool("otelcol"), tmp_path, part, signals) as collector:
        for signal in signals:
            await collector.send(signal, range(5))
        requests = await raw_sink.wait_for(8)

    encoding = None if compression == "none" else compression
    seen = set()
    for request in requests:
        seen.add((signal_of(request), request.http_version))
        assert numbers(batch_of(request)) == list(range(5))
        if request.is_grpc:
            assert request.field("grpc-encoding") == encoding
        else:
            assert request.field("content-encoding") == encoding
    assert seen == {(signal, version) for signal in signals for version in ("2", "1.1")}


@pytest.mark.parametrize("over_http", [False, True])
@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
async def test_telemetrygen_reaches_the_sink(
    raw_sink: RawSink, tool: Callable[[str], Path], signal: str, *, over_http: bool
) -> None:
    port = raw_sink.http_port if over_http else raw_sink.grpc_port
    destination = Destination(port, "StackState some-key")

    ended = await telemetrygen(
        tool("telemetrygen"), signal, destination, count=3, over_http=over_http
    )

    assert ended.process.returncode == 0, ended.output
    items = 2 if signal == "traces" else 1  # a trace is a parent and a child
    assert sum(count(batch_of(request)) for request in raw_sink.requests) == 3 * items
    for request in raw_sink.requests:
        assert request.field("authorization") == "StackState some-key"
        assert signal_of(request) == signal


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_the_sdk_reaches_the_sink(
    raw_sink: RawSink, protocol: Literal["grpc", "http"], compression: str
) -> None:
    port = raw_sink.grpc_port if protocol == "grpc" else raw_sink.http_port
    sender = SdkSender(protocol, port, "StackState some-key", compression)

    for signal in SDK_SIGNALS:
        assert await sender.send(signal, range(5))

    seen = [(signal_of(r), sorted(numbers(batch_of(r)))) for r in raw_sink.requests]
    assert seen == [(signal, list(range(5))) for signal in SDK_SIGNALS]
    assert raw_sink.requests[0].field("authorization") == "StackState some-key"


@pytest.mark.parametrize("exporter", ["otlp", "otlphttp"])
async def test_a_collectors_log_tells_retried_from_dropped(
    raw_sink: RawSink, tool: Callable[[str], Path], tmp_path: Path, exporter: str
) -> None:
    answers = [Answer(status=503, grpc_status=14), Answer(), Answer(status=401, grpc_status=16)]
    raw_sink.script = lambda _: answers.pop(0)
    endpoint = f"127.0.0.1:{raw_sink.grpc_port}" if exporter == "otlp" else raw_sink.http_url
    settings = {
        "endpoint": endpoint,
        "tls": {"insecure": True},
        "retry_on_failure": {"initial_interval": "10ms"},
    }
    part = {"exporters": {exporter: settings}}
    async with running_collector(tool("otelcol"), tmp_path, part, ["traces"]) as collector:
        await collector.send("traces", [1])
        await raw_sink.wait_for(2)
        assert collector.logged(DROPPED) == 0
        await collector.send("traces", [2])
        await collector.program.wait_line(DROPPED)
        assert (collector.logged(WILL_RETRY), collector.logged(DROPPED)) == (1, 1)
