"""What the data listeners answer without a key, asked by the real gRPC health client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from gateway import metrics
from gateway.dataplane.dialects.health import WATCHES_PER_CONNECTION
from gateway.dataplane.dialects.otlp import OTLP_SERVICES
from tests.support.clients import Http2Client, Response, http1_request
from tests.support.plane import RunningWorker, running_worker
from tests.support.polling import until

Status = health_pb2.HealthCheckResponse
GRPC_FIELDS = (("content-type", "application/grpc"), ("te", "trailers"))
CHECK = "/grpc.health.v1.Health/Check"


@asynccontextmanager
async def health_client(gateway: RunningWorker) -> AsyncIterator[Any]:
    # Channels to one address share a connection otherwise, also those of different tests.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(gateway.address, options=options) as channel:
        yield HealthStub(channel)


async def check(stub: Any, service: str = "") -> int:
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
    return int(answer.status)


def open_watch(stub: Any, service: str = "") -> Any:
    return stub.Watch(health_pb2.HealthCheckRequest(service=service))


async def refusal_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call.read()
    return failed.value.code()


@pytest.mark.parametrize("service", ["", *OTLP_SERVICES])
async def test_the_gateway_and_its_services_are_serving(service: str) -> None:
    async with running_worker() as gateway, health_client(gateway) as stub:
        assert await check(stub, service) == Status.SERVING


async def test_a_service_that_is_not_here_is_not_found() -> None:
    async with running_worker() as gateway, health_client(gateway) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await check(stub, "some.other.Service")
        assert failed.value.code() == grpc.StatusCode.NOT_FOUND


async def test_before_the_keys_are_loaded_nothing_is_serving_but_the_process_lives() -> None:
    async with running_worker(keys=None) as gateway, health_client(gateway) as stub:
        assert await check(stub) == Status.NOT_SERVING
        assert (await http1_request(gateway.port, "/readyz", (), method="GET")).status == 503
        assert (await http1_request(gateway.port, "/livez", (), method="GET")).status == 200


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
async def test_load_balancers_may_ask_at_the_root(http2: bool) -> None:
    """As they do unless told otherwise: it answers as `/readyz` does."""

    async def ask(gateway: RunningWorker, method: str, body: bytes = b"") -> Response:
        if http2:
            async with Http2Client(gateway.port) as client:
                return await client.request("/", (), body, method=method)
        return await http1_request(gateway.port, "/", (), body, method=method)

    async with running_worker() as gateway:
        for method in ("GET", "OPTIONS"):
            answer = await ask(gateway, method)
            assert (answer.status, answer.body) == (200, b'{"status":"ok"}')
        answer = await ask(gateway, "HEAD")
        assert (answer.status, answer.body) == (200, b"")
        for method in ("POST", "DELETE"):
            answer = await ask(gateway, method, b"x")
            assert answer.status == 404
            assert b"/v1/traces" in answer.body
        gateway.worker.become_unready()
        for method in ("GET", "HEAD", "OPTIONS"):
            assert (await ask(gateway, method)).status == 503


async def test_an_unready_gateway_says_so_to_every_probe_and_goes_on_serving() -> None:
    async with running_worker() as gateway, health_client(gateway) as stub:
        assert await check(stub) == Status.SERVING
        gateway.worker.become_unready()
        assert await check(stub) == Status.NOT_SERVING
        ready = await http1_request(gateway.port, "/readyz", (), method="GET")
        assert (ready.status, ready.body) == (503, b'{"status":"unavailable"}')
        traces = await http1_request(gateway.port, "/v1/traces", (), b"x")
        assert traces.status == 401


async def test_a_watch_hears_the_status_at_once_and_when_it_changes() -> None:
    async with running_worker() as gateway, health_client(gateway) as stub:
        watch = open_watch(stub)
        assert (await watch.read()).status == Status.SERVING
        gateway.worker.become_unready()
        assert (await watch.read()).status == Status.NOT_SERVING


async def test_a_watch_of_a_service_that_is_not_here_is_told_so_and_stays_open() -> None:
    async with running_worker() as gateway, health_client(gateway) as stub:
        watch = open_watch(stub, "some.other.Service")
        assert (await watch.read()).status == Status.SERVICE_UNKNOWN
        assert not watch.done()


async def test_watches_end_at_a_drain_so_that_no_connection_stays_open_for_them() -> None:
    async with running_worker() as gateway, health_client(gateway) as stub:
        watch = open_watch(stub)
        assert (await watch.read()).status == Status.SERVING
        await gateway.worker.stop(20)
        assert (await watch.read()).status == Status.NOT_SERVING
        assert await refusal_of(watch) == grpc.StatusCode.UNAVAILABLE


async def test_a_connection_has_few_watches_and_gets_another_when_one_ends() -> None:
    async with running_worker() as gateway, health_client(gateway) as stub:
        watches = [open_watch(stub) for _ in range(WATCHES_PER_CONNECTION)]
        for watch in watches:
            assert (await watch.read()).status == Status.SERVING
        assert await refusal_of(open_watch(stub)) == grpc.StatusCode.UNAVAILABLE
        watches[0].cancel()
        health = gateway.path.health
        await until(lambda: len(health._watches) == WATCHES_PER_CONNECTION - 1)
        assert (await open_watch(stub).read()).status == Status.SERVING


async def test_watches_of_a_connection_that_is_gone_are_forgotten() -> None:
    async with running_worker() as gateway:
        async with health_client(gateway) as stub:
            assert (await open_watch(stub).read()).status
        health = gateway.path.health
        await until(lambda: not health._watches)
        assert not health._watches_of


@pytest.mark.parametrize("method", ["Check", "Watch"])
@pytest.mark.parametrize(
    "body", [b"", b"\0\0\0\0\x05", b"\x01\0\0\0\0", b"\0\0\0\0\x01\xff", b"\0\0\0\0\0" * 2]
)
async def test_what_is_no_health_request_is_refused_as_such(method: str, body: bytes) -> None:
    async with running_worker() as gateway, Http2Client(gateway.port) as client:
        answer = await client.request(f"/grpc.health.v1.Health/{method}", GRPC_FIELDS, body)
        assert answer.grpc_status == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_a_health_request_larger_than_any_name_is_refused() -> None:
    async with running_worker() as gateway, Http2Client(gateway.port) as client:
        answer = await client.request(CHECK, GRPC_FIELDS, bytes(2000))
        assert answer.grpc_status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


async def test_a_health_request_that_does_not_come_is_given_up() -> None:
    async with running_worker(sweeping=False) as gateway, Http2Client(gateway.port) as client:
        stream = await client.start(CHECK, GRPC_FIELDS, b"\0")
        await until(lambda: len(gateway.path.health._reading) == 1)
        gateway.sweep(in_s=1)
        assert len(gateway.path.health._reading) == 1
        gateway.sweep(in_s=6)
        answer = await client.answer(stream)
        assert answer.grpc_status == grpc.StatusCode.UNAVAILABLE.value[0]
        assert not gateway.path.health._reading


async def test_health_needs_grpc() -> None:
    async with running_worker() as gateway, Http2Client(gateway.port) as client:
        answer = await client.request(CHECK, (("content-type", "application/json"),), b"{}")
        assert answer.status == 415


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_probes_are_answered_over_both_http_versions(path: str) -> None:
    async with running_worker() as gateway, Http2Client(gateway.port) as client:
        over_http1 = await http1_request(gateway.port, path, (), method="GET")
        over_http2 = await client.request(path, (), method="GET")
        for answer in (over_http1, over_http2):
            assert (answer.status, answer.body) == (200, b'{"status":"ok"}')
            assert answer.field("content-type") == "application/json"


async def test_a_probe_may_ask_for_the_head_alone() -> None:
    async with running_worker() as gateway, Http2Client(gateway.port) as client:
        over_http2 = await client.request("/readyz", (), method="HEAD")
        assert (over_http2.status, over_http2.body, over_http2.ended) == (200, b"", True)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"HEAD /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\n")


async def test_a_probe_with_another_method_is_told_which_ones_there_are() -> None:
    async with running_worker() as gateway:
        answer = await http1_request(gateway.port, "/livez", (), b"x")
        assert (answer.status, answer.field("allow")) == (405, "GET, HEAD")


async def test_probes_are_counted_apart_from_telemetry() -> None:
    async with running_worker() as gateway, health_client(gateway) as stub:
        await check(stub)
        await http1_request(gateway.port, "/livez", (), method="GET")
        assert gateway.counted(metrics.REQUESTS) == {
            ("grpc", metrics.NO_SIGNAL, "OK", "accepted"): 1,
            ("http", metrics.NO_SIGNAL, "200", "accepted"): 1,
        }
        assert gateway.count(metrics.AUTH_DECISIONS) == 0
