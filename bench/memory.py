"""A gateway at rest, its memory and how long it took to serve: `python -m bench.memory`.

A gateway with 100 keys and one worker passes 1,000 small requests on; then each of its processes'
VmRSS is read. Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

from bench import gates, run_file
from bench.backend import Backend, send_load
from bench.process import ProgramError, resident_mb
from bench.proxies import Gateway
from bench.report import RunFailedError
from bench.rows import ROWS
from bench.run_file import Rest

_KEYS = 100
_REQUESTS = 1000
_STARTS = 3


def measure() -> Rest:
    """Start a gateway, send, and read what its processes hold. The quickest of three starts counts.

    Raises:
        ProgramError: the gateway or the backend does not start, or there is no worker.
        RunFailedError: a request was not answered as expected.
    """
    return min((_measure_once() for _ in range(_STARTS)), key=lambda rest: rest.start_s)


def _measure_once() -> Rest:
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
        return Rest(
            resident_mb(control.pid),
            max(resident_mb(worker.pid) for worker in workers),
            running.start_s or 0.0,
        )


def main() -> int:
    """Run the command."""
    try:
        rest = measure()
    except (ProgramError, RunFailedError) as error:
        print(f"the bench could not be run: {error}", file=sys.stderr)
        return 2
    code = 0
    for judged in gates.judge_rest(rest, run_file.published()):
        code = code if judged.is_met else 1
        print(judged.verdict, file=sys.stdout if judged.is_met else sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
