"""`gateway demo`: a complete setup without any configuration."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.cli.output import Exit, fail

MAX_PORT: Final = 65_532
"""The first of four ports can be no higher."""


def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Directory for keys and certificates [default: demo in the state directory].",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            min=1,
            max=MAX_PORT,
            help=(
                "First of four ports in a row: OTLP twice, OTLP over TLS, admin [default: 4317,"
                " 4318, 4443 and 8090, or free ones]."
            ),
        ),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            help="Write the text to paste, with the API key, into files in DIR/paste.",
        ),
    ] = False,
) -> None:
    """Run a complete setup, and show which requests arrive and which are refused.

    Starts the gateway with a key store, a receiver as its backend and a TLS listener, creates an
    API key and prints text to paste: two Collector configurations, curl, and 'gateway send'. If a
    port is in use, a free one replaces it, unless --port names it. Press Ctrl-C to stop everything.

    Examples:

    gateway demo

    gateway demo --quiet

    gateway demo --data ./demo --port 14317
    """
    from gateway.config import default_state_dir
    from gateway.demo.run import Choices, DemoError, run

    folder = data if data is not None else default_state_dir(os.environ) / "demo"
    try:
        status = run(Choices(folder, _own_command(), port, quiet))
    except DemoError as error:
        fail(str(error), Exit.BAD_INPUT)
    raise typer.Exit(status)


def _own_command() -> str:
    """Return how to call this program from a shell: by name if the shell finds it."""
    own = Path(sys.argv[0])
    found = shutil.which(own.name)
    is_found = found is not None and Path(found).resolve() == own.resolve()
    return own.name if is_found else shlex.quote(str(own.absolute()))
