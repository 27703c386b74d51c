"""Health and reflection on the gRPC address, asked by the clients of their libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2 as pb

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
