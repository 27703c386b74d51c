"""`gateway serve`: run the gateway."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway import lean_imports
from gateway.cli.output import Exit, error

if TYPE_CHECKING:
    from gateway.config import ConfigError, Loaded

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration file (YAML) [default: the file named by GATEWAY_CONFIG].",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Override one setting, e.g. limits.max_body=8MiB. Can be repeated.",
    ),
]
_MANY: Final = 2


def serve(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Run the gateway.

    Without a configuration it listens on localhost:4317 and :4318, stores API keys in the state
    directory and returns the error that no backend is configured. SIGTERM or Ctrl-C drains and
    stops, a second one stops immediately, SIGHUP reloads the configuration.

    Examples:

    gateway serve --config gateway.yaml

    gateway serve --set 'backends.otlp_grpc.urls=[http://collector:4317]'
    """
    loaded = load_or_exit(config, overrides or [])
    from gateway.control.workers.worker_start import WorkerStarter

    starter = WorkerStarter()
    starter.start_early(loaded.config.worker_count)  # they import what they need while control does
    lean_imports.import_aiohttp()
    from gateway.control.lifecycle.main import serve as run

    raise typer.Exit(run(loaded, starter))


def load_or_exit(path: Path | None, overrides: list[str]) -> Loaded:
    """Load the configuration, or print all its errors and exit."""
    from gateway.config import ConfigError, load

    try:
        return load(path, overrides, os.environ)
    except ConfigError as invalid:
        report_errors(invalid, path)
        raise typer.Exit(Exit.BAD_INPUT) from None


def report_errors(invalid: ConfigError, path: Path | None) -> None:
    """Write all errors to stderr, one per line, and their number."""
    for problem in invalid.problems:
        error(str(problem))
    count = len(invalid.problems)
    where = f" in {path}" if path is not None else ""
    error(f"{count} error{'s' if count >= _MANY else ''}{where}")
