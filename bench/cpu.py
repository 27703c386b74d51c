"""CPU per proxied request, the gateway beside its peers: `python -m bench.cpu`.

Proxies run pinned to core 0, load and backend to core 1. Rounds are interleaved over rows and
proxies, so that whatever else the machine does falls on all alike; the medians of the rounds are
compared. Each round checks every response at the client, and at the backend that as many requests
and bytes came out of the proxy as went in.

`python -m bench.prepare` fetches and builds the peers. One that cannot be had is named in the
result and left out. Which builds were measured is printed first.

Exit code 1 when a gate is missed (bench/gates.py). Exit code 2 when the bench could not be run.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
from pathlib import Path

from bench import gates, peers, publish, run_file, tables
from bench.peers import Maker
from bench.process import ProgramError
from bench.proxies import Command, Gateway
from bench.report import RunFailedError
from bench.rows import GROUPS, PROXIES, QUICK, ROWS, SUBJECT
from bench.run_file import Run
from bench.session import Options, measure

_NAMED = re.compile(r"(?:(?P<name>[\w.-]+)=)?(?P<command>.+)")
_ROUNDS, _QUICK_ROUNDS = 5, 2
_SECONDS, _QUICK_SECONDS = 0.4, 0.2
_INTERRUPTED = 130  # as shells have it


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.cpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = functools.partial(parser.add_argument, default=None)
    flag = functools.partial(parser.add_argument, action="store_true")
    flag("--quick", help="few rows, short rounds: 3 minutes")
    add("--rounds", type=int, help=f"per proxy and row (default: {_ROUNDS})")
    add("--seconds", type=float, help=f"how long a round is, about (default: {_SECONDS:g})")
    add("--requests", type=int, help="per round, instead of --seconds")
    several = "may be given several times"
    add("--row", action="append", choices=[*ROWS, *GROUPS], metavar="ROW", help=several)
    flag("--list", help="print the names of rows and groups, and end")
    add("--proxy", action="append", choices=PROXIES, metavar="PROXY", help=several)
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
    flag("--bdp-pings", help="both ends send grpc-go's PINGs")
    flag("--no-latency", help="leave out the open loop")
    flag("--no-memory", help="leave out the gateway at rest")
    parser.add_argument("--proxy-core", type=int, default=0, help="where proxies run (default: 0)")
    parser.add_argument("--load-core", type=int, default=1, help="where the rest runs (default: 1)")
    add("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    flag("--publish", help="write bench/results, README, docs and pictures")
    flag("--even-if-missed", help="publish a run that misses gates, too")
    return parser


def _extra(text: str) -> tuple[str, Maker]:
    name, _, rest = text.partition(":")
    kind, _, line = rest.partition(":")
    if kind not in {"grpc", "http"} or not line:
        message = f"--extra {text!r} is not of the form NAME:grpc|http:COMMAND"
        raise ProgramError(message)
    proxy = Command(name, "grpc" if kind == "grpc" else "http", line)
    return name, lambda _, __: proxy


def _beside(text: str) -> tuple[str, Maker]:
    parts = _NAMED.fullmatch(text)
    if parts is None:
        message = "--beside needs the path of a `gateway` command"
        raise ProgramError(message)
    name, command = parts["name"] or "other", str(Path(parts["command"]).absolute())
    return name, lambda wanted, tls: Gateway(wanted.keys, wanted.workers, name, command, tls)


def _chosen(options: argparse.Namespace) -> dict[str, Maker]:
    """Return what is to be measured. Raises ProgramError where two have one name."""
    chosen = [(name, peers.MAKERS[name]) for name in options.proxy or PROXIES]
    chosen += [_beside(text) for text in options.beside]
    chosen += [_extra(text) for text in options.extra]
    names = [name for name, _ in chosen]
    if twice := {name for name in names if names.count(name) > 1}:
        message = f"more than one proxy is called {', '.join(sorted(twice))}"
        raise ProgramError(message)
    return dict(chosen)


def _rows(options: argparse.Namespace) -> list[str]:
    if options.row:
        named = set(options.row)
        return [row.name for row in ROWS.values() if named & {row.name, row.group}]
    return list(QUICK) if options.quick else list(ROWS)


def _session(options: argparse.Namespace) -> Options:
    chosen = _chosen(options)
    required = {SUBJECT, *(options.proxy or ()), *(set(chosen) - set(PROXIES))}
    return Options(
        rows=_rows(options),
        proxies=chosen,
        required=frozenset(required),
        rounds=options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS),
        seconds=options.seconds or (_QUICK_SECONDS if options.quick else _SECONDS),
        requests=options.requests,
        is_quick=options.quick,
        bdp_pings=options.bdp_pings,
        with_latency=not options.no_latency,
        with_rest=not options.no_memory,
        proxy_core=options.proxy_core,
        load_core=options.load_core,
        keep=None if options.json is None else lambda run: _write(options.json, run),
    )


def _write(file: Path, run: Run) -> None:
    file.write_bytes(run_file.dump(run))


def _wrong(run: Run, required: frozenset[str]) -> list[str]:
    """Return what the gateway, or a proxy that was asked for by name, did not answer as due."""
    return [
        f"the bench could not be run: {reason}"
        for where, reason in run.failed.items()
        if where.rpartition(" ")[2] in required
    ]


def _judge(run: Run) -> list[str]:
    """Print every gate; return those that are missed."""
    missed = []
    for judged in gates.judge(run, run_file.published()):
        if judged.is_met:
            print(judged.verdict)
        else:
            missed.append(judged.verdict)
    return missed


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    counts = [options.rounds, options.requests, options.seconds]
    if any(each is not None and each <= 0 for each in counts):
        parser.error("--rounds, --requests and --seconds must be more than 0")
    if options.publish and (options.row or options.proxy):
        parser.error("--publish is for all rows and proxies: leave out --row and --proxy")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    options = _options(arguments)
    if options.list:
        print("\n".join(f"{row.group:10} {row.name}" for row in ROWS.values()))
        return 0
    try:
        session = _session(options)
        run = measure(session)
    except (ProgramError, RunFailedError) as error:
        print(f"the bench could not be run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: --json FILE keeps the groups that were measured", file=sys.stderr)
        return _INTERRUPTED
    print(tables.text(run, [_beside(text)[0] for text in options.beside]))
    missed = _judge(run)
    if options.json is not None:
        _write(options.json, run)
    if wrong := _wrong(run, session.required):
        print("\n".join(wrong), file=sys.stderr)
        return 2
    if options.publish and (not missed or options.even_if_missed):
        publish.publish(run)
    elif options.publish:
        print("not published: a gate is missed (--even-if-missed publishes it)", file=sys.stderr)
    for reason in missed:
        print(reason, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
