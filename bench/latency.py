"""What a proxy adds to a request's duration: an open loop at half of what it can do at most.

Requests are due at times that do not depend on answers, and durations run from these. The same rate
is sent to the backend without a proxy, to know what load and backend take themselves.
"""

from __future__ import annotations

from bench.report import LoadReport
from bench.rounds import Bench, Pair
from bench.run_file import Latency
from bench.running import Running

_HALF = 0.5
_LEAST_REQUESTS = 200


def measure(bench: Bench, pair: Pair, bare: Running, seconds: float) -> Latency:
    """Send at half of a pair's throughput, through the proxy and without one.

    Raises:
        RunFailedError: a response was wrong.
    """
    rate = round(pair.cell.rps * _HALF, 1)
    requests = max(_LEAST_REQUESTS, int(rate * seconds))

    def send(running: Running) -> LoadReport:
        return bench.send(running, pair.row, requests, f"--rate={rate}")

    through, without = send(pair.running), send(bare)
    return Latency(
        row=pair.row.name,
        proxy=pair.name,
        rate=rate,
        p50_ms=through.p50_ms,
        p99_ms=through.p99_ms,
        p999_ms=through.p999_ms,
        bare_p50_ms=without.p50_ms,
        bare_p99_ms=without.p99_ms,
        bare_p999_ms=without.p999_ms,
    )
