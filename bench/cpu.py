"""CPU per proxied request, the gateway beside its peers: `python -m bench.cpu`.

Proxies run pinned to core 0, load and backend to core 1. Rounds are interleaved (A B C, B C A, …)
so that whatever else the machine does falls on all alike; the medians of the rounds are compared.
Each round checks every response at the client, and at the backend that as many requests and bytes
came out of the proxy as went in.

Exit code 1 when a gate is missed: CPU on `grpc-small` at most nginx's and on `intake-small` 1.4 of
it, a worker at rest at most 45 MB. Exit code 2 when the bench could not be run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import bodies, memory
from bench.backend import Backend, send_load
from bench.envoy import Envoy
from bench.process import ProgramError, resident_mb
from bench.proxies import Command, Gateway, GrpcAio, Nginx, Proxy
from bench.report import LoadReport, RunFailedError
from bench.rows import MAX_RATIOS, ROWS, Row
from bench.running import Running

BASELINE = Nginx.name
_WARM_UP_SHARE = 0.1
_LINE = "{:<16} {:<10} {:>8} {:>15} {:>6} {:>6} {:>7} {:>7} {:>7} {:>5}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one proxy.

    Attributes:
        cpu_us: CPU time of the proxy's process tree per request, user and system.
        rps: requests per second.
        p50_ms, p99_ms: durations seen by the client.
        resident_mb: VmRSS of the proxy's process tree afterwards.
    """

    cpu_us: float
    rps: float
    p50_ms: float
    p99_ms: float
    resident_mb: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The rounds of one proxy on one row.

    Attributes:
        row, proxy: of what.
        samples: in the order of the rounds.
        ratio: ratio of the medians of `cpu_us` to the baseline's, where that was measured.
        paired_ratio: median of the rounds' own ratios; far from `ratio`, the machine was too busy.
    """

    row: str
    proxy: str
    samples: list[Sample]
    ratio: float | None
    paired_ratio: float | None

    @property
    def cpu_us(self) -> float:
        """The median CPU per request in microseconds."""
        return statistics.median(sample.cpu_us for sample in self.samples)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a measurement needs besides the proxy: the backend and how it is sent to."""

    backend: Backend
    bdp_pings: bool
    load_core: int | None

    def warm_up(self, running: Running, row: Row, requests: int) -> None:
        """Let connections, caches and memos reach their usual state."""
        share = max(row.connections, int(requests * _WARM_UP_SHARE))
        self._send(running, row, share)

    def measure(self, running: Running, row: Row, requests: int) -> Sample:
        """Run one round.

        Raises:
            RunFailedError: a response was wrong, or the backend did not get what was sent.
        """
        requests_before, bytes_before = self.backend.counts()
        cpu_before_ns = running.program.cpu_ns()
        report = self._send(running, row, requests)
        cpu_ns = running.program.cpu_ns() - cpu_before_ns
        requests_after, bytes_after = self.backend.counts()
        body = bodies.body(row.body)
        size = len(body.grpc if row.kind == "grpc" else body.message)
        arrived = requests_after - requests_before, bytes_after - bytes_before
        if arrived != (requests, requests * size):
            message = (
                f"{running.program.name}, {row.name}: sent {requests} requests of {size} bytes, "
                f"but {arrived[0]} requests and {arrived[1]} bytes reached the backend"
            )
            raise RunFailedError(message)
        return Sample(
            cpu_us=cpu_ns / requests / 1e3,
            rps=report.rps,
            p50_ms=report.p50_ms,
            p99_ms=report.p99_ms,
            resident_mb=sum(resident_mb(each.pid) for each in running.program.tree()),
        )

    def _send(self, running: Running, row: Row, requests: int) -> LoadReport:
        arguments = row.load_arguments(running.ports[row.kind], requests, bdp_pings=self.bdp_pings)
        try:
            return send_load(arguments, self.load_core)
        except RunFailedError as error:
            message = f"{running.program.name}, {row.name}: {error}"
            raise RunFailedError(message) from error


def run_row(
    bench: Bench, row: Row, proxies: dict[str, Running], rounds: int, requests: int
) -> list[Summary]:
    """Measure all proxies that speak the row's protocol, in interleaved rounds."""
    running = {name: each for name, each in proxies.items() if row.kind in each.ports}
    samples: dict[str, list[Sample]] = {name: [] for name in running}
    for each in running.values():
        bench.warm_up(each, row, requests)
    names = list(running)
    for number in range(rounds):
        first = number % len(names) if names else 0
        for name in names[first:] + names[:first]:
            samples[name].append(bench.measure(running[name], row, requests))
    return summarise(row.name, samples)


def summarise(row: str, samples: dict[str, list[Sample]]) -> list[Summary]:
    """Compare the proxies' samples, given by name, with the baseline's."""
    return [_summary(row, name, samples) for name in samples]


def _summary(row: str, name: str, samples: dict[str, list[Sample]]) -> Summary:
    mine, baseline = samples[name], samples.get(BASELINE)
    if baseline is None or name == BASELINE:
        return Summary(row, name, mine, None, None)
    ratio = statistics.median(each.cpu_us for each in mine) / statistics.median(
        each.cpu_us for each in baseline
    )
    pairs = zip(mine, baseline, strict=True)
    paired = statistics.median(each.cpu_us / other.cpu_us for each, other in pairs)
    return Summary(row, name, mine, ratio, paired)


def table(summaries: Sequence[Summary]) -> str:
    """Return the results as text."""
    head = ("row", "proxy", "CPU µs", "min–max", "ratio", "paired", "rps", "p50 ms", "p99 ms", "MB")
    lines = [_LINE.format(*head)]
    for each in summaries:
        costs = [sample.cpu_us for sample in each.samples]
        lines.append(
            _LINE.format(
                each.row,
                each.proxy,
                f"{each.cpu_us:.1f}",
                f"{min(costs):.1f}–{max(costs):.1f}",
                _number(each.ratio),
                _number(each.paired_ratio),
                f"{statistics.median(sample.rps for sample in each.samples):.0f}",
                f"{statistics.median(sample.p50_ms for sample in each.samples):.2f}",
                f"{statistics.median(sample.p99_ms for sample in each.samples):.2f}",
                f"{each.samples[-1].resident_mb:.0f}",
            )
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def missed_cpu_gate(summaries: Sequence[Summary]) -> str | None:
    """Return why CPU gates are missed, or None where they are met or were not measured."""
    missed: list[str] = []
    for each in summaries:
        most = MAX_RATIOS.get(each.row)
        if each.proxy != Gateway().name or each.ratio is None or most is None:
            continue
        if each.ratio > most:
            missed.append(
                f"GATE MISSED: {each.row} costs {each.ratio:.3f} × nginx's CPU, "
                f"at most {most} is allowed"
            )
        else:
            print(f"gate met: {each.row} costs {each.ratio:.3f} × nginx's CPU")
    return "\n".join(missed) or None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.cpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="per proxy and row (default: 5)")
    parser.add_argument("--requests", type=int, help="per round (default: the row's)")
    parser.add_argument(
        "--row",
        action="append",
        choices=[*ROWS, "all"],
        help=f"may be given several times (default: {' and '.join(MAX_RATIOS)})",
    )
    parser.add_argument(
        "--proxy",
        action="append",
        choices=["gateway", "nginx", "grpc-aio", "envoy"],
        help="may be given several times (default: all but envoy)",
    )
    parser.add_argument(
        "--extra",
        action="append",
        default=[],
        metavar="NAME:grpc|http:COMMAND",
        help="measure another proxy too; {port} and {backend} in COMMAND are replaced",
    )
    parser.add_argument("--bdp-pings", action="store_true", help="both ends send grpc-go's PINGs")
    parser.add_argument("--proxy-core", type=int, default=0, help="where proxies run (default: 0)")
    parser.add_argument("--load-core", type=int, default=1, help="where the rest runs (default: 1)")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory gate")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    return parser


def _extra(text: str) -> Command:
    name, _, rest = text.partition(":")
    kind, _, line = rest.partition(":")
    if kind not in {"grpc", "http"} or not line:
        message = f"--extra {text!r} is not of the form NAME:grpc|http:COMMAND"
        raise ProgramError(message)
    return Command(name, "grpc" if kind == "grpc" else "http", line)


def _run(options: argparse.Namespace) -> list[Summary]:
    """Start everything, measure the chosen rows, stop everything."""
    known: tuple[Proxy, ...] = (Gateway(), Nginx(), GrpcAio(), Envoy())
    by_name = {each.name: each for each in known}
    chosen = [by_name[name] for name in options.proxy or ("gateway", "nginx", "grpc-aio")]
    chosen += [_extra(text) for text in options.extra]
    names = options.row or list(MAX_RATIOS)
    rows = list(ROWS.values()) if "all" in names else [ROWS[name] for name in names]
    summaries: list[Summary] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        backend = Backend.start(folder, options.load_core, bdp_pings=options.bdp_pings)
        stack.callback(backend.program.stop)
        proxies = {}
        for proxy in chosen:
            (folder / proxy.name).mkdir()
            running = proxy.start(folder / proxy.name, backend.port, options.proxy_core)
            stack.callback(running.program.stop)
            proxies[proxy.name] = running
        bench = Bench(backend, options.bdp_pings, options.load_core)
        for row in rows:
            requests = options.requests or row.requests
            of_row = run_row(bench, row, proxies, options.rounds, requests)
            print(table(of_row), flush=True)
            summaries += of_row
    return summaries


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.rounds < 1 or (options.requests is not None and options.requests < 1):
        parser.error("--rounds and --requests must be at least 1")
    try:
        summaries = _run(options)
        missed = [missed_cpu_gate(summaries)]
        if not options.no_memory:
            missed.append(memory.missed_gate(memory.measure()))
    except (ProgramError, RunFailedError) as error:
        print(f"the bench could not be run: {error}", file=sys.stderr)
        return 2
    if options.json is not None:
        results = [{**asdict(each), "cpu_us": each.cpu_us} for each in summaries]
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    for reason in filter(None, missed):
        print(reason, file=sys.stderr)
    return 1 if any(missed) else 0


if __name__ == "__main__":
    sys.exit(main())
