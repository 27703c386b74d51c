"""What a run of load says of itself."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass


class RunFailedError(Exception):
    """A response was not the expected one: the run measures nothing."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The result of a run in which every response was the expected one.

    Attributes:
        requests: how many were sent and answered.
        seconds: from the first request to the last answer.
        rps: requests per second.
        p50_ms, p99_ms, p999_ms: from the first byte of a request handed to the kernel's queue or
            ours (in an open loop: from when it was due) to the end of its answer.
    """

    requests: int
    seconds: float
    rps: float
    p50_ms: float
    p99_ms: float
    p999_ms: float

    @classmethod
    def of(cls, seconds: float, durations_s: list[float]) -> LoadReport:
        """Summarise a run."""
        ordered = sorted(durations_s)
        return cls(
            requests=len(ordered),
            seconds=seconds,
            rps=len(ordered) / seconds,
            p50_ms=percentile(ordered, 0.50) * 1e3,
            p99_ms=percentile(ordered, 0.99) * 1e3,
            p999_ms=percentile(ordered, 0.999) * 1e3,
        )

    @classmethod
    def from_json(cls, text: str) -> LoadReport:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Return the report as one line."""
        return json.dumps(asdict(self))


def percentile(ordered: list[float], share: float) -> float:
    """Return the smallest value with at least `share` of the ascending `ordered` at or below it."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]
