"""`gateway demo`: a complete setup without any configuration."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.output import Exit, fail


def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Directory for keys and certificates [default: demo in the state directory].",
        ),
    ] = None,
) -> None:
    """Run a complete setup, and show which requests arrive and which are refused.

    Starts the gateway with a key store, a receiver as its backend and a TLS listener, creates an
    API key and prints text to paste: two Collector configurations, curl, and 'gateway send'. If a
    port is in use, a free one replaces it. Press Ctrl-C to stop everything.

    Examples:

    gateway demo

    gateway demo --data ./demo
    """
    from gateway.config import default_state_dir
    from gateway.demo.run import DemoError, run

    folder = data if data is not None else default_state_dir(os.environ) / "demo"
    try:
        status = run(folder, _own_command())
    except DemoError as error:
        fail(str(error), Exit.BAD_INPUT)
    raise typer.Exit(status)


def _own_command() -> str:
    """Return how to call this program from a shell: by name if the shell finds it."""
    own = Path(sys.argv[0])
    found = shutil.which(own.name)
    is_found = found is not None and Path(found).resolve() == own.resolve()
    return own.name if is_found else shlex.quote(str(own.absolute()))
