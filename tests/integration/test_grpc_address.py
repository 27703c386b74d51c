"""Health and reflection on the gRPC address, asked by the clients of their libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2 as pb

from gateway.control.core.sockets import BindError
from gateway.keys.errors import StoreUnavailableError
from gateway.keys.stores.gateway_channel import FeedTls
from tests.support.certs import Authority
from tests.support.key_feed import Center, running_center

KEY_FEED = "gateway.keys.v1.KeyFeed"
AUTHORIZATION = "envoy.service.auth.v3.Authorization"
Health = health_pb2.HealthCheckResponse


def _health(channel: grpc.aio.Channel, kind: str, method: str) -> Any:
    return getattr(channel, kind)(
        f"/grpc.health.v1.Health/{method}",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=Health.FromString,
    )


async def _ask(center: Center, service: str) -> int:
    async with grpc.aio.insecure_channel(center.address) as channel:
        check = _health(channel, "unary_unary", "Check")
        answer = await check(health_pb2.HealthCheckRequest(service=service))
        return int(answer.status)


async def test_each_service_and_all_together_serve_until_the_drain(tmp_path: Path) -> None:
    is_draining = False
    async with running_center(tmp_path / "center", is_draining=lambda: is_draining) as center:
        for service in ("", KEY_FEED, AUTHORIZATION):
            assert await _ask(center, service) == Health.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await _ask(center, "another")
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND
        is_draining = True
        assert await _ask(center, "") == Health.NOT_SERVING


async def test_who_watches_is_told_of_each_change(tmp_path: Path) -> None:
    is_draining = False
    async with (
        running_center(tmp_path / "center", is_draining=lambda: is_draining) as center,
        grpc.aio.insecure_channel(center.address) as channel,
    ):
        call = _health(channel, "unary_stream", "Watch")(health_pb2.HealthCheckRequest())
        assert (await call.read()).status == Health.SERVING
        is_draining = True
        assert (await call.read()).status == Health.NOT_SERVING
        call.cancel()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_the_services_describe_themselves(tmp_path: Path, version: str) -> None:
    async with (
        running_center(tmp_path / "center") as center,
        grpc.aio.insecure_channel(center.address) as channel,
    ):
        ask: Any = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=pb.ServerReflectionRequest.SerializeToString,
            response_deserializer=pb.ServerReflectionResponse.FromString,
        )
        call = ask()
        await call.write(pb.ServerReflectionRequest(list_services=""))
        listed = (await call.read()).list_services_response.service
        assert {KEY_FEED, AUTHORIZATION, "grpc.health.v1.Health"} <= {each.name for each in listed}
        await call.write(pb.ServerReflectionRequest(file_containing_symbol=KEY_FEED))
        files = (await call.read()).file_descriptor_response.file_descriptor_proto
        pool = DescriptorPool()
        pool.AddSerializedFile(files[0])
        assert pool.FindServiceByName(KEY_FEED).methods_by_name["Follow"].server_streaming
        call.cancel()


async def test_an_address_in_use_is_refused_with_who_has_it(tmp_path: Path) -> None:
    async with running_center(tmp_path / "center") as center:
        with pytest.raises(BindError, match="listens on it"):
            async with running_center(tmp_path / "another", port=center.port, patience_s=0.0):
                pass


async def test_new_connections_get_the_certificate_of_a_reload(tmp_path: Path) -> None:
    first, second = (Authority.create(tmp_path / name) for name in ("first", "second"))
    files = {"cert_file": str(tmp_path / "c.crt"), "key_file": str(tmp_path / "c.key")}

    def put(authority: Authority) -> None:
        issued = authority.issue("server", ["127.0.0.1"])
        (tmp_path / "c.crt").write_bytes(issued.cert_file.read_bytes())
        (tmp_path / "c.key").write_bytes(issued.key_file.read_bytes())

    put(first)
    async with running_center(tmp_path / "center", admin={"grpc_tls": files}) as center:
        assert await _is_trusted(center, first)
        assert not await _is_trusted(center, second)
        put(second)
        center.grpc.use(center.config)
        assert await _is_trusted(center, second)
        assert not await _is_trusted(center, first)


async def _is_trusted(center: Center, authority: Authority) -> bool:
    store = center.store(tls=FeedTls(authority.cert_file))
    try:
        await store.feed.open(create=False)
    except StoreUnavailableError:
        return False
    finally:
        await store.feed.close()
    return True


def test_grpc_is_loaded_only_where_it_is_configured() -> None:
    script = "import gateway.control.lifecycle.main, sys; print('grpc' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert ended.stdout == b"False\n"
