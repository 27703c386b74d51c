"""`gateway check-config`: all errors in a configuration, before it is used."""

from __future__ import annotations

import os

import typer

from gateway.cli.output import Exit, fail, success, warning
from gateway.cli.serve import ConfigOption, SetOption, report_errors


def check_config(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Check a configuration and print all errors, each with its path.

    Reads the files that the configuration refers to (certificates, `${file:…}`), but opens no
    sockets and no stores. Exit code 0: valid (there may be warnings); 1: invalid.

    Examples:

    gateway check-config --config gateway.yaml

    gateway check-config --config gateway.yaml --set log.level=debug
    """
    from gateway.config import ConfigError, load

    if config is None and "GATEWAY_CONFIG" not in os.environ:
        fail("no file to check: use gateway check-config --config FILE", Exit.BAD_INPUT)
    try:
        loaded = load(config, overrides or [], os.environ)
    except ConfigError as invalid:
        report_errors(invalid, config)
        raise typer.Exit(Exit.BAD_INPUT) from None
    for each in loaded.warnings:
        warning(str(each))
    success(f"{loaded.path} is valid")
