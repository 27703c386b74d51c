"""Who is let into the admin API, and how slowly tokens can be guessed.

Every address may present a few wrong tokens at once; after that its requests with tokens, right or
wrong, are judged at one per `INTERVAL_S`, so that guessing is no faster however many connections it
uses. An address that presents no wrong tokens waits for nothing. What needs no token never comes
here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

INTERVAL_S: Final = 1.0
"""How long one wrong token holds up its address, once the free ones are used up."""
FREE: Final = 5
"""Wrong tokens at once that hold up nobody: typing errors, an old token in a script."""
MOST_WAITING: Final = 8
"""Requests of one address that wait for their turn; more are turned away."""
MOST_ADDRESSES: Final = 10_000
"""Of which wrong tokens are remembered; the longest quiet are forgotten first."""
_IPV6_NETWORK: Final = 64
"""One customer has at least so much of IPv6: all addresses in it count as one."""

_MISSING: Final = "no token: send it in the header X-API-Token"
_UNKNOWN: Final = "the token is not known here: see admin.tokens, or state_dir/admin-token"
_TOO_MANY: Final = "too many wrong tokens came from this address: wait, then send the right one"


@dataclass(frozen=True, slots=True)
class Turned:
    """A request that is not let in."""

    status: int
    text: str
    retry_after_s: int | None = None


@dataclass(slots=True)
class _Address:
    free_at_s: float = 0.0
    """When all its wrong tokens are paid off, one every `INTERVAL_S`."""
    waiting: int = 0


class TokenGate:
    """Judges presented tokens. `accept` gives the name of a token's owner, None for a wrong one."""

    def __init__(
        self,
        accept: Callable[[str], str | None],
        *,
        clock: Callable[[], float] = time.monotonic,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._accept = accept
        self._clock = clock
        self._interval_s = interval_s
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    async def admit(self, remote: str, presented: Sequence[str]) -> str | Turned:
        """Give the name of whoever presents these tokens (of several all must be right)."""
        if not presented:
            return Turned(401, _MISSING)
        network = _network_of(remote)
        address = self._addresses.get(network)
        if address is not None and not await self._wait_turn(address):
            return Turned(429, _TOO_MANY, retry_after_s=max(1, round(self._interval_s * FREE)))
        names = [self._accept(token) for token in presented]
        if None not in names:
            return names[0] or ""
        self._note_wrong(network)
        return Turned(401, _UNKNOWN)

    async def _wait_turn(self, address: _Address) -> bool:
        """Wait until the address's debt is small; False if too many wait already."""
        if self._wait_s(address) <= 0:
            return True
        if address.waiting >= MOST_WAITING:
            return False
        address.waiting += 1
        try:
            # Whoever wakes first and is wrong makes the others wait again.
            while (wait_s := self._wait_s(address)) > 0:  # noqa: ASYNC110 - time is waited for
                await asyncio.sleep(wait_s)
        finally:
            address.waiting -= 1
        return True

    def _wait_s(self, address: _Address) -> float:
        return address.free_at_s - self._clock() - (FREE - 1) * self._interval_s

    def _note_wrong(self, network: str) -> None:
        address = self._addresses.setdefault(network, _Address())
        self._addresses.move_to_end(network)
        address.free_at_s = max(address.free_at_s, self._clock()) + self._interval_s
        if len(self._addresses) > MOST_ADDRESSES:
            self._addresses.popitem(last=False)


def _network_of(remote: str) -> str:
    """Name what counts as one sender: an IPv4 address, a /64 of IPv6."""
    try:
        ip = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return remote
    if ip.version == 4:  # noqa: PLR2004 - IPv4
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, _IPV6_NETWORK), strict=False))
