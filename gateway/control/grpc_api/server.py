"""The gRPC server on `admin.grpc_address`: its sockets, its certificate, its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc
import grpc.aio

from gateway.config import Config
from gateway.config.tree import TlsServerConfig
from gateway.control.core.errors import StartError
from gateway.control.core.sockets import BIND_PATIENCE_S, BindError, ListenSockets

_MOST_CALLS: Final = 4_096
_MOST_MESSAGE_BYTES: Final = 1024 * 1024
_GRACE_S: Final = 0.5
"""At the end, for questions that are being answered. Followers of keys go on elsewhere."""
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", _MOST_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 1_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


class GrpcServer:
    """Answers with `handlers`. `address` is where, with the port that the system chose for 0."""

    def __init__(self) -> None:
        self.address = ""
        self._server: grpc.aio.Server | None = None
        self._certificate: grpc.ServerCertificateConfiguration | None = None
        """What new connections get from now on; None: nothing new."""

    async def start(
        self,
        config: Config,
        handlers: Sequence[grpc.GenericRpcHandler],
        patience_s: float = BIND_PATIENCE_S,
    ) -> None:
        """Listen. Raises `BindError` and `StartError`."""
        address = config.admin.grpc_address
        assert address is not None  # noqa: S101 - else there is no server
        tls = config.admin.grpc_tls
        credentials = None if tls is None else self._credentials(tls)
        await _check_free(address, patience_s)
        server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_MOST_CALLS)
        server.add_generic_rpc_handlers(tuple(handlers))
        where = f"[::]{address}" if address.startswith(":") else address
        try:
            if credentials is None:
                port = server.add_insecure_port(where)
            else:
                port = server.add_secure_port(where, credentials)
        except RuntimeError as error:
            msg = f"cannot listen on {address} (admin.grpc_address): {error}"
            raise BindError(msg) from error
        self._server = server
        await server.start()
        self.address = f"{address.rpartition(':')[0]}:{port}"

    def use(self, config: Config) -> None:
        """Have new connections use the certificate of this configuration. Raises `StartError`."""
        if config.admin.grpc_tls is not None:
            self._certificate = _read(config.admin.grpc_tls)

    async def close(self) -> None:
        """Take no more calls, let those that are short finish, end all others."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(_GRACE_S)

    def _credentials(self, tls: TlsServerConfig) -> grpc.ServerCredentials:
        first = _read(tls)
        demands = tls.client_ca_file is not None
        return grpc.dynamic_ssl_server_credentials(
            first,
            self._take_certificate,  # type: ignore[arg-type]  # None is allowed: nothing new
            require_client_authentication=demands,
        )

    def _take_certificate(self) -> grpc.ServerCertificateConfiguration | None:
        """Return a certificate that is new (gRPC asks for each connection, in its own thread)."""
        certificate, self._certificate = self._certificate, None
        return certificate


async def _check_free(address: str, patience_s: float) -> None:
    """Wait until nobody listens on the address. Raises `BindError`, which says who does."""
    sockets = ListenSockets([])
    await sockets.bind([address], patience_s=patience_s)
    sockets.close()


def _read(tls: TlsServerConfig) -> grpc.ServerCertificateConfiguration:
    try:
        pair = (tls.key_file.read_bytes(), tls.cert_file.read_bytes())
        client_ca = None if tls.client_ca_file is None else tls.client_ca_file.read_bytes()
    except OSError as error:
        msg = f"admin.grpc_tls: {error.filename} can no longer be read ({error.strerror})"
        raise StartError(msg) from error
    return grpc.ssl_server_certificate_configuration([pair], client_ca)
