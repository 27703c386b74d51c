"""`gateway monitoring`: what Prometheus and Grafana need to watch a gateway."""

from __future__ import annotations

import re
import sys
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from gateway.cli.output import Exit, fail, write
from gateway.cli.shipped import MissingFileError, read_shipped

_RUNBOOKS: Final = "docs/runbooks.md"
_URL: Final = re.compile(r"https?://[!$-;=?-Z_a-z~]+")

app = typer.Typer(
    help="Print the alert rules for Prometheus and the dashboard for Grafana.",
    no_args_is_help=True,
    epilog="Examples:\n\ngateway monitoring alerts > alerts.yaml\n\n"
    "gateway monitoring dashboard > dashboard.json",
)


@app.command()
def alerts(
    runbooks: Annotated[
        str | None,
        typer.Option(
            "--runbooks",
            metavar="URL",
            help="Where you publish docs/runbooks.md, for the alerts' runbook_url.",
        ),
    ] = None,
) -> None:
    """Print recording and alert rules for Prometheus, as its rule_files take them.

    Examples:

    gateway monitoring alerts > alerts.yaml

    gateway monitoring alerts --runbooks https://wiki.example.com/otlp-gateway/runbooks
    """
    rules = _read("alerts.yaml")
    if runbooks is not None:
        rules = rules.replace(f"{_RUNBOOKS}#", f"{_checked(runbooks)}#")
    _print(rules)


@app.command()
def dashboard() -> None:
    """Print the dashboard for Grafana 10.3 or newer, to import it there.

    Example:

    gateway monitoring dashboard > dashboard.json
    """
    _print(_read("dashboard.json"))


def _read(name: str) -> str:
    try:
        return read_shipped(name)
    except MissingFileError as missing:
        fail(str(missing), Exit.BAD_INPUT)


def _checked(url: str) -> str:
    """Return a URL that can stand in the rules, or exit."""
    if not _URL.fullmatch(url) or not urlsplit(url).hostname:
        fail(
            "--runbooks: write a URL without '#', such as https://wiki.example.com/runbooks",
            Exit.BAD_INPUT,
        )
    return url


def _print(text: str) -> None:
    write(text.removesuffix("\n"), sys.stdout)
