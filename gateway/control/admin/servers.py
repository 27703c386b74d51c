"""Control's own addresses: which routes each answers, with which tokens and certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gateway.config import Config
from gateway.control.admin.api.errors import error_body
from gateway.control.admin.connections import ConnectionLimits
from gateway.control.admin.console.pages import Console
from gateway.control.admin.console.sessions import Sessions
from gateway.control.admin.http_app import Route, make_app
from gateway.control.admin.http_server import HttpServers
from gateway.control.admin.known_hosts import KnownHosts
from gateway.control.admin.roles import Caller, KnownCertificates
from gateway.control.admin.tls_files import TlsFiles, read_tls_files
from gateway.control.admin.token_gate import TokenGate
from gateway.control.admin.tokens import AdminTokens, read_tokens
from gateway.control.core.errors import ErrorReporter
from gateway.control.core.sockets import BIND_PATIENCE_S, ListenSockets


class AdminRoutes(NamedTuple):
    """What is answered on each of control's own addresses."""

    main: Sequence[Route]
    metrics: Sequence[Route]
    authorize: Sequence[Route]


class AdminServers:
    """The servers on `admin.address`, `admin.metrics_address` and `admin.authorize_address`.

    `addresses`, `metrics_addresses` and `authorize_addresses` are where they listen, with the ports
    that the system chose for port 0.
    """

    def __init__(
        self,
        sockets: ListenSockets,
        errors: ErrorReporter,
        patience_s: float = BIND_PATIENCE_S,
        limits: ConnectionLimits | None = None,
    ) -> None:
        self.addresses: list[str] = []
        self.metrics_addresses: list[str] = []
        self.authorize_addresses: list[str] = []
        self._sockets = sockets
        self._errors = errors
        self._patience_s = patience_s
        self._servers = HttpServers(limits)
        self._tls: TlsFiles | None = None
        self._tokens = AdminTokens([])
        self._hosts = KnownHosts()
        self._certificates = KnownCertificates()
        self._gate = TokenGate(self._accept, self._find)
        self._sessions = Sessions(self._find_token)

    @property
    def gate(self) -> TokenGate:
        """What checks admin tokens, on whichever address they come."""
        return self._gate

    async def start(self, config: Config, routes: AdminRoutes) -> None:
        """Answer on the main address, and on each of the others that is configured.

        Raises `BindError`, `TokenError`, `StartError`.
        """
        admin = config.admin
        self._tokens = await asyncio.to_thread(read_tokens, config)
        self._tls = read_tls_files(admin.tls)
        self._hosts.use(config)
        self._certificates = KnownCertificates.of(admin.certificates)
        console = Console(self._gate, self._sessions).routes() if admin.console else []
        main = (self.addresses, admin.address, [*routes.main, *console])
        others = (
            (self.metrics_addresses, admin.metrics_address, routes.metrics),
            (self.authorize_addresses, admin.authorize_address, routes.authorize),
        )
        wanted = [main, *((place, at, some) for place, at, some in others if at is not None)]
        bound = await self._sockets.bind(
            [address for _, address, _ in wanted], patience_s=self._patience_s
        )
        for (place, _, answered), sockets in zip(wanted, bound, strict=True):
            is_main = place is self.addresses
            sessions = self._sessions if is_main else None
            app = make_app(answered, self._gate, self._errors, error_body, self._hosts, sessions)
            tls = self._tls if is_main else None
            await self._servers.serve(app, sockets, tls)
            place.extend(each.bound for each in sockets)

    def all_addresses(self) -> list[str]:
        """Return every address."""
        return [*self.addresses, *self.metrics_addresses, *self.authorize_addresses]

    def use(self, config: Config, tokens: AdminTokens) -> None:
        """Use the tokens, the names and the certificate of a new configuration."""
        self._tokens = tokens
        self._hosts.use(config)
        self._certificates = KnownCertificates.of(config.admin.certificates)
        tls = config.admin.tls
        if self._tls is not None and tls is not None:
            client_ca = str(tls.client_ca_file) if tls.client_ca_file is not None else None
            self._tls.read(str(tls.cert_file), str(tls.key_file), client_ca)

    async def close(self) -> None:
        """Stop listening, let requests finish for a second."""
        await self._servers.close()
        self._sockets.close()

    def _accept(self, presented: str) -> Caller | None:
        """Check against the present tokens: a reload replaces them."""
        return self._tokens.accept(presented)

    def _find_token(self, digest: bytes) -> Caller | None:
        return self._tokens.find(digest)

    def _find(self, certificate: Mapping[str, Any] | None) -> Caller | None:
        """Look among the present certificates: a reload replaces them."""
        return self._certificates.find(certificate)
