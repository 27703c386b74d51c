"""The obvious build, to compare with: a `grpc.aio` server and client that pass raw bytes.

`python -m bench.grpc_aio PORT BACKEND_PORT` checks the caller's key against the bench's keys and
forwards any unary method's message as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio
import uvloop

from bench import keys

_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]


class Relay(grpc.GenericRpcHandler):
    """Handles every method alike."""

    def __init__(self, backend: grpc.aio.Channel) -> None:
        self._backend = backend
        self._known = frozenset(keys.authorizations())
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return the method's handler (called by grpcio)."""
        method: str = details.method
        handler = self._handlers.get(method)
        if handler is None:
            handler = grpc.unary_unary_rpc_method_handler(self._forwarder(method))
            self._handlers[method] = handler
        return handler

    def _forwarder(
        self, method: str
    ) -> Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._backend.unary_unary(method)

        async def forward(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            metadata = dict(context.invocation_metadata() or ())
            if metadata.get("authorization") not in self._known:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown key")
            reply: bytes = await call(message)
            return reply

        return forward


async def serve(port: int, backend_port: int) -> None:
    """Serve on 127.0.0.1:`port` until cancelled."""
    backend = grpc.aio.insecure_channel(f"127.0.0.1:{backend_port}", options=_OPTIONS)
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((Relay(backend),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
