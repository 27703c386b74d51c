"""What goes wrong before there is a request, logged so that one noisy peer does not hide another.

The first of a kind from a network is logged at once, then one line a minute that says how many more
there were. Refused keys do not belong here: control logs those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from gateway.dataplane.core import peers

INTERVAL_S: Final = 60.0
MAX_GROUPS: Final = 256
"""Groups that are told apart; the peers of all others are summed up per kind."""
OTHER: Final = "other"
MALFORMED_REQUEST: Final = (
    "a client sends requests that are not well-formed HTTP: they are refused and not forwarded"
)
"""Logged for either version of HTTP."""

_log = structlog.get_logger("gateway.worker")


@dataclass(slots=True)
class _Group:
    logged_at: float
    peer: str
    unsaid: int = 0


class ThrottledLog:
    """Warnings about peers. Times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], _Group] = {}

    def warn(self, text: str, peer: str, now: float, detail: str = "") -> None:
        """Log `text`, which is fixed per kind, unless it was logged for the peer's network lately.

        `detail` is a library's own words on this one case; never what the peer sent.
        """
        key = (text, peers.network_of(peer))
        group = self._groups.get(key)
        if group is None and len(self._groups) >= MAX_GROUPS:
            key = (text, OTHER)
            group = self._groups.get(key)
        if group is None:
            self._groups[key] = _Group(now, peer)
            _log.warning(text, peer=peer, **({"detail": detail} if detail else {}))
        else:
            group.unsaid += 1
            group.peer = peer

    def sweep(self, now: float) -> None:
        """Log how often it happened meanwhile, and forget the networks that went quiet."""
        for key, group in list(self._groups.items()):
            if now - group.logged_at < INTERVAL_S:
                continue
            if not group.unsaid:
                del self._groups[key]
                continue
            text, network = key
            _log.warning(
                text, network=network, last_peer=group.peer, more=group.unsaid, within_s=INTERVAL_S
            )
            group.unsaid = 0
            group.logged_at = now
