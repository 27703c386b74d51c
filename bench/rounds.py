"""The rounds of the bench: interleaved over rows and proxies, each one checked and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bench import bodies, process
from bench.backend import Backend, Loader
from bench.process import Program, ProgramError
from bench.report import LoadReport, RunFailedError
from bench.rows import SUBJECT, Row
from bench.run_file import Cell, Sample
from bench.running import Running

T = TypeVar("T")

_LEAST_TURNS = 3
"""Each connection's stream sends at least so many requests in a round."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a measurement needs besides the proxy: the backend and who sends to it."""

    backend: Backend
    loader: Loader
    bdp_pings: bool = False

    def send(self, running: Running, row: Row, requests: int, *more: str) -> LoadReport:
        """Send a row's requests through a proxy.

        Raises:
            RunFailedError: a response was wrong.
        """
        arguments = row.load_arguments(running.ports[row.kind], requests, bdp_pings=self.bdp_pings)
        try:
            return self.loader.send([*arguments, *more])
        except RunFailedError as error:
            message = f"{running.program.name}, {row.name}: {error}"
            raise RunFailedError(message) from error

    def measure(self, running: Running, row: Row, requests: int) -> Sample:
        """Run one round.

        Raises:
            RunFailedError: a response was wrong, or the backend did not get what was sent.
        """
        program = running.program
        processes = [each.pid for each in program.tree()]
        before_mb = sum(map(process.resident_mb, processes))
        for each in processes:
            process.forget_peak(each)
        counts_before = self.backend.counts()
        cpu_before_ns = program.cpu_ns()
        report = self.send(running, row, requests)
        cpu_ns = program.cpu_ns() - cpu_before_ns
        self._check_arrived(running, row, requests, counts_before)
        peaks = [process.peak_mb(each) for each in processes]
        return Sample(
            cpu_us=cpu_ns / requests / 1e3,
            requests=requests,
            rps=report.rps,
            p50_ms=report.p50_ms,
            p99_ms=report.p99_ms,
            before_mb=before_mb,
            peak_mb=sum(peaks),
            after_mb=_resident_mb(program),
            worker_peak_mb=max(peaks[1:], default=0.0) if program.name == SUBJECT else 0.0,
        )

    def _check_arrived(
        self, running: Running, row: Row, requests: int, before: tuple[int, int]
    ) -> None:
        after = self.backend.counts()
        arrived = after[0] - before[0], after[1] - before[1]
        body = bodies.body(row.body)
        size = len(body.grpc if row.kind == "grpc" else body.message)
        due = (0, 0) if row.is_refused else (requests, requests * size)
        if arrived != due and not (running.reencodes and arrived[0] == due[0]):
            message = (
                f"{running.program.name}, {row.name}: {due[0]} requests and {due[1]} bytes were "
                f"due at the backend, but {arrived[0]} requests and {arrived[1]} bytes reached it"
            )
            raise RunFailedError(message)


def _resident_mb(program: Program) -> float:
    return sum(process.resident_mb(each.pid) for each in program.tree())


@dataclass(slots=True)
class Pair:
    """A row and one of the proxies that it goes through, with its rounds so far."""

    row: Row
    name: str
    running: Running
    requests: int
    samples: list[Sample] = field(default_factory=list)

    @property
    def cell(self) -> Cell:
        """The rounds so far."""
        return Cell(self.row.name, self.name, self.samples)


def warmed_up(
    bench: Bench, row: Row, name: str, running: Running, seconds: float, requests: int | None
) -> Pair:
    """Let connections, caches and memos reach their usual state, and see how fast a proxy is.

    A round is as many requests as take about `seconds`, at most the row's, unless `requests` says
    how many.

    Raises:
        RunFailedError: a response was wrong.
    """
    if requests is not None:
        bench.send(running, row, max(row.connections, requests // 10))
        return Pair(row, name, running, requests)
    least = row.in_flight * _LEAST_TURNS
    first = bench.send(running, row, max(least, 30))
    wanted = min(row.requests, max(least, int(first.rps * seconds)))
    second = bench.send(running, row, max(least, wanted // 2))
    return Pair(row, name, running, min(row.requests, max(least, int(second.rps * seconds))))


def run_pairs(
    bench: Bench,
    pairs: list[Pair],
    rounds: int,
    *,
    on_round: Callable[[Pair], None],
    on_failure: Callable[[Pair, Exception], None],
) -> list[Cell]:
    """Measure all pairs in interleaved rounds; return what was measured of those that held.

    `on_failure` is told of a pair that is left out from then on.
    """
    for number in range(rounds):
        for pair in order(list(pairs), number):
            try:
                pair.samples.append(bench.measure(pair.running, pair.row, pair.requests))
            except (RunFailedError, ProgramError) as error:
                on_failure(pair, error)
                pairs.remove(pair)
            else:
                on_round(pair)
    return [pair.cell for pair in pairs]


def order(items: Sequence[T], number: int) -> list[T]:
    """Return the order of a round.

    A B C, C B A, B C A, A C B and so on: over twice as many rounds as there are items, each
    is at each place equally often, and after each of its neighbours.
    """
    first = number // 2 % max(1, len(items))
    ordered = [*items[first:], *items[:first]]
    return ordered if number % 2 == 0 else ordered[::-1]
