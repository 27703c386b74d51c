"""How soon a deleted key stops working everywhere: `python -m bench.revocation`.

**One machine.** A gateway with two workers runs on a SQLite store. Many times over: a key is
created as `gateway keys create` does, accepted on a connection to each worker, deleted as `gateway
keys delete` does, and sent again and again on each connection until it is refused. Reported are the
times from the delete's commit (it is on disk) and from its acknowledgement (the command returns:
every worker has confirmed) to the first refusal in the last worker; a refusal before the
acknowledgement counts as 0.

**Two gateways**, each with two workers, share a PostgreSQL. Keys are created and deleted through
the API of one and sent to both, from the moment when the delete is asked for until the last of the
four workers refuses. Then the same with the notifications lost on their way to the other gateway:
it must look by itself.

Exit code 1 when a bound is missed: 100 ms on one machine, by the 99th percentile since the commit;
1 s with two gateways and 5 s without notifications, by the longest time.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from bench import one_machine, two_gateways
from bench.each_worker import connect_to_each_worker, owner_of
from bench.one_machine import Lags
from bench.process import ProgramError
from bench.report import RunFailedError, percentile
from bench.two_gateways import SharedLags

__all__ = ["connect_to_each_worker", "main", "missed_gates", "owner_of"]

MAX_P99_MS = 100.0
MAX_SHARED_MS = 1_000.0
MAX_LOST_MS = 5_000.0


def _line(what: str, ordered_ms: list[float]) -> str:
    if not ordered_ms:
        return f"  {what:25}: –"
    return (
        f"  {what:25}: p50 {percentile(ordered_ms, 0.5):.1f} ms, "
        f"p99 {percentile(ordered_ms, 0.99):.1f} ms, max {ordered_ms[-1]:.1f} ms"
    )


def _print(lags: Lags, shared: SharedLags, workers: int) -> None:
    print(f"one machine, {workers} workers, {len(lags.since_commit_ms)} deletes")
    print(_line("since the commit", lags.since_commit_ms))
    print(_line("since the acknowledgement", lags.since_acknowledged_ms))
    print(f"  not acknowledged within 1 s: {lags.unacknowledged}")
    print(f"two gateways, 2 workers each, {len(shared.notified_ms)} deletes")
    print(_line("since it was asked for", shared.notified_ms))
    print(f"the same without notifications, {len(shared.lost_ms)} deletes")
    print(_line("since it was asked for", shared.lost_ms))


def missed_gates(lags: Lags, shared: SharedLags) -> list[str]:
    """Say which bounds are missed."""
    gates = [
        ("one machine, p99 since the commit", percentile(lags.since_commit_ms, 0.99), MAX_P99_MS),
        ("two gateways, max", shared.notified_ms[-1], MAX_SHARED_MS),
        ("two gateways without notifications, max", shared.lost_ms[-1], MAX_LOST_MS),
    ]
    return [
        f"GATE MISSED: {what}: {value:.0f} ms, at most {most:.0f}"
        for what, value, most in gates
        if value > most
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="bench.revocation", description=__doc__)
    parser.add_argument("--times", type=int, default=500, help="deletes on one machine")
    parser.add_argument("--workers", type=int, default=2, help="on one machine")
    parser.add_argument("--shared-times", type=int, default=200, help="with two gateways")
    parser.add_argument("--lost-times", type=int, default=100, help="without notifications")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times to FILE")
    options = parser.parse_args(arguments)
    counts = (options.times, options.workers, options.shared_times, options.lost_times)
    if min(counts) < 1:
        parser.error("--times, --workers, --shared-times and --lost-times must be at least 1")
    try:
        lags = one_machine.measure(options.times, options.workers)
        shared = two_gateways.measure(options.shared_times, options.lost_times)
    except (ProgramError, RunFailedError, OSError) as error:
        print(f"the bench could not be run: {error}", file=sys.stderr)
        return 2
    _print(lags, shared, options.workers)
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(lags) | asdict(shared)), encoding="utf-8")
    missed = missed_gates(lags, shared)
    for text in missed:
        print(text, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
