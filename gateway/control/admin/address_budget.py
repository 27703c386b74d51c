"""How many requests without a token one address may send to control.

Control is one process that looks after all workers: whoever reaches an address that asks for no
token must not keep it busy.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from gateway.control.core.networks import network_of

AT_ONCE: Final = 1_000
"""Requests at once: a collector that starts asks for each of its senders."""
PER_SECOND: Final = 200.0
"""What comes back each second. One request takes some 0.2 ms of control."""
MOST_ADDRESSES: Final = 10_000
"""Addresses that are remembered; the longest quiet are forgotten first."""


class AddressBudget:
    """The budgets of all addresses: an IPv4 address, or a /64 of IPv6, has one."""

    def __init__(
        self,
        *,
        at_once: int = AT_ONCE,
        per_second: float = PER_SECOND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s = 1 / per_second
        self._longest_s = at_once * self._interval_s
        self._clock = clock
        self._full_again_s: OrderedDict[str, float] = OrderedDict()
        """When an address has its whole budget again; the longest quiet address first."""

    def take(self, remote: str) -> int:
        """Take one request of an address; return 0, or in how many seconds there is one again."""
        network = network_of(remote)
        now = self._clock()
        full_again = max(self._full_again_s.get(network, now), now) + self._interval_s
        missing_s = full_again - now - self._longest_s
        if missing_s > self._interval_s / 2:  # half: sums of fractions are never exact
            return max(1, math.ceil(missing_s))
        self._full_again_s[network] = full_again
        self._full_again_s.move_to_end(network)
        if len(self._full_again_s) > MOST_ADDRESSES:
            self._full_again_s.popitem(last=False)
        return 0
