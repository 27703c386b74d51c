"""`gateway check-config`: everything that is wrong with a configuration, before it is used."""

from __future__ import annotations

import os

import typer

from gateway.cli.output import Exit, fail, success, warning
from gateway.cli.serve import ConfigOption, SetOption, report_faults


def check_config(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Check a configuration and print everything that is wrong with it, each with its path.

    Reads what the configuration names (certificates, `${file:…}`), but opens no socket and no
    store. Exit code 0: it can be used (there may be warnings); 1: it cannot.

    Examples:

    gateway check-config --config gateway.yaml

    gateway check-config --config gateway.yaml --set log.level=debug
    """
    from gateway.config import ConfigError, load

    if config is None and "GATEWAY_CONFIG" not in os.environ:
        fail("name the file to check: gateway check-config --config FILE", Exit.BAD_INPUT)
    try:
        loaded = load(config, overrides or [], os.environ)
    except ConfigError as faulty:
        report_faults(faulty, config)
        raise typer.Exit(Exit.BAD_INPUT) from None
    for each in loaded.warnings:
        warning(str(each))
    success(f"{loaded.path} can be used")
