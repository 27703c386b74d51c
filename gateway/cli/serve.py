"""`gateway serve`: the product."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.output import Exit, error

if TYPE_CHECKING:
    from gateway.config import ConfigError, Loaded

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The configuration file (YAML); else the one that GATEWAY_CONFIG names.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Set one value besides, e.g. limits.max_body=8MiB. May be given several times.",
    ),
]
_MANY: Final = 2


def serve(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Run the gateway.

    Without a configuration it listens on localhost:4317 and :4318, keeps keys in the state folder
    and tells senders that no backend is configured. SIGTERM or Ctrl-C drains and stops, a second
    one stops at once, SIGHUP reads the configuration again.

    Examples:

    gateway serve --config gateway.yaml

    gateway serve --set 'backends.otlp_grpc.urls=[http://collector:4317]'
    """
    loaded = load_or_exit(config, overrides or [])
    from gateway.control.main import serve as run

    raise typer.Exit(run(loaded))


def load_or_exit(path: Path | None, overrides: list[str]) -> Loaded:
    """Load the configuration, or say everything that is wrong with it and end the command."""
    from gateway.config import ConfigError, load

    try:
        return load(path, overrides, os.environ)
    except ConfigError as faulty:
        report_faults(faulty, path)
        raise typer.Exit(Exit.BAD_INPUT) from None


def report_faults(faulty: ConfigError, path: Path | None) -> None:
    """Write all faults to stderr, one a line, and how many there are."""
    for fault in faulty.faults:
        error(str(fault))
    count = len(faulty.faults)
    where = f" in {path}" if path is not None else ""
    error(f"{count} fault{'s' if count >= _MANY else ''}{where}")
