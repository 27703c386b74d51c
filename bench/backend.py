"""The bench's backend and load as separate processes, seen from the measuring one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from bench.process import START_TIMEOUT_S, Program, ProgramError, pinned
from bench.report import LoadReport, RunFailedError

_CHECKOUT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Backend:
    """A running `bench.sink`."""

    program: Program
    port: int

    @classmethod
    def start(
        cls, folder: Path, core: int | None, *, bdp_pings: bool = False, stall: bool = False
    ) -> Backend:
        """Start it, and return once it listens.

        Raises:
            ProgramError: it does not come up.
        """
        command = [
            sys.executable,
            "-m",
            "bench.sink",
            *(["--bdp-pings"] if bdp_pings else []),
            *(["--stall"] if stall else []),
        ]
        program = Program.start(
            "sink", command, folder=folder, core=core, environment={"PYTHONPATH": str(_CHECKOUT)}
        )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not program.output().endswith("}\n"):
            program.check_alive()
            if time.monotonic() > deadline_s:
                program.stop()
                message = f"the sink does not come up: {program.output()}"
                raise ProgramError(message)
            time.sleep(0.02)
        return cls(program, json.loads(program.output())["port"])

    def counts(self) -> tuple[int, int]:
        """Return how many requests, and bytes of bodies, have arrived so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/count", timeout=10) as answer:
            counts = json.load(answer)
        return counts["requests"], counts["body_bytes"]


def send_load(arguments: list[str], core: int | None) -> LoadReport:
    """Run `bench.load` with `arguments` on `core`.

    Raises:
        RunFailedError: any response was not the expected one.
    """
    with pinned(core):
        run = subprocess.run(
            [sys.executable, "-m", "bench.load", *arguments],
            cwd=_CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )
    if run.returncode:
        raise RunFailedError(run.stderr.strip())
    return LoadReport.from_json(run.stdout)
