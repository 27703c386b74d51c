"""Checks the tokens of requests to the admin API, and limits how fast tokens can be guessed.

Every address may present a few wrong tokens at once; after that its requests with tokens, right or
wrong, are checked at one per `INTERVAL_S`, so that more connections do not speed up guessing. An
address that presents no wrong tokens never waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.control.admin.roles import Caller, Role
from gateway.control.core.networks import network_of

INTERVAL_S: Final = 1.0
"""How long one wrong token delays its address, once the free ones are used up."""
FREE: Final = 5
"""Wrong tokens at once without a delay: typing errors, an old token in a script."""
MOST_WAITING: Final = 8
"""Requests of one address that wait for their turn; more are rejected."""
MOST_ADDRESSES: Final = 10_000
"""Addresses whose wrong tokens are remembered; the longest quiet are forgotten first."""

_MISSING: Final = "no token: send it in the header X-API-Token"
_UNKNOWN: Final = "unknown token: see admin.tokens, or state_dir/admin-token"
_TOO_MANY: Final = "too many wrong tokens came from this address: wait, then send the right one"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A request that is not admitted, and its answer."""

    status: int
    text: str
    retry_after_s: int | None = None
    caller: Caller | None = None
    """Who it was, whose role or scope does not suffice."""


def allowed(caller: Caller, needed: Role, *, takes_scopes: bool = False) -> Caller | Rejected:
    """Return the caller, if its role is at least `needed`.

    `takes_scopes`: whether those may ask who may do so with some keys only.
    """
    if caller.role < needed:
        text = f"the role of {caller.name!r} is {caller.role}: this needs the role {needed}"
        return Rejected(403, text, caller=caller)
    if not (takes_scopes or caller.scope.is_everything):
        text = f"{caller.name!r} has labels, for keys alone: this needs a token without labels"
        return Rejected(403, text, caller=caller)
    return caller


@dataclass(slots=True)
class _Address:
    free_at_s: float = 0.0
    """When its wrong tokens no longer count, one every `INTERVAL_S`."""
    waiting: int = 0


class TokenGate:
    """Checks presented tokens and certificates.

    `accept` returns whose token it is, None for a wrong one; `find` whose certificate.
    """

    def __init__(
        self,
        accept: Callable[[str], Caller | None],
        find: Callable[[Mapping[str, Any] | None], Caller | None] = lambda _: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._accept = accept
        self._find = find
        self._clock = clock
        self._interval_s = interval_s
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    async def admit(
        self,
        remote: str,
        presented: Sequence[str],
        needed: Role,
        certificate: Mapping[str, Any] | None = None,
        *,
        takes_scopes: bool = False,
    ) -> Caller | Rejected:
        """Return who calls, with at least the role `needed`; `takes_scopes` as for `allowed`.

        Of several tokens all must be right, and the one with the least role counts. A certificate,
        which TLS has verified, counts where no token is presented.
        """
        caller = await self._identify(remote, presented, certificate)
        if isinstance(caller, Rejected):
            return caller
        return allowed(caller, needed, takes_scopes=takes_scopes)

    async def _identify(
        self, remote: str, presented: Sequence[str], certificate: Mapping[str, Any] | None
    ) -> Caller | Rejected:
        if not presented:
            return self._find(certificate) or Rejected(401, _MISSING)
        network = network_of(remote)
        address = self._addresses.get(network)
        if address is not None and not await self._wait_turn(address):
            return Rejected(429, _TOO_MANY, retry_after_s=max(1, round(self._interval_s * FREE)))
        callers = [caller for token in presented if (caller := self._accept(token)) is not None]
        if len(callers) == len(presented):
            return min(callers, key=lambda caller: (caller.role, caller.scope.is_everything))
        self._note_wrong(network)
        return Rejected(401, _UNKNOWN)

    async def _wait_turn(self, address: _Address) -> bool:
        """Wait until the address may try again; False if too many of its requests wait already."""
        if self._wait_s(address) <= 0:
            return True
        if address.waiting >= MOST_WAITING:
            return False
        address.waiting += 1
        try:
            # A request that wakes first and has a wrong token makes the others wait again.
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
