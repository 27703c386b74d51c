"""`gateway config`: what is known about configurations as such."""

from __future__ import annotations

import json
import sys

import typer

from gateway.cli.output import write

app = typer.Typer(
    help="Describe the configuration file.",
    no_args_is_help=True,
    epilog="Examples:\n\ngateway config schema > gateway.schema.json\n\n"
    "gateway config schema | jq .properties.limits",
)


@app.callback()
def _group() -> None:
    """Make this a group, though it has one command."""


@app.command()
def schema() -> None:
    """Print a JSON schema of the configuration, with which editors complete and check it.

    An editor finds it by the file's first line: # yaml-language-server: $schema=gateway.schema.json

    Example:

    gateway config schema > gateway.schema.json
    """
    from gateway.config.schema import config_schema

    write(json.dumps(config_schema(), indent=2, ensure_ascii=False), sys.stdout)
