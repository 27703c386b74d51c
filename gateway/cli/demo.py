"""`gateway demo`: everything at once, nothing to configure."""

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
            help="Where keys and certificates are kept [default: demo in the state folder].",
        ),
    ] = None,
) -> None:
    """Run a gateway with everything around it, and show what arrives and what is refused.

    Starts the gateway with a key store, a receiver as its backend and a TLS listener, makes a first
    key and prints lines to paste: two Collector configurations, curl, and 'gateway send'. Usual
    ports that are taken are replaced by free ones. Ctrl-C stops all of it.

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
    """How this program is called so that the shell finds it: by name where that is enough."""
    own = Path(sys.argv[0])
    found = shutil.which(own.name)
    is_found = found is not None and Path(found).resolve() == own.resolve()
    return own.name if is_found else shlex.quote(str(own.absolute()))
