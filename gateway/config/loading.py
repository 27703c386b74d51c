"""Loading: read, validate, check, and either return a whole configuration or everything wrong."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FsPath
from typing import Final

from gateway.config.checks import Remark, faults_in, warnings_about
from gateway.config.faults import ConfigError, Fault, path_text
from gateway.config.source import Document, read
from gateway.config.tree import Config
from gateway.config.validate import Validated, validate

FILE_VARIABLE: Final = "GATEWAY_CONFIG"
"""The environment variable that names the file where no `--config` does."""
SERVICE_STATE_DIR: Final = FsPath("/var/lib/otlp-gateway")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used, and where it came from."""

    config: Config
    warnings: tuple[Fault, ...] = ()
    path: FsPath | None = None
    """The file; None where there was none and defaults apply."""
    overrides: tuple[str, ...] = field(default=(), repr=False)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def reload(self) -> Loaded:
        """Read the same file again with the same overrides. Raises `ConfigError`."""
        return load(self.path, self.overrides, self.environ)


def load(
    path: FsPath | None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Load the configuration from `path`, else from the file that `GATEWAY_CONFIG` names, if any.

    `overrides` are `PATH=VALUE` as `--set` takes them; `environ` is the process's unless given.
    Raises `ConfigError` with all faults at once.
    """
    environ = os.environ if environ is None else environ
    if path is None and environ.get(FILE_VARIABLE):
        path = FsPath(environ[FILE_VARIABLE])
    document = read(path, overrides, environ)
    folder = path.absolute().parent if path is not None else FsPath.cwd()
    validated = validate(document, folder, default_state_dir(environ))
    if validated is not None:
        _check(document, validated)
    if document.faults or validated is None:
        raise ConfigError(_in_order(document.faults))
    warnings = [_placed(document, remark) for remark in warnings_about(validated.config)]
    return Loaded(validated.config, tuple(warnings), path, tuple(overrides), environ)


def default_state_dir(environ: Mapping[str, str]) -> FsPath:
    """Choose the state folder as the XDG base directory specification says.

    A user without a home folder is a service: that has its state where services do.
    """
    base = environ.get("XDG_STATE_HOME")
    if base and FsPath(base).is_absolute():
        return FsPath(base) / "otlp-gateway"
    home = environ.get("HOME")
    return FsPath(home) / ".local/state/otlp-gateway" if home else SERVICE_STATE_DIR


def _check(document: Document, validated: Validated) -> None:
    """Note what the checks find, unless it follows from a fault at the same place or around it."""
    for pruned in faults_in(validated.config):
        other = validated.original(pruned.other) if pruned.other is not None else None
        remark = pruned._replace(path=validated.original(pruned.path), other=other)
        if not any(remark.path[: len(broken)] == broken for broken in document.broken):
            document.faults.append(_placed(document, remark))


def _placed(document: Document, remark: Remark) -> Fault:
    message = remark.message
    if remark.other is not None:
        message = message.replace("{other}", path_text(remark.other))
    return Fault(path_text(remark.path), message, document.line_of(remark.path))


def _in_order(faults: Iterable[Fault]) -> list[Fault]:
    """Sort as the file is read; what stands on no line comes first."""
    return sorted(faults, key=lambda fault: fault.line or 0)
