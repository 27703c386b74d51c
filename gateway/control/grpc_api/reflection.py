"""gRPC server reflection, so that `grpcurl` and the like need no definitions at hand.

The messages of `v1alpha` and `v1` are the same, and so is the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import grpc
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha.reflection import aio

SERVICES: Final = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)


def reflection_handlers(services: Iterable[str]) -> list[grpc.GenericRpcHandler]:
    """Return what a server answers with that has these services."""
    servicer = aio.ReflectionServicer([*services, SERVICES[1]])
    info: grpc.RpcMethodHandler[pb.ServerReflectionRequest, pb.ServerReflectionResponse]
    info = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=pb.ServerReflectionRequest.FromString,
        response_serializer=pb.ServerReflectionResponse.SerializeToString,
    )
    return [
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": info})
        for name in SERVICES
    ]
