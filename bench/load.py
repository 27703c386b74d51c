"""Sends load and prints what came of it: `python -m bench.load grpc|http|intake --port PORT …`.

The output is one line of JSON (requests, seconds, rps, p50_ms, p99_ms, p999_ms). Exit code 1, and
the reason on standard error, when any response was not the expected one: such a run measures
nothing. With `--serve` alone it reads the arguments of one run after the other from standard input,
a JSON list a line, and answers each with a line.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import sys
from pathlib import Path

from bench import bodies, keys, load_grpc, load_http
from bench.load_loop import Plan
from bench.report import LoadReport, RunFailedError
from bench.running import KINDS

SERVE = "--serve"


@functools.cache
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.load", description=__doc__)
    parser.add_argument("protocol", choices=KINDS)
    parser.add_argument("--port", type=int, required=True, help="where the proxy listens")
    parser.add_argument("--body", choices=bodies.NAMES, default="small")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--streams", type=int, default=1, help="in flight per connection (grpc)")
    parser.add_argument("--keys", type=int, default=keys.COUNT, help="how many are used in turn")
    parser.add_argument(
        "--authorizations", type=Path, metavar="FILE", help="one value in a line, instead of keys"
    )
    parser.add_argument("--encoder", help="whose recorded header blocks are sent (grpc)")
    parser.add_argument("--bdp-pings", action="store_true", help="send PINGs as grpc-go does")
    parser.add_argument("--tls", action="store_true", help="connect over TLS")
    parser.add_argument("--reconnect", action="store_true", help="a connection for each request")
    parser.add_argument("--refused", action="store_true", help="send keys that nobody knows")
    parser.add_argument("--rate", type=float, help="requests per second, whatever the answers do")
    return parser


def send(arguments: list[str]) -> LoadReport:
    """Carry out one run.

    Raises:
        RunFailedError: a response was not the expected one.
        OSError: the proxy does not take connections.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if min(options.requests, options.connections, options.streams, options.keys) < 1:
        parser.error("--requests, --connections, --streams and --keys must be at least 1")
    file: Path | None = options.authorizations
    lines = () if file is None else tuple(file.read_text(encoding="ascii").splitlines())
    plan = Plan(
        options.protocol,
        options.port,
        bodies.body(options.body),
        options.requests,
        options.connections,
        options.streams,
        key_count=options.keys,
        authorizations=lines,
        encoder=options.encoder,
        bdp_pings=options.bdp_pings,
        is_tls=options.tls,
        reconnects=options.reconnect,
        is_refused=options.refused,
        rate=options.rate,
    )
    run = load_grpc.run if plan.kind == "grpc" else load_http.run
    seconds, durations_s = run(plan)
    return LoadReport.of(seconds, durations_s)


def serve() -> None:
    """Carry out the runs that are asked for on standard input, until it ends."""
    for line in sys.stdin:
        try:
            answer = send(json.loads(line)).to_json()
        except (RunFailedError, OSError) as error:
            answer = json.dumps({"error": str(error)})
        print(answer, flush=True)
        gc.collect()


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    given = sys.argv[1:] if arguments is None else arguments
    if given == [SERVE]:
        serve()
        return 0
    try:
        report = send(given)
    except (RunFailedError, OSError) as error:
        print(f"the run failed: {error}", file=sys.stderr)
        return 1
    print(report.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
