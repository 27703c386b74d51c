"""`gateway check-config`: all errors in a configuration, before it is used."""

from __future__ import annotations

import enum
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import Exit, fail, success, warning, write
from gateway.cli.serve import ConfigOption, SetOption, report_errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config import ConfigProblem

FileArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]",
        help="The file to check, instead of --config.",
        show_default=False,
    ),
]


class Output(enum.StrEnum):
    """How the result is written."""

    TEXT = "text"
    JSON = "json"


def check_config(
    file: FileArgument = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", metavar="text|json", help="Output format.")
    ] = Output.TEXT,
) -> None:
    """Check a configuration and print all errors, each with its path.

    Reads the files that the configuration refers to (certificates, `${file:…}`), but opens no
    sockets and no stores. Exit code 0: valid (there may be warnings); 1: invalid.

    Examples:

    gateway check-config gateway.yaml

    gateway check-config gateway.yaml --set log.level=debug --output json
    """
    from gateway.config import ConfigError, load

    path = _chosen(file, config)
    try:
        loaded = load(path, overrides or [], os.environ)
    except ConfigError as invalid:
        if output is Output.JSON:
            named = path or Path(os.environ["GATEWAY_CONFIG"])
            _write_json(named, errors=invalid.problems)
        else:
            report_errors(invalid, path)
        raise typer.Exit(Exit.BAD_INPUT) from None
    if output is Output.JSON:
        _write_json(loaded.path, warnings=loaded.warnings)
        return
    for each in loaded.warnings:
        warning(str(each))
    success(f"{loaded.path} is valid")


def _chosen(file: Path | None, config: Path | None) -> Path | None:
    """Return the one file that is named; None stands for that of `GATEWAY_CONFIG`."""
    if file is not None and config is not None:
        fail("two files to check: name one, without --config", Exit.BAD_INPUT)
    if file is None and config is None and not os.environ.get("GATEWAY_CONFIG"):
        fail("no file to check: use gateway check-config FILE", Exit.BAD_INPUT)
    return file or config


def _write_json(
    path: Path | None,
    errors: Iterable[ConfigProblem] = (),
    warnings: Iterable[ConfigProblem] = (),
) -> None:
    found = {
        name: [_as_json(each) for each in problems]
        for name, problems in (("errors", errors), ("warnings", warnings))
    }
    result = {"file": str(path), "valid": not found["errors"], **found}
    write(json.dumps(result, ensure_ascii=False), sys.stdout)


def _as_json(problem: ConfigProblem) -> dict[str, object]:
    return {"path": problem.path, "line": problem.line, "message": problem.message}
