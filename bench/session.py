"""One run of the bench: everything started, measured group by group, stopped."""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench import decoder_paths, latency, machine, memory, rounds
from bench.backend import Backend, Loader
from bench.peers import Maker, Peers, certificates
from bench.process import ProgramError
from bench.report import RunFailedError
from bench.rounds import Bench, Pair
from bench.rows import GROUPS, ROWS, SUBJECT, Row
from bench.run_file import Run

_LATENCY_ROUNDS_S = 6
"""An open loop takes so many times a round: the 99.9th percentile needs many requests."""
_BARE = "no-proxy"


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure.

    Attributes:
        rows: names of rows.
        proxies: what is measured, by name.
        required: names whose absence ends the run.
        rounds: how often each row goes through each proxy.
        seconds: how long a round takes, about; `requests`: how many it has, instead.
        is_quick: noted in the result.
        bdp_pings: whether both ends send grpc-go's PINGs.
        with_latency, with_rest: whether the open loop, and the gateway at rest, are measured.
        proxy_core, load_core: where proxies, and load and backend, run; None: anywhere.
        keep: called with what there is after each group, so that an interrupted run is not lost.
    """

    rows: list[str]
    proxies: dict[str, Maker]
    required: frozenset[str]
    rounds: int
    seconds: float
    requests: int | None = None
    is_quick: bool = False
    bdp_pings: bool = False
    with_latency: bool = True
    with_rest: bool = True
    proxy_core: int | None = 0
    load_core: int | None = 1
    keep: Callable[[Run], None] | None = None


def measure(options: Options) -> Run:
    """Measure; progress is shown on a terminal.

    Raises:
        ProgramError: something that is required does not start.
        RunFailedError: a gateway at rest answered wrongly. What else did is noted in the result.
    """
    run = Run(
        made_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        is_quick=options.is_quick,
        rounds=options.rounds,
        seconds=options.seconds,
        machine=machine.here(),
    )
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        session = _started(stack, folder, options, run)
        session.run_groups()
    if options.with_rest and SUBJECT in options.proxies:
        run.rest = memory.measure()
    if any(ROWS[name].encoder for name in options.rows):
        run.paths = decoder_paths.count()
    return run


def _started(stack: contextlib.ExitStack, folder: Path, options: Options, run: Run) -> Session:
    tls = certificates(folder / "tls")
    backend = Backend.start(folder, options.load_core, bdp_pings=options.bdp_pings, tls=tls)
    stack.callback(backend.program.stop)
    loader = Loader(options.load_core)
    stack.callback(loader.stop)
    peers = Peers(folder, backend, tls, options.proxy_core, options.proxies, options.required)
    stack.callback(peers.stop)
    bar = stack.enter_context(_progress())
    return Session(Bench(backend, loader, options.bdp_pings), peers, options, run, bar)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )


@dataclass(slots=True)
class Session:
    """A run under way; what comes of it is written into `run`."""

    bench: Bench
    peers: Peers
    options: Options
    run: Run
    bar: Progress

    def run_groups(self) -> None:
        """Measure group by group; proxies run as long as a row to come wants them."""
        groups = [list(rows) for rows in self._groups()]
        for number, rows in enumerate(groups):
            later = {row.setting for group in groups[number:] for row in group}
            self.peers.stop_others(later)
            self._run_group(rows)
            self.run.builds = self.peers.builds
            self.run.missing = self.peers.missing
            if self.options.keep is not None:
                self.options.keep(self.run)

    def _groups(self) -> Iterator[list[Row]]:
        wanted = [ROWS[name] for name in self.options.rows]
        for group in GROUPS:
            if rows := [row for row in wanted if row.group == group]:
                yield rows

    def _run_group(self, rows: list[Row]) -> None:
        task = self.bar.add_task(f"{rows[0].group}: start")
        pairs = list(self._pairs(rows, task))
        self.bar.update(task, total=len(pairs) * self.options.rounds, completed=0)

        def on_round(pair: Pair) -> None:
            self.bar.update(task, advance=1, description=f"{pair.row.name} {pair.name}")

        self.run.cells += rounds.run_pairs(
            self.bench, pairs, self.options.rounds, on_round=on_round, on_failure=self._failed
        )
        self.bar.remove_task(task)
        if self.options.with_latency:
            self._latencies(pairs)
        if self.bar.disable:  # no terminal to draw a bar on
            print(f"{rows[0].group}: measured", file=sys.stderr, flush=True)

    def _pairs(self, rows: list[Row], task: int) -> Iterator[Pair]:
        for row in rows:
            for name, running in self.peers.of(row).items():
                self.bar.update(task, description=f"{row.name} {name}: warm-up")  # type: ignore[arg-type] # rich's TaskID is an int
                try:
                    yield rounds.warmed_up(
                        self.bench, row, name, running, self.options.seconds, self.options.requests
                    )
                except (RunFailedError, ProgramError) as error:
                    self._note_failure(row, name, error)

    def _failed(self, pair: Pair, error: Exception) -> None:
        self._note_failure(pair.row, pair.name, error)

    def _note_failure(self, row: Row, name: str, error: Exception) -> None:
        self.run.failed[f"{row.name} {name}"] = str(error)

    def _latencies(self, pairs: list[Pair]) -> None:
        bare = {pair.row.name: pair.running for pair in pairs if pair.name == _BARE}
        shown = [pair for pair in pairs if pair.row.shows_latency and pair.name != _BARE]
        shown = [pair for pair in shown if pair.row.name in bare]
        task = self.bar.add_task("latency", total=len(shown))
        for pair in shown:
            self.bar.update(task, description=f"{pair.row.name} {pair.name}: latency")
            seconds = self.options.seconds * _LATENCY_ROUNDS_S
            try:
                self.run.latencies.append(
                    latency.measure(self.bench, pair, bare[pair.row.name], seconds)
                )
            except (RunFailedError, ProgramError) as error:
                self._failed(pair, error)
            self.bar.advance(task)
        self.bar.remove_task(task)
