"""What samples of requests cost the data path (`usage.sample`): `python -m bench.samples`.

Two gateways, one of which takes samples, get the same load in turn, so that whatever else the
machine does falls on both alike; the medians of the pairs are compared. The CPU is that of the
worker; what control and the decoder take besides is printed. Rounds are long: samples are few a
second, whatever the load.

Exit code 1 when samples cost more than `MOST_MORE`; 2 when it could not be run.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from bench import keys
from bench.backend import Backend, send_load
from bench.process import ProgramError, cpu_ns_of
from bench.proxies import Gateway
from bench.report import RunFailedError
from bench.rows import ROWS, Row
from bench.running import Running

MOST_MORE: Final = 0.02
_ROWS: Final = ("grpc-small", "http-small")
_REQUESTS: Final = 20_000
_WORKER: Final = b"gateway.dataplane.worker_process"


@dataclass(frozen=True, slots=True)
class _Sampling(Gateway):
    def _configuration(
        self, folder: Path, port: int, admin_port: int, backend_port: int
    ) -> dict[str, object]:
        tree = super(_Sampling, self)._configuration(folder, port, admin_port, backend_port)
        return {**tree, "usage": {"sample": True}}


@dataclass(frozen=True, slots=True)
class _Cost:
    """CPU per request, in µs."""

    worker: float
    others: float


class _Subject:
    """A running gateway and its worker."""

    def __init__(self, running: Running) -> None:
        self._running = running
        control = running.program.process.pid
        children = Path(f"/proc/{control}/task/{control}/children").read_text().split()
        (self._worker,) = (
            int(pid) for pid in children if _WORKER in Path(f"/proc/{pid}/cmdline").read_bytes()
        )

    def send(self, row: Row, authorizations: Path, requests: int) -> _Cost:
        """Send one round."""
        program = self._running.program
        arguments = row.load_arguments(self._running.ports[row.kind], requests, bdp_pings=False)
        worker, tree = cpu_ns_of(self._worker), program.cpu_ns()
        send_load([*arguments, f"--authorizations={authorizations}"], 1)
        worker, tree = cpu_ns_of(self._worker) - worker, program.cpu_ns() - tree
        return _Cost(worker / requests / 1e3, (tree - worker) / requests / 1e3)


def _measure(subjects: dict[str, _Subject], row: Row, authorizations: Path, rounds: int) -> float:
    """Print what both cost; return by how much samples cost more."""
    costs: dict[str, list[_Cost]] = {name: [] for name in subjects}
    for subject in subjects.values():
        subject.send(row, authorizations, _REQUESTS)
    for number in range(rounds):
        for name in sorted(subjects, reverse=number % 2 == 1):
            costs[name].append(subjects[name].send(row, authorizations, _REQUESTS))
    pairs = zip(costs["off"], costs["on"], strict=True)
    more = median(on.worker / off.worker for off, on in pairs) - 1
    worker, others = (
        {name: median(getattr(each, part) for each in found) for name, found in costs.items()}
        for part in ("worker", "others")
    )
    print(
        f"{row.name}: worker {worker['off']:.2f} µs without, {worker['on']:.2f} µs with samples"
        f" ({more:+.1%}); other processes {others['off']:.2f} and {others['on']:.2f} µs",
        flush=True,
    )
    return more


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="bench.samples", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--row", action="append", choices=list(ROWS))
    options = parser.parse_args(arguments)
    try:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            backend = Backend.start(folder, 1)
            stack.callback(backend.program.stop)
            subjects = {}
            for name, gateway in (("off", Gateway()), ("on", _Sampling())):
                (folder / name).mkdir()
                running = gateway.start(folder / name, backend.port, 0)
                stack.callback(running.program.stop)
                subjects[name] = _Subject(running)
            print(running.build, flush=True)
            authorizations = folder / "keys"
            authorizations.write_text("\n".join(keys.authorizations()), encoding="ascii")
            rows = [ROWS[name] for name in options.row or _ROWS]
            more = [_measure(subjects, row, authorizations, options.rounds) for row in rows]
    except (ProgramError, RunFailedError) as error:
        print(f"the bench could not be run: {error}", file=sys.stderr)
        return 2
    return 1 if max(more) > MOST_MORE else 0


if __name__ == "__main__":
    sys.exit(main())
