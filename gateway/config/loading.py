"""Loading: read, validate, check, and return a valid configuration or raise all errors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FsPath
from typing import Final

from gateway.config.checks import Finding, errors_in, warnings_about
from gateway.config.problems import ConfigError, ConfigProblem, path_text
from gateway.config.source import Document, read
from gateway.config.tree import Config
from gateway.config.validate import Validated, validate

FILE_VARIABLE: Final = "GATEWAY_CONFIG"
"""The environment variable that names the file if there is no `--config`."""
SERVICE_STATE_DIR: Final = FsPath("/var/lib/otlp-gateway")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration and its source."""

    config: Config
    warnings: tuple[ConfigProblem, ...] = ()
    path: FsPath | None = None
    """The file; None if there was none and defaults apply."""
    overrides: tuple[str, ...] = field(default=(), repr=False)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def reload(self) -> Loaded:
        """Read the same file again with the same overrides. Raises `ConfigError`.

        A file without settings is an error here: whoever writes it has not finished, or it is lost.
        """
        return load(self.path, self.overrides, self.environ, may_be_empty=False)


def load(
    path: FsPath | None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    *,
    may_be_empty: bool = True,
) -> Loaded:
    """Load the configuration from `path`, else from the file that `GATEWAY_CONFIG` names, if any.

    `overrides` are `PATH=VALUE` as `--set` takes them; `environ` is the process's unless given.
    A file without settings (`may_be_empty`) stands for the defaults. Raises `ConfigError` with all
    errors at once.
    """
    environ = os.environ if environ is None else environ
    if path is None and environ.get(FILE_VARIABLE):
        path = FsPath(environ[FILE_VARIABLE])
    document = read(path, overrides, environ)
    if document.is_file_empty and not may_be_empty:
        message = f"{path} has no settings: write them, or restart the gateway to use the defaults"
        document.problems.append(ConfigProblem("", message))
    folder = path.absolute().parent if path is not None else FsPath.cwd()
    validated = validate(document, folder, default_state_dir(environ))
    if validated is not None:
        _check(document, validated)
    if document.problems or validated is None:
        raise ConfigError(_in_order(document.problems))
    warnings = [_placed(document, finding) for finding in warnings_about(validated.config)]
    return Loaded(validated.config, tuple(warnings), path, tuple(overrides), environ)


def default_state_dir(environ: Mapping[str, str]) -> FsPath:
    """Choose the state directory as the XDG base directory specification says.

    A user without a home directory is a service and uses `SERVICE_STATE_DIR`.
    """
    base = environ.get("XDG_STATE_HOME")
    if base and FsPath(base).is_absolute():
        return FsPath(base) / "otlp-gateway"
    home = environ.get("HOME")
    return FsPath(home) / ".local/state/otlp-gateway" if home else SERVICE_STATE_DIR


def _check(document: Document, validated: Validated) -> None:
    """Add the errors that the checks find, except below a path that has an error already."""
    for pruned in errors_in(validated.config):
        other = validated.original(pruned.other) if pruned.other is not None else None
        finding = pruned._replace(path=validated.original(pruned.path), other=other)
        if not any(finding.path[: len(broken)] == broken for broken in document.broken):
            document.problems.append(_placed(document, finding))


def _placed(document: Document, finding: Finding) -> ConfigProblem:
    message = finding.message
    if finding.other is not None:
        message = message.replace("{other}", path_text(finding.other))
    return ConfigProblem(path_text(finding.path), message, document.line_of(finding.path))


def _in_order(problems: Iterable[ConfigProblem]) -> list[ConfigProblem]:
    """Sort by line; problems without a line come first."""
    return sorted(problems, key=lambda problem: problem.line or 0)
