"""The listening sockets of the data path, bound here and inherited by every worker."""

from __future__ import annotations

import socket
from collections.abc import Callable

from gateway.config import Config
from gateway.control.core.sockets import (
    BIND_PATIENCE_S,
    BoundSocket,
    EndLeftovers,
    ListenSockets,
    close_leftover,
)


class DataListeners:
    """The sockets of `listen`. `addresses` has the ports that the system chose for port 0.

    `inherited` are systemd's sockets, see `take_inherited`; `end_leftovers`: see `ListenSockets`.
    """

    def __init__(
        self,
        inherited: list[socket.socket],
        patience_s: float = BIND_PATIENCE_S,
        end_leftovers: EndLeftovers | None = None,
    ) -> None:
        self.addresses: list[str] = []
        self._inherited = inherited
        self._patience_s = patience_s
        self._sockets = ListenSockets(inherited, end_leftovers)

    async def bind(
        self, config: Config, on_wait: Callable[[str], None] | None = None
    ) -> list[list[BoundSocket]]:
        """Return the sockets of each configured address. Arguments, errors: `ListenSockets`."""
        sockets = await self._sockets.bind(
            _addresses(config), patience_s=self._patience_s, on_wait=on_wait
        )
        self.addresses = [bound.bound for held in sockets for bound in held]
        return sockets

    @property
    def sockets(self) -> list[socket.socket]:
        """All that are open."""
        return self._sockets.sockets

    def keep_only(self, config: Config) -> None:
        """Close the sockets of addresses that are not configured."""
        self._sockets.keep_only(_addresses(config))

    def close_leftover(self) -> None:
        """Close systemd's sockets that no configured address uses."""
        close_leftover(self._inherited)

    def close(self) -> None:
        """Close all sockets, so that the kernel takes no connection that nobody accepts."""
        self._sockets.close()


def _addresses(config: Config) -> list[str]:
    return [listener.address for listener in config.listen]
