"""What was seen of one attack, and what of it must not be."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Final

from bench.hostile.attack import Traffic
from bench.hostile.bystanders import Report

MAX_TIMES: Final = 5.0
ALWAYS_ALLOWED_MS: Final = 50.0
"""The 99th percentile of a well-behaved client may be this, or so many times what it was before."""
CONNECTION_KIB: Final = 64
"""What a worker may hold for an open connection beside `limits.buffer_memory`."""
_RESTARTS: Final = r"^gateway_worker_restarts_total\{"
_INTERNAL: Final = r"^gateway_internal_errors_total\{"


@dataclass(frozen=True, slots=True)
class Memory:
    """VmRSS of the worker in MB (2^20 bytes), and the connections it had beside its base's."""

    base_mb: float
    peak_mb: float
    connections: int
    buffer_mb: float

    @property
    def allowed_mb(self) -> float:
        """What the worker may hold."""
        return self.base_mb + self.buffer_mb + self.connections * CONNECTION_KIB / 1024


@dataclass(frozen=True, slots=True)
class Observation:
    """All that was seen of one attack.

    Attributes:
        before, during: how each well-behaved client fared.
        grown: by how much each series of the metrics has grown; gauges by their peak.
        same_worker: whether the process that served before still does.
    """

    attack: str
    title: str
    counted: tuple[str, ...]
    traffic: Traffic
    before: dict[str, Report]
    during: dict[str, Report]
    memory: Memory
    grown: dict[str, float]
    same_worker: bool

    def counted_as(self) -> list[str]:
        """Return the series that say that the attack was noticed, most grown first."""
        return sorted(matching(self.grown, *self.counted), key=lambda name: -self.grown[name])

    def missed(self) -> list[str]:
        """Return why this attack fails, in words; nothing where it does not."""
        return [
            *self._restarts(),
            *(line for name in self.during for line in self._client(name)),
            *self._held(),
            *([] if self.counted_as() else ["not counted"]),
            *(f"internal error: {name}" for name in matching(self.grown, _INTERNAL)),
        ]

    def _restarts(self) -> list[str]:
        restarts = matching(self.grown, _RESTARTS)
        if restarts or not self.same_worker:
            return [f"worker replaced ({', '.join(restarts) or 'another process'})"]
        return []

    def _client(self, name: str) -> list[str]:
        before, during = self.before[name], self.during[name]
        missed = []
        if during.failed or not during.requests:
            why = during.reasons[0] if during.reasons else "nothing was sent"
            missed.append(f"{name}: {during.failed} of {during.requests} failed ({why})")
        allowed_ms = max(ALWAYS_ALLOWED_MS, MAX_TIMES * before.p99_ms)
        if during.p99_ms > allowed_ms:
            missed.append(f"{name}: p99 {during.p99_ms:.0f} ms, at most {allowed_ms:.0f}")
        return missed

    def _held(self) -> list[str]:
        memory = self.memory
        if memory.peak_mb <= memory.allowed_mb:
            return []
        return [f"worker holds {memory.peak_mb:.0f} MB, at most {memory.allowed_mb:.0f}"]

    def to_dict(self) -> dict[str, object]:
        """Return it for a file of results."""
        return {**asdict(self), "missed": self.missed(), "counted_as": self.counted_as()}


def matching(series: dict[str, float], *patterns: str) -> list[str]:
    """Return the names of the series that have grown and match one of the patterns."""
    return [
        name
        for name, grown in series.items()
        if grown > 0 and any(re.search(pattern, name) for pattern in patterns)
    ]


def grown(
    before: dict[str, float], after: dict[str, float], peaks: dict[str, float]
) -> dict[str, float]:
    """Return by how much each series has grown, at its peak or at the end, where it has."""
    highest = {name: max(value, peaks.get(name, value)) for name, value in after.items()}
    differences = {name: value - before.get(name, 0.0) for name, value in highest.items()}
    return {name: value for name, value in differences.items() if value > 0}
