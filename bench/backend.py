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
from bench.running import Tls

_CHECKOUT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Backend:
    """A running `bench.sink`."""

    program: Program
    port: int
    tls_port: int | None = None

    @classmethod
    def start(
        cls,
        folder: Path,
        core: int | None,
        *,
        bdp_pings: bool = False,
        stall: bool = False,
        tls: Tls | None = None,
    ) -> Backend:
        """Start it, and return once it listens; with `tls` on a second port as well.

        Raises:
            ProgramError: it does not come up.
        """
        command = [
            sys.executable,
            "-m",
            "bench.sink",
            *(["--bdp-pings"] if bdp_pings else []),
            *(["--stall"] if stall else []),
            *([f"--tls={tls.cert_file},{tls.key_file}"] if tls is not None else []),
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
        ports = json.loads(program.output())
        return cls(program, ports["port"], ports["tls_port"])

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


class Loader:
    """A `bench.load` that carries out one run after the other.

    One process for all runs: starting it, and making bodies of 2 MB, takes longer than a run.
    """

    def __init__(self, core: int | None) -> None:
        """Start it on `core`.

        Raises:
            ProgramError: there is no such core.
        """
        with pinned(core):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.load", "--serve"],
                cwd=_CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )

    def send(self, arguments: list[str]) -> LoadReport:
        """Run `bench.load` with `arguments`.

        Raises:
            RunFailedError: any response was not the expected one.
        """
        asked, answers = self._process.stdin, self._process.stdout
        if asked is None or answers is None:
            message = "the load has no pipes"
            raise RunFailedError(message)
        asked.write(json.dumps(arguments) + "\n")
        asked.flush()
        line = answers.readline()
        if not line:
            message = f"the load ended with code {self._process.wait()}"
            raise RunFailedError(message)
        answer = json.loads(line)
        if "error" in answer:
            raise RunFailedError(answer["error"])
        return LoadReport(**answer)

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()
