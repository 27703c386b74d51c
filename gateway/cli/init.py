"""`gateway init`: a commented configuration to begin with."""

from __future__ import annotations

import enum
import os
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.cli.output import Exit, fail, note, success, write

_MODE: Final = 0o644


class Case(enum.StrEnum):
    """What stands behind the gateway, or around it."""

    COLLECTOR = "collector"
    STACKSTATE = "stackstate"
    KUBERNETES = "kubernetes"


def init(
    case: Annotated[
        Case,
        typer.Argument(
            metavar="collector|stackstate|kubernetes",
            help="What the configuration is for: in front of an OpenTelemetry Collector, in front"
            " of a StackState that decides on keys, or in Kubernetes with PostgreSQL.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path,
        typer.Option("--to", metavar="FILE", help="The file to write; '-': standard output."),
    ] = Path("gateway.yaml"),
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file if it exists.")
    ] = False,
) -> None:
    """Write a commented configuration for a chosen case. Replace its addresses by your own.

    Examples:

    gateway init collector

    gateway init stackstate --to /etc/otlp-gateway/gateway.yaml
    """
    text = (resources.files("gateway.cli") / "cases" / f"{case}.yaml").read_text(encoding="utf-8")
    if str(to) == "-":
        write(text.removesuffix("\n"), sys.stdout)
        return
    _write(to, text, force=force)
    success(f"{to} is written: replace its addresses by your own")
    note(f"Next: gateway config schema > {to.with_name('gateway.schema.json')} (for your editor)")
    note(f"      gateway check-config {to}")
    note(f"      gateway serve --config {to}")


def _write(file: Path, text: str, *, force: bool) -> None:
    """Write a new file, or exit and change nothing."""
    how = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        with os.fdopen(os.open(file, how, _MODE), "w", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        fail(f"{file} exists: choose another file with --to, or add --force", Exit.BAD_INPUT)
    except OSError as error:
        reason = (error.strerror or "error").lower()
        fail(f"{file} cannot be written ({reason}): choose another file with --to", Exit.BAD_INPUT)
