"""What a worker at rest holds: `python -m bench.memory`.

A gateway with 100 keys and one worker passes 1,000 small requests on; then each of its processes'
VmRSS is read. Exit code 1 when a worker holds more than 45 MB.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.backend import Backend, send_load
from bench.process import ProgramError, resident_mb
from bench.proxies import Gateway
from bench.report import RunFailedError
from bench.rows import ROWS

MAX_WORKER_MB = 45.0
_KEYS = 100
_REQUESTS = 1000


@dataclass(frozen=True, slots=True)
class Memory:
    """VmRSS in MB (2^20 bytes) of the gateway's processes at rest."""

    control_mb: float
    workers_mb: tuple[float, ...]


def measure() -> Memory:
    """Start a gateway, send, and read what its processes hold.

    Raises:
        ProgramError: the gateway or the backend does not start, or there is no worker.
        RunFailedError: a request was not answered as expected.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        backend = Backend.start(folder, None)
        stack.callback(backend.program.stop)
        running = Gateway(key_count=_KEYS).start(folder, backend.port, None)
        stack.callback(running.program.stop)
        row = ROWS["grpc-small"]
        arguments = row.load_arguments(running.ports["grpc"], _REQUESTS, bdp_pings=False)
        send_load([*arguments, f"--keys={_KEYS}"], None)
        control, *workers = running.program.tree()
        if not workers:
            message = "the gateway has no worker process to measure"
            raise ProgramError(message)
        return Memory(
            resident_mb(control.pid), tuple(resident_mb(worker.pid) for worker in workers)
        )


def missed_gate(memory: Memory) -> str | None:
    """Print what was measured; return why the gate is missed, or None."""
    workers = ", ".join(f"{each:.1f}" for each in memory.workers_mb)
    print(f"memory at rest: worker {workers} MB, control {memory.control_mb:.1f} MB")
    worst = max(memory.workers_mb)
    if worst > MAX_WORKER_MB:
        return f"GATE MISSED: a worker at rest holds {worst:.1f} MB, at most {MAX_WORKER_MB:.0f}"
    return None


def main() -> int:
    """Run the command."""
    try:
        missed = missed_gate(measure())
    except (ProgramError, RunFailedError) as error:
        print(f"the bench could not be run: {error}", file=sys.stderr)
        return 2
    if missed is not None:
        print(missed, file=sys.stderr)
    return 0 if missed is None else 1


if __name__ == "__main__":
    sys.exit(main())
