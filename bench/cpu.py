"""CPU per proxied request, the gateway beside its peers: `python -m bench.cpu`.

Proxies run pinned to core 0, load and backend to core 1. Rounds are interleaved (A B C, C B A, …)
so that whatever else the machine does falls on all alike; the medians of the rounds are compared.
Each round checks every response at the client, and at the backend that as many requests and bytes
came out of the proxy as went in.

nginx is the distribution's package, fetched by `python3 tools/debian.py nginx`, or what the
environment variable NGINX names. Which build was measured is printed before the tables.

Exit code 1 when a gate is missed: CPU per request at most a tenth more, in nginx's, than README
says, a worker at rest at most 45 MB. Exit code 2 when the bench could not be run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import bodies, memory, results
from bench.backend import Backend, send_load
from bench.envoy import Envoy
from bench.nginx import Nginx
from bench.process import ProgramError, resident_mb
from bench.proxies import Command, Gateway, GrpcAio, Proxy
from bench.report import LoadReport, RunFailedError
from bench.results import Sample, Summary
from bench.rows import MEASURED, ROWS, Row
from bench.running import Build, Running

_WARM_UP_SHARE = 0.1
_NAMED = re.compile(r"(?:(?P<name>[\w.-]+)=)?(?P<command>.+)")


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
    """Measure all proxies that pass the row's requests on as they are, in interleaved rounds."""
    running = {name: each for name, each in proxies.items() if row.suits(each)}
    samples: dict[str, list[Sample]] = {name: [] for name in running}
    for each in running.values():
        bench.warm_up(each, row, requests)
    names = list(running)
    for number in range(rounds):
        for name in order(names, number):
            samples[name].append(bench.measure(running[name], row, requests))
    return results.summarise(row.name, samples)


def order(names: Sequence[str], number: int) -> list[str]:
    """Return the order of a round.

    A B C, C B A, B C A, A C B and so on: over twice as many rounds as there are names, each
    is at each place equally often, and after each of its neighbours.
    """
    first = number // 2 % max(1, len(names))
    ordered = [*names[first:], *names[:first]]
    return ordered if number % 2 == 0 else ordered[::-1]


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
        help=f"may be given several times (default: {', '.join(MEASURED)})",
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
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="[NAME=]GATEWAY",
        help="measure another installed `gateway` in the same rounds, and compare with it;\n"
        "GATEWAY is the path of its command, NAME what tables call it (default: other)",
    )
    parser.add_argument("--bdp-pings", action="store_true", help="both ends send grpc-go's PINGs")
    parser.add_argument("--proxy-core", type=int, default=0, help="where proxies run (default: 0)")
    parser.add_argument("--load-core", type=int, default=1, help="where the rest runs (default: 1)")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory gate")
    parser.add_argument("--readme", action="store_true", help="print README's table at the end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    return parser


def _extra(text: str) -> Command:
    name, _, rest = text.partition(":")
    kind, _, line = rest.partition(":")
    if kind not in {"grpc", "http"} or not line:
        message = f"--extra {text!r} is not of the form NAME:grpc|http:COMMAND"
        raise ProgramError(message)
    return Command(name, "grpc" if kind == "grpc" else "http", line)


def _beside(text: str) -> Gateway:
    parts = _NAMED.fullmatch(text)
    if parts is None:
        message = "--beside needs the path of a `gateway` command"
        raise ProgramError(message)
    return Gateway(name=parts["name"] or "other", command=str(Path(parts["command"]).absolute()))


def _chosen(options: argparse.Namespace) -> list[Proxy]:
    """Return what is to be measured. Raises ProgramError where two have one name."""
    known: tuple[Proxy, ...] = (Gateway(), Nginx(), GrpcAio(), Envoy())
    by_name = {each.name: each for each in known}
    chosen = [by_name[name] for name in options.proxy or ("gateway", "nginx", "grpc-aio")]
    chosen += [_beside(text) for text in options.beside]
    chosen += [_extra(text) for text in options.extra]
    names = [each.name for each in chosen]
    if twice := {name for name in names if names.count(name) > 1}:
        message = f"more than one proxy is called {', '.join(sorted(twice))}"
        raise ProgramError(message)
    return chosen


def _run(options: argparse.Namespace) -> tuple[list[Summary], dict[str, Build]]:
    """Start everything, measure the chosen rows, stop everything.

    Returns the results, and by name which programs were measured.
    """
    chosen = _chosen(options)
    others = [_beside(text).name for text in options.beside]
    names = options.row or list(MEASURED)
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
        builds = {name: each.build for name, each in proxies.items() if each.build is not None}
        for build in builds.values():
            print(build, flush=True)
        bench = Bench(backend, options.bdp_pings, options.load_core)
        for row in rows:
            requests = options.requests or row.requests
            of_row = run_row(bench, row, proxies, options.rounds, requests)
            print("\n".join(filter(None, (results.table(of_row), results.beside(of_row, others)))))
            sys.stdout.flush()
            summaries += of_row
    return summaries, builds


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.rounds < 1 or (options.requests is not None and options.requests < 1):
        parser.error("--rounds and --requests must be at least 1")
    try:
        summaries, builds = _run(options)
        missed = [results.missed_gate(summaries)]
        if not options.no_memory:
            missed.append(memory.missed_gate(memory.measure()))
    except (ProgramError, RunFailedError) as error:
        print(f"the bench could not be run: {error}", file=sys.stderr)
        return 2
    if options.readme and results.BASELINE in builds:
        print(results.readme_table(summaries, builds[results.BASELINE].title))
    if options.json is not None:
        _write(options.json, summaries, builds)
    for reason in filter(None, missed):
        print(reason, file=sys.stderr)
    return 1 if any(missed) else 0


def _write(file: Path, summaries: list[Summary], builds: dict[str, Build]) -> None:
    """Write all samples, with the build that each belongs to."""
    written = [
        {**asdict(each), "cpu_us": each.cpu_us, "build": str(builds.get(each.proxy, ""))}
        for each in summaries
    ]
    file.write_text(json.dumps(written, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
