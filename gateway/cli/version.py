"""`gateway version`: what runs here, as a bug report needs it."""

from __future__ import annotations

import json
import platform
from typing import Annotated

import typer

from gateway import __version__, compiled
from gateway.cli.output import info


def version(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the version, how the data path runs (compiled or as plain Python), and the Python.

    Plain Python takes two to three times the CPU. GATEWAY_PURE_PYTHON=1 chooses it.

    Examples:

    gateway version

    GATEWAY_PURE_PYTHON=1 gateway version --json
    """
    python = f"{platform.python_implementation()} {platform.python_version()}"
    if as_json:
        found = {"version": __version__, "data_path": compiled.runs_as(), "python": python}
        info(json.dumps(found))
    else:
        info(f"gateway {__version__} (data path: {compiled.runs_as()}, {python})")
