"""`admin.grpc_address`: what is answered there. gRPC is loaded only where it is configured."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from gateway.config import Config
from gateway.control.admin.token_gate import TokenGate
from gateway.control.core.sockets import BIND_PATIENCE_S
from gateway.keys.service import KeyService

if TYPE_CHECKING:
    from gateway.control.grpc_api.server import GrpcServer

_VERBOSITY: Final = "GRPC_VERBOSITY"


class GrpcAddress:
    """The services for other gateways. `is_whole`: whether no authority knows further keys."""

    def __init__(
        self,
        keys: KeyService,
        gate: TokenGate,
        *,
        is_whole: bool,
        patience_s: float = BIND_PATIENCE_S,
    ) -> None:
        self._keys = keys
        self._gate = gate
        self._is_whole = is_whole
        self._patience_s = patience_s
        self._server: GrpcServer | None = None
        self._demands_certificates = False

    @property
    def addresses(self) -> list[str]:
        """Where it is, with the port that the system chose for port 0."""
        return [] if self._server is None else [self._server.address]

    async def start(self, config: Config) -> None:
        """Answer, if the address is configured. Raises `BindError`, `StartError`.

        The keys must have been started.
        """
        if config.admin.grpc_address is None:
            return
        quiet_grpc()
        # A second and 20 MB, for nobody who does not use it.
        from gateway.control.grpc_api.admission import Admission  # noqa: PLC0415 - as above
        from gateway.control.grpc_api.key_feed import KeyFeedService  # noqa: PLC0415 - as above
        from gateway.control.grpc_api.server import GrpcServer  # noqa: PLC0415 - as above

        self._note_certificates(config)
        admission = Admission(self._gate, lambda: self._demands_certificates)
        feed = KeyFeedService(self._keys, admission, is_whole=self._is_whole)
        self._server = GrpcServer()
        await self._server.start(config, [feed.handler()], self._patience_s)

    def use(self, config: Config) -> None:
        """Use the certificate of a new configuration. Raises `StartError`."""
        if self._server is not None:
            self._server.use(config)

    async def close(self) -> None:
        """End all calls, and listen no more."""
        if self._server is not None:
            await self._server.close()

    def _note_certificates(self, config: Config) -> None:
        tls = config.admin.grpc_tls
        self._demands_certificates = tls is not None and tls.client_ca_file is not None


def quiet_grpc() -> None:
    """Keep gRPC's library from writing on standard error, beside the log. Before it is loaded."""
    os.environ.setdefault(_VERBOSITY, "NONE")
