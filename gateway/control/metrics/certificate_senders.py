"""Whom clients' certificates name: what workers say of them at their first connection."""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.channel import Lookup, SenderSeen, Traced
from gateway.control.workers.worker_handle import WorkerHandle, WorkerObserver
from gateway.keys.tenancy import Tenancy, tenancy

MOST: Final = 100_000
"""Senders that are remembered; those that came first are forgotten first."""


class _Sender(NamedTuple):
    name: str
    tenancy: Tenancy | None


class CertificateSenders(WorkerObserver):
    """Names and tenancies by what workers call the senders."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: dict[str, _Sender] = {}

    def name(self, key_id: str) -> str:
        """Return the name of a sender, "" for an unknown one."""
        sender = self._known.get(key_id)
        return "" if sender is None else sender.name

    def tenancy(self, key_id: str) -> Tenancy | None:
        """Return whose data a sender sends; None where nothing is known of that."""
        sender = self._known.get(key_id)
        return None if sender is None else sender.tenancy

    def worker_sent(self, worker: WorkerHandle, message: Lookup | Traced | SenderSeen) -> None:  # noqa: ARG002 - an observer's
        """Take note of a sender (`WorkerObserver`)."""
        if not isinstance(message, SenderSeen):
            return
        if message.key_id not in self._known and len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        whose = tenancy(message.owner, message.labels, {})
        self._known[message.key_id] = _Sender(message.name, whose)
