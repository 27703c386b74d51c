"""Refused keys, summed up between two reports: who was refused why, how often.

A worker logs nothing about them: control does, rate-limited and with the keys' names. The number of
groups is bounded, because a flood of made-up keys could make any number of them.
"""

from __future__ import annotations

from typing import Final

from gateway.channel import Refused
from gateway.dataplane.core import peers
from gateway.dataplane.core.credential import Credential
from gateway.dataplane.core.memo import Memo
from gateway.model import Principal

MAX_GROUPS: Final = 1_000
"""Groups between two reports; the rest is summed up per reason under `OTHER`."""
OTHER: Final = "other"
_PREFIX_BYTES: Final = 4
_NETWORKS_KEPT: Final = 1_024


class RefusalLog:
    """Collects what `take` hands to the next report."""

    def __init__(self, max_groups: int = MAX_GROUPS) -> None:
        self._max_groups = max_groups
        self._first: dict[tuple[str, str], Refused] = {}
        """(who, reason) → the group's first refusal: it stands for all of them."""
        self._counts: dict[tuple[str, str], int] = {}
        self._networks: Memo[str, str] = Memo(_NETWORKS_KEPT)
        """Peer → its network."""

    def note(
        self,
        credential: Credential,
        reason: str,
        principal: Principal | None,
        *,
        peer: str,
        protocol: str,
        signal: str,
    ) -> None:
        """Count a refusal. `reason` is an `AuthOutcome`, `principal` whose key it was, if known."""
        digest = credential.digest
        prefix = digest[:_PREFIX_BYTES].hex() if digest is not None else ""
        group = (prefix or self._network_of(peer), reason)
        if group not in self._counts and len(self._counts) >= self._max_groups:
            group = (OTHER, reason)
        count = self._counts.get(group, 0)
        self._counts[group] = count + 1
        if not count:
            self._first[group] = Refused(
                who=group[0],
                reason=reason,
                count=1,
                peer=peer,
                scheme=credential.scheme,
                key_id=principal.key_id if principal is not None else "",
                digest_prefix=prefix,
                protocol=protocol,
                signal=signal,
            )

    def _network_of(self, peer: str) -> str:
        return self._networks.kept.get(peer) or self._networks.add(peer, peers.network_of(peer))

    def take(self) -> list[Refused]:
        """Return what was refused since the last call."""
        if not self._counts:
            return []
        first, counts = self._first, self._counts
        self._first, self._counts = {}, {}
        return [
            Refused(
                who=group[0],
                reason=group[1],
                count=counts[group],
                peer=refused.peer,
                scheme=refused.scheme,
                key_id=refused.key_id,
                digest_prefix=refused.digest_prefix,
                protocol=refused.protocol,
                signal=refused.signal,
            )
            for group, refused in first.items()
        ]
