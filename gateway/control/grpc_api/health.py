"""`grpc.health.v1.Health`: whether the services on the gRPC address can answer (gRPC's "Health
Checking Protocol").

They serve while the keys are loaded and the gateway does not drain; workers do not matter to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2 as pb

from gateway.control.grpc_api.admission import Context

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Health"].full_name
LOOK_S: Final = 0.5
"""Time between two looks for who watches."""


class HealthService:
    """Answers for `services`, and for "", which is all of them."""

    def __init__(self, services: Collection[str], is_serving: Callable[[], bool]) -> None:
        self._services = {"", *services}
        self._is_serving = is_serving

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a server answers with."""
        check: grpc.RpcMethodHandler[pb.HealthCheckRequest, pb.HealthCheckResponse]
        check = grpc.unary_unary_rpc_method_handler(
            self._check,
            request_deserializer=pb.HealthCheckRequest.FromString,
            response_serializer=pb.HealthCheckResponse.SerializeToString,
        )
        watch: grpc.RpcMethodHandler[pb.HealthCheckRequest, pb.HealthCheckResponse]
        watch = grpc.unary_stream_rpc_method_handler(
            self._watch,
            request_deserializer=pb.HealthCheckRequest.FromString,
            response_serializer=pb.HealthCheckResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Check": check, "Watch": watch})

    async def _check(
        self, request: pb.HealthCheckRequest, context: Context
    ) -> pb.HealthCheckResponse:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service here")
        return self._status(request.service)

    async def _watch(
        self, request: pb.HealthCheckRequest, _: Context
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        told: pb.HealthCheckResponse | None = None
        while True:
            status = self._status(request.service)
            if status != told:
                told = status
                yield status
            await asyncio.sleep(LOOK_S)

    def _status(self, service: str) -> pb.HealthCheckResponse:
        if service not in self._services:
            return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN)
        if self._is_serving():
            return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)
        return pb.HealthCheckResponse(status=pb.HealthCheckResponse.NOT_SERVING)
