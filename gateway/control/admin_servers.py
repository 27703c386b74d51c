"""Control's own addresses: what is answered on which, who is let in, and with which certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gateway.config import Config
from gateway.control import derive
from gateway.control.admin_token import Tokens
from gateway.control.api.errors import error_body
from gateway.control.sockets import BIND_PATIENCE_S, ListenSockets
from gateway.control.token_gate import TokenGate
from gateway.control.web import HttpServers, Route, TlsFiles, make_app


class AdminServers:
    """The servers on `admin.address`, `admin.metrics_address` and `admin.authorize_address`.

    `addresses` and the like are where they listen, with the ports that port 0 became.
    """

    def __init__(
        self,
        sockets: ListenSockets,
        on_bug: Callable[[str, Exception], None],
        patience_s: float = BIND_PATIENCE_S,
    ) -> None:
        self.addresses: list[str] = []
        self.metrics_addresses: list[str] = []
        self.authorize_addresses: list[str] = []
        self._sockets = sockets
        self._on_bug = on_bug
        self._patience_s = patience_s
        self._servers = HttpServers()
        self._tls: TlsFiles | None = None
        self._tokens = Tokens([])
        self._gate = TokenGate(self._accept)

    async def start(
        self,
        config: Config,
        routes: Sequence[Route],
        public: Sequence[Route],
        authorize: Sequence[Route],
    ) -> None:
        """Answer `routes` on the main address, and each of the others where it is configured.

        Raises `BindError`, `TokenError`, `StartError`.
        """
        admin = config.admin
        self._tokens = await asyncio.to_thread(derive.tokens_of, config)
        self._tls = derive.tls_files(admin.tls)
        main = (self.addresses, admin.address, routes)
        others = (
            (self.metrics_addresses, admin.metrics_address, public),
            (self.authorize_addresses, admin.authorize_address, authorize),
        )
        wanted = [main, *((place, at, some) for place, at, some in others if at is not None)]
        bound = await self._sockets.bind(
            [address for _, address, _ in wanted], patience_s=self._patience_s
        )
        for (place, _, answered), sockets in zip(wanted, bound, strict=True):
            app = make_app(answered, self._gate, self._on_bug, error_body)
            tls = self._tls if place is self.addresses else None
            await self._servers.serve(app, sockets, tls)
            place.extend(each.bound for each in sockets)

    def all_addresses(self) -> list[str]:
        """Give every address."""
        return [*self.addresses, *self.metrics_addresses, *self.authorize_addresses]

    def take_over(self, config: Config, tokens: Tokens) -> None:
        """Use the tokens and the certificate of a configuration that was read again."""
        self._tokens = tokens
        tls = config.admin.tls
        if self._tls is not None and tls is not None:
            self._tls.read(str(tls.cert_file), str(tls.key_file))

    async def close(self) -> None:
        """Stop listening, let requests finish for a second."""
        await self._servers.close()

    def _accept(self, presented: str) -> str | None:
        """Judge by the tokens as they are now: a reload replaces them."""
        return self._tokens.accept(presented)
