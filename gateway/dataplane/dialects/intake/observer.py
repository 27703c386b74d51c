"""Counts of the agents' intake: what they send, how it ended, and which versions of them do.

A version is what the sender's own headers say, so it is counted for good keys only, and so many
different ones at most: no caller can make series without end.
"""

from __future__ import annotations

import re
from typing import Final

from gateway import metrics
from gateway.dataplane.core.counters import Counters
from gateway.dataplane.core.heads import RequestHead
from gateway.dataplane.dialects.intake.dialect import IntakeDialect
from gateway.dataplane.exchange.record import RequestObserver, RequestRecord
from gateway.intake import Sender

VERSIONS_KEPT: Final = 50
"""Different versions that a worker tells apart."""
_REQUESTS: Final = metrics.INTAKE_REQUESTS.name
_AGENTS: Final = metrics.INTAKE_AGENTS.name
_VERSION: Final = re.compile(rb"v?([0-9]{1,4}(?:\.[0-9]{1,4}){1,2})(?![0-9])")
_NAMES: Final = frozenset(
    {
        b"sts-agent-version",
        b"sts-processagentversion",
        b"dd-agent-version",
        b"x-dd-processagentversion",
    }
)
_USER_AGENT: Final = frozenset({b"user-agent"})
_BY_USER_AGENT: Final = frozenset({Sender.LOGS_AGENT.value, Sender.PROMETHEUS.value})
"""Senders whose version stands behind a slash in User-Agent."""


class IntakeObserver(RequestObserver):
    """Counts into a worker's counters (`RequestObserver`)."""

    def __init__(self, counters: Counters) -> None:
        self._plain = counters.plain
        self._versions: dict[bytes, str] = {}
        """Header value → version."""
        self._known: set[str] = set()

    def on_end(self, record: RequestRecord) -> None:
        """See `RequestObserver`."""
        dialect = record.route.dialect
        if type(dialect) is not IntakeDialect:
            return
        rules = dialect.rules
        sender = rules.sender
        self._plain[_REQUESTS, (rules.label, sender, record.result)] += 1
        if record.principal is not None:
            head = record.head
            version = head.sender_version
            if not version:
                version = head.sender_version = self._version_of(head, sender)
            self._plain[_AGENTS, (sender, version)] += 1

    def _version_of(self, head: RequestHead, sender: str) -> str:
        names = _USER_AGENT if sender in _BY_USER_AGENT else _NAMES
        for name, value in head.fields:
            if name.lower() in names:
                return self._versions.get(value) or self._read(value)
        return metrics.UNKNOWN_VERSION

    def _read(self, value: bytes) -> str:
        match = _VERSION.match(value.rpartition(b"/")[2])
        version = match[1].decode() if match is not None else metrics.OTHER_VERSION
        if version not in self._known:
            if len(self._known) >= VERSIONS_KEPT:
                return metrics.OTHER_VERSION
            self._known.add(version)
        if len(self._versions) < 10 * VERSIONS_KEPT:
            self._versions[value] = version
        return version
