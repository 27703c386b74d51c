"""Sends load and prints what came of it: `python -m bench.load grpc|http|intake --port PORT …`.

The output is one line of JSON (requests, seconds, rps, p50_ms, p99_ms). Exit code 1, and the reason
on standard error, when any response was not the expected one: such a run measures nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import bodies, keys
from bench.load_grpc import GrpcLoad
from bench.load_http import HttpLoad
from bench.report import LoadReport, RunFailedError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.load", description=__doc__)
    parser.add_argument("protocol", choices=("grpc", "http", "intake"))
    parser.add_argument("--port", type=int, required=True, help="where the proxy listens")
    parser.add_argument("--body", choices=bodies.NAMES, default="small")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--streams", type=int, default=1, help="in flight per connection (grpc)")
    parser.add_argument("--keys", type=int, default=keys.COUNT, help="how many are used in turn")
    parser.add_argument(
        "--authorizations", type=Path, metavar="FILE", help="one value in a line, instead of keys"
    )
    parser.add_argument("--bdp-pings", action="store_true", help="send PINGs as grpc-go does")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if min(options.requests, options.connections, options.streams, options.keys) < 1:
        parser.error("--requests, --connections, --streams and --keys must be at least 1")
    body = bodies.body(options.body)
    file: Path | None = options.authorizations
    authorizations = file.read_text(encoding="ascii").splitlines() if file is not None else []
    load: GrpcLoad | HttpLoad
    if options.protocol == "grpc":
        load = GrpcLoad(
            options.port,
            body,
            options.requests,
            options.connections,
            options.streams,
            key_count=options.keys,
            bdp_pings=options.bdp_pings,
            authorizations=authorizations,
        )
    else:
        load = HttpLoad(
            options.port,
            body,
            options.requests,
            options.connections,
            options.keys,
            is_intake=options.protocol == "intake",
            authorizations=authorizations,
        )
    try:
        seconds, durations_s = load.run()
    except (RunFailedError, OSError) as error:
        print(f"the run failed: {error}", file=sys.stderr)
        return 1
    print(LoadReport.of(seconds, durations_s).to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
