"""One url of a backend: the addresses that its name leads to, and when to ask again.

The system's resolver tells no TTL, so a name is asked for again after a fixed time, and soon when a
connection cannot be made or is lost. A name that cannot be resolved now keeps the addresses that it
had.
"""

from __future__ import annotations

import ipaddress
import random
import socket
from collections.abc import Callable, Iterable
from typing import Final

from gateway.dataplane.upstream.address import RETRY_S, Address, Where
from gateway.settings import Target

_SOON_S: Final = 1.0
"""Least time between two resolutions of a name that leads to somebody."""


def literal_address(target: Target) -> Where | None:
    """Return the address that a url's host is, None where it is a name."""
    try:
        address = ipaddress.ip_address(target.host)
    except ValueError:
        return None
    if address.version == 4:
        return Where(socket.AF_INET, (target.host, target.port))
    if "%" in target.host:
        return None  # only the resolver knows the number of the interface
    return Where(socket.AF_INET6, (target.host, target.port, 0, 0))


class Url:
    """See the module. Times are monotonic seconds."""

    __slots__ = (
        "addresses",
        "departed",
        "has_failed",
        "is_awaited",
        "is_resolving",
        "is_up",
        "resolve_at",
        "resolved_at",
        "target",
    )

    def __init__(self, target: Target) -> None:
        self.target = target
        self.addresses: list[Address] = []
        self.departed: list[Address] = []
        """Those that the name no longer leads to, while no other one can be used yet."""
        self.is_resolving = False
        self.is_awaited = False
        """Whether requests may wait for the resolver: it has not taken too long yet."""
        self.resolved_at = float("-inf")
        self.resolve_at = float("-inf")
        """When the name is to be resolved; never where the host is an address."""
        self.is_up: bool | None = None
        """Whether one of the addresses is up; None: unknown."""
        self.has_failed = False
        """Whether the name leads nowhere."""

    @property
    def in_use(self) -> list[Address]:
        """The addresses that get requests."""
        return [*self.addresses, *self.departed]

    @property
    def usable(self) -> bool:
        """Whether one of the addresses has a connection without doubt."""
        return any(address.usable for address in self.in_use)

    def is_due(self, now: float) -> bool:
        """Whether the name is to be resolved."""
        return not self.is_resolving and now >= self.resolve_at

    def hurry(self) -> None:
        """Resolve the name soon: something has changed."""
        if self.resolve_at < float("inf"):
            soon_s = _SOON_S if self.usable else RETRY_S
            self.resolve_at = min(self.resolve_at, self.resolved_at + soon_s)

    def resolved(
        self,
        found: Iterable[Where],
        now: float,
        interval_s: float,
        make: Callable[[Where], Address],
    ) -> None:
        """Take what the name leads to now; `make` makes an address that is new."""
        known = {address.where: address for address in self.in_use}
        self.addresses = [
            known.pop(where) if where in known else make(where) for where in dict.fromkeys(found)
        ]
        self.departed = list(known.values())
        self.has_failed = False
        self.resolved_at = now
        # Not all workers ask at the same time.
        self.resolve_at = now + interval_s * random.uniform(0.9, 1.0)

    def failed_to_resolve(self, now: float) -> None:
        """Try again: soon where requests wait for it."""
        self.has_failed = not self.addresses
        self.resolved_at = now
        self.resolve_at = now + (_SOON_S if self.addresses else RETRY_S)

    def release_departed(self) -> list[Address]:
        """Return the addresses that get no more requests."""
        departed, self.departed = self.departed, []
        return departed

    def judge(self) -> bool:
        """Find out whether the url is up; return whether that has changed."""
        states = {address.is_up for address in self.in_use}
        before = self.is_up
        if True in states:
            self.is_up = True
        elif None not in states and (states or self.has_failed):
            self.is_up = False
        return self.is_up is not before
