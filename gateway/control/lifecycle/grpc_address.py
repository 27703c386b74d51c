"""`admin.grpc_address`: what is answered there. gRPC is loaded only where it is configured."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gateway.config import Config
from gateway.control.admin.token_gate import TokenGate
from gateway.control.core.errors import ErrorReporter
from gateway.control.core.sockets import BIND_PATIENCE_S
from gateway.control.metrics.metric_totals import MetricTotals
from gateway.keys.limit_board import LimitBoard
from gateway.keys.quota_store import QuotaStore
from gateway.keys.service import KeyService
from gateway.settings import QuotaPlace

if TYPE_CHECKING:
    from gateway.control.authorities.authority_lookups import AuthorityLookups
    from gateway.control.authorities.token_lookups import TokenLookups
    from gateway.control.grpc_api.envoy_authorization import AuthorizationService
    from gateway.control.grpc_api.server import GrpcServer

_VERBOSITY: Final = "GRPC_VERBOSITY"


class GrpcAddress:
    """The services for other gateways and for Envoy.

    `lookups` is None without an authority, `tokens` without an issuer of tokens. `quota_place`
    returns where requests count that Envoy asks about. Edge gateways share limits on `board`, and
    count `quotas` together.
    """

    def __init__(  # noqa: PLR0913 - what the services need, given in one place
        self,
        keys: KeyService,
        gate: TokenGate,
        totals: MetricTotals,
        errors: ErrorReporter,
        lookups: AuthorityLookups | None = None,
        tokens: TokenLookups | None = None,
        *,
        quota_place: Callable[[], QuotaPlace | None] = lambda: None,
        board: LimitBoard | None = None,
        quotas: QuotaStore | None = None,
        is_draining: Callable[[], bool] = lambda: False,
        patience_s: float = BIND_PATIENCE_S,
    ) -> None:
        self._keys = keys
        self._gate = gate
        self._totals = totals
        self._errors = errors
        self._lookups = lookups
        self._tokens = tokens
        self._quota_place = quota_place
        self._board = board
        self._quotas = quotas
        self._is_draining = is_draining
        self._patience_s = patience_s
        self._server: GrpcServer | None = None
        self._authorization: AuthorizationService | None = None
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
        # A second and 40 MB, for nobody who does not use it.
        from gateway.control.grpc_api import (  # noqa: PLC0415 - as above
            envoy_authorization,
            key_feed,
        )
        from gateway.control.grpc_api.admission import Admission  # noqa: PLC0415 - as above
        from gateway.control.grpc_api.envoy_authorization import (  # noqa: PLC0415 - as above
            AuthorizationService,
        )
        from gateway.control.grpc_api.health import SERVICE as HEALTH  # noqa: PLC0415 - as above
        from gateway.control.grpc_api.health import HealthService  # noqa: PLC0415 - as above
        from gateway.control.grpc_api.key_feed import KeyFeedService  # noqa: PLC0415 - as above
        from gateway.control.grpc_api.limit_sharing import (  # noqa: PLC0415 - as above
            LimitSharingService,
        )
        from gateway.control.grpc_api.reflection import (  # noqa: PLC0415 - as above
            reflection_handlers,
        )
        from gateway.control.grpc_api.server import GrpcServer  # noqa: PLC0415 - as above

        self._note_certificates(config)
        admission = Admission(self._gate, lambda: self._demands_certificates)
        lookups = self._lookups
        more = None
        if self._board is not None and self._quotas is not None:
            more = LimitSharingService(self._board, self._quotas, admission).methods()
        feed = KeyFeedService(self._keys, admission, more, is_whole=lookups is None)
        self._authorization = AuthorizationService(
            self._keys,
            self._totals,
            self._errors,
            None if lookups is None else lookups.whose,
            None if self._tokens is None else self._tokens.check,
            self._quota_place,
        )
        self._authorization.use(config)
        self._server = GrpcServer()
        services = [key_feed.SERVICE, envoy_authorization.SERVICE]
        health = HealthService(services, self._is_serving)
        handlers = [feed.handler(), self._authorization.handler(), health.handler()]
        handlers += reflection_handlers([*services, HEALTH])
        await self._server.start(config, handlers, self._patience_s)

    def use(self, config: Config) -> None:
        """Use a new configuration, its certificate too. Raises `StartError`."""
        if self._server is not None and self._authorization is not None:
            self._server.use(config)
            self._authorization.use(config)

    async def close(self) -> None:
        """End all calls, and listen no more."""
        if self._server is not None:
            await self._server.close()

    def _is_serving(self) -> bool:
        return self._keys.is_loaded and not self._is_draining()

    def _note_certificates(self, config: Config) -> None:
        tls = config.admin.grpc_tls
        self._demands_certificates = tls is not None and tls.client_ca_file is not None


def quiet_grpc() -> None:
    """Keep gRPC's library from writing on standard error, beside the log. Before it is loaded."""
    os.environ.setdefault(_VERBOSITY, "NONE")
