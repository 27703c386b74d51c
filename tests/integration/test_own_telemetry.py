"""The gateway's own telemetry: what an endpoint gets of it, and what a dead one costs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gateway.settings import OWN_TELEMETRY_FIELD
from tests.support.clients import Http2Client, http1_request
from tests.support.decode import batch_of, signal_of
from tests.support.exchange import GRPC, GrpcMessage, Request
from tests.support.polling import WAIT_S, until
from tests.support.process import COMMAND, Gateway, free_ports, running, running_gateway
from tests.support.sink import RawSink

PATH: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
MESSAGE: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()
TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID: Final = "00f067aa0ba902b7"
PARENT: Final = f"00-{TRACE_ID}-{SPAN_ID}"
QUICK: Final = {"sample_ratio": 0, "metrics_interval": "1s"}


def _endpoint(sink: RawSink, protocol: str) -> dict[str, Any]:
    url = sink.grpc_url if protocol == "grpc" else sink.http_url
    return {"endpoint": url, "protocol": protocol, "headers": {"X-Tenant": "ops"}}


def _of_signal(requests: list[Request], signal: str) -> list[Any]:
    return [batch_of(each) for each in requests if signal_of(each) == signal]


def _spans(requests: list[Request]) -> Iterator[Span]:
    for batch in _of_signal(requests, "traces"):
        for resource in batch.resource_spans:
            for scope in resource.scope_spans:
                yield from scope.spans


def _attributes(holder: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in holder.attributes}


async def _export(gateway: Gateway, *fields: tuple[str, str], key: str = "") -> None:
    key = key or _static_key(gateway)
    head = (("content-type", GRPC), ("te", "trailers"), ("authorization", f"StackState {key}"))
    async with Http2Client(gateway.port) as client:
        await client.request(PATH, (*head, *fields), MESSAGE)


def _static_key(gateway: Gateway) -> str:
    config = yaml.safe_load(gateway.config_file.read_text())
    return str(config["auth"]["receiver_keys"][0]["key"])


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_an_endpoint_gets_spans_metrics_and_lines_of_the_log(
    tmp_path: Path, protocol: str
) -> None:
    async with RawSink() as backend, RawSink() as endpoint:
        backend_port = backend.grpc_port
        settings = {
            "backends": {"otlp_grpc": {"urls": [backend.grpc_url]}},
            "telemetry": QUICK | _endpoint(endpoint, protocol),
        }
        async with running_gateway(tmp_path, settings) as gateway:
            await _export(gateway, ("traceparent", f"{PARENT}-01"))
            await _export(gateway, ("traceparent", f"{PARENT}-00"))
            await until(lambda: len(list(_spans(endpoint.requests))) >= 2)
            await until(lambda: bool(_of_signal(endpoint.requests, "metrics")))
        exports = endpoint.requests
        assert all(each.field("x-tenant") == "ops" for each in exports)
        assert all(each.field(OWN_TELEMETRY_FIELD) for each in exports)
        assert [each.field("traceparent") for each in backend.requests] == [
            f"{PARENT}-01",
            f"{PARENT}-00",
        ]

    client, server = sorted(_spans(exports), key=lambda span: span.kind, reverse=True)
    assert (client.kind, server.kind) == (Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER)
    assert server.trace_id.hex() == client.trace_id.hex() == TRACE_ID
    assert server.parent_span_id.hex() == SPAN_ID
    assert client.parent_span_id == server.span_id
    assert server.start_time_unix_nano <= client.start_time_unix_nano
    assert client.end_time_unix_nano <= server.end_time_unix_nano
    attributes = _attributes(server)
    assert attributes["gateway.key.id"] == "static:test"
    assert attributes["gateway.result"] == "accepted"
    assert attributes["url.path"] == PATH
    assert _attributes(client)["gateway.backend"] == "otlp_grpc"
    assert _attributes(client)["server.port"] == backend_port
    _check_metrics(_of_signal(exports, "metrics")[-1])
    _check_logs(_of_signal(exports, "logs"))


def _check_metrics(batch: Any) -> None:
    (resource,) = batch.resource_metrics
    assert _attributes(resource.resource)["service.name"] == "otlp-gateway"
    found = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
    requests = found["gateway_requests_total"].sum
    assert requests.is_monotonic
    assert {
        _attributes(point)["code"]: point.as_double
        for point in requests.data_points
        if point.as_double
    } == {"OK": 2.0}
    (durations,) = [
        point
        for point in found["gateway_request_duration_seconds"].histogram.data_points
        if point.count
    ]
    assert sum(durations.bucket_counts) == durations.count == 2
    assert len(durations.bucket_counts) == len(durations.explicit_bounds) + 1


def _check_logs(batches: list[Any]) -> None:
    bodies = [
        record.body.string_value
        for batch in batches
        for resource in batch.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]
    assert "ready" in bodies
    assert "draining" in bodies


async def test_a_refused_request_becomes_a_span_that_says_why_and_has_no_backend(
    tmp_path: Path,
) -> None:
    async with RawSink() as endpoint:
        telemetry = {"sample_ratio": 1, "logs": False} | _endpoint(endpoint, "grpc")
        async with running_gateway(tmp_path, {"telemetry": telemetry}) as gateway:
            await _export(gateway, ("traceparent", f"{PARENT}-00"), key="not-the-key")
        (span,) = _spans(endpoint.requests)
        assert span.status.code == Status.STATUS_CODE_ERROR
        assert _attributes(span)["gateway.key.outcome"] == "key_unknown"
        assert not _of_signal(endpoint.requests, "logs")


async def test_the_exports_of_a_gateway_never_become_spans(tmp_path: Path) -> None:
    async with RawSink() as backend, RawSink() as endpoint:
        settings = {
            "backends": {"otlp_grpc": {"urls": [backend.grpc_url]}},
            "telemetry": {"sample_ratio": 1, "logs": False} | _endpoint(endpoint, "grpc"),
        }
        async with running_gateway(tmp_path, settings) as gateway:
            await _export(gateway, (OWN_TELEMETRY_FIELD, "1"))
            await _export(gateway)
        assert len(list(_spans(endpoint.requests))) == 2
        assert len(backend.requests) == 2


async def test_more_than_a_second_may_bring_is_counted_not_exported(tmp_path: Path) -> None:
    async with RawSink() as endpoint:
        telemetry = {"sample_ratio": 1, "max_requests_per_second": 2}
        settings = {"workers": 1, "telemetry": telemetry | _endpoint(endpoint, "grpc")}
        async with running_gateway(tmp_path, settings) as gateway:
            for _ in range(5):
                await http1_request(gateway.port, "/nowhere", (("host", "h"),))
            dropped = 'gateway_telemetry_dropped_total{reason="limit",signal="traces"}'
            await _until_counted(gateway, dropped, 3)


async def test_without_requests_in_a_second_there_are_no_traces(tmp_path: Path) -> None:
    async with RawSink() as endpoint:
        telemetry = {"sample_ratio": 1, "max_requests_per_second": 0, "metrics_interval": "1s"}
        settings = {"telemetry": telemetry | _endpoint(endpoint, "grpc")}
        async with running_gateway(tmp_path, settings) as gateway:
            await http1_request(gateway.port, "/nowhere", (("host", "h"),))
            await until(lambda: bool(_of_signal(endpoint.requests, "metrics")))
        assert not list(_spans(endpoint.requests))


async def test_a_dead_endpoint_costs_a_line_of_the_log_and_a_count(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    endpoint = {"endpoint": f"http://127.0.0.1:{port}", "sample_ratio": 1}
    async with running_gateway(tmp_path, {"telemetry": QUICK | endpoint}) as gateway:
        await http1_request(gateway.port, "/nowhere", (("host", "h"),))
        for signal in ("metrics", "logs"):
            reason = f'gateway_telemetry_dropped_total{{reason="export",signal="{signal}"}}'
            await _until_counted(gateway, reason, 1)
        status, _ = await gateway.get("/readyz")
        assert status == 200
        lines = [json.loads(line) for line in gateway.program.stderr]
    about = [line for line in lines if line["logger"] == "gateway.telemetry"]
    assert len(about) == 1
    assert about[0]["endpoint"] == f"http://127.0.0.1:{port}"
    assert not [line for line in lines if line["logger"].startswith("opentelemetry")]


async def test_an_endpoint_that_is_the_gateway_itself_is_an_error(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text('telemetry: {endpoint: "http://localhost:4317"}\n')
    async with running([COMMAND, "check-config", "--config", config]) as checked:
        assert await checked.wait() == 1
    assert "is an address of the gateway itself (listen[0].address)" in checked.output


async def _until_counted(gateway: Gateway, series: str, number: int) -> None:
    """Wait until a counter is at least `number`."""
    async with asyncio.timeout(WAIT_S):
        while True:
            _, page = await gateway.get("/metrics")
            (value,) = [line for line in page.splitlines() if line.startswith(series)]
            if float(value.rpartition(" ")[2]) >= number:
                return
            await asyncio.sleep(0.05)
