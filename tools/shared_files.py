"""Write what the package installs beside the program: man page, completions, JSON schema.

Usage: ``.venv/bin/python -m tools.shared_files``. `deploy/share` becomes `share` of the environment
that the package is installed into; there `man` and shells find it. All of it is made from the
commands and the settings themselves. A test fails where the files are not what this writes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

from typer.core import TyperCommand, TyperGroup

from gateway import __version__
from gateway.cli.completion import script
from gateway.cli.main import COMMANDS, EXAMPLES, build, load_command
from gateway.config.schema import config_schema

ROOT: Final = Path(__file__).resolve().parents[1]
DEPLOY: Final = ROOT / "deploy"
SCHEMA: Final = "gateway.schema.json"
_EXITS: Final = (
    ("0", "Success."),
    ("1", "Invalid configuration or arguments."),
    ("2", "Refused: the gateway, the backend or the store refused the key or the request."),
    ("3", "No response: the gateway, the backend or the store cannot be reached."),
)
_VARIABLES: Final = (
    ("GATEWAY_CONFIG", "The configuration file, where --config is not given."),
    ("GATEWAY_KEY", "The API key of gateway send, where --key-file is not given."),
    ("GATEWAY_TOKEN", "The admin token, where --token-file is not given."),
    ("GATEWAY_PURE_PYTHON", "1: run the data path as plain Python, although it is compiled."),
    ("NO_COLOR", "Print no colours."),
)


def files() -> dict[str, str]:
    """Return what is written, by its path below deploy/."""
    return {
        SCHEMA: json.dumps(config_schema(), indent=1, ensure_ascii=False) + "\n",
        "share/man/man1/gateway.1": manual(),
        "share/man/man1/otlp-gateway.1": ".so man1/gateway.1\n",
        "share/bash-completion/completions/gateway": script("bash"),
        "share/bash-completion/completions/otlp-gateway": script("bash"),
        "share/zsh/site-functions/_gateway": script("zsh"),
        "share/fish/vendor_completions.d/gateway.fish": script("fish"),
        "share/fish/vendor_completions.d/otlp-gateway.fish": script("fish"),
    }


def manual() -> str:
    """Return the man page, in the macros of man(7)."""
    group = build()
    lines = [
        f'.TH GATEWAY 1 "" "otlp-gateway {__version__}" "User Commands"',
        ".SH NAME",
        r"gateway, otlp\-gateway \- an authenticating gateway for OTLP and StackState telemetry",
        ".SH SYNOPSIS",
        ".B gateway",
        r"[\fIOPTIONS\fR] \fICOMMAND\fR [\fIARGUMENTS\fR]",
        ".SH DESCRIPTION",
        *_text("Takes OTLP and StackState telemetry, checks each sender's API key, and forwards"),
        *_text("what is authorised byte for byte. gateway COMMAND --help shows a command's help."),
        ".SH OPTIONS",
        *_options(group),
        ".SH COMMANDS",
    ]
    for name, command in _commands():
        lines += [f".SS {_escaped(name)}", *_command(command)]
    for heading, entries in (("EXIT STATUS", _EXITS), ("ENVIRONMENT", _VARIABLES)):
        lines.append(f".SH {heading}")
        for name, meaning in entries:
            lines += [".TP", f".B {name}", *_text(meaning)]
    lines += [".SH EXAMPLES", ".nf", *map(_escaped, EXAMPLES[1:]), ".fi"]
    return "\n".join(lines) + "\n"


def _commands() -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    for name in COMMANDS:
        command = load_command(name)
        if isinstance(command, TyperGroup):
            for inner_name, inner in command.commands.items():
                yield f"gateway {name} {inner_name}", cast("TyperCommand", inner)
        else:
            yield f"gateway {name}", command


def _command(command: TyperCommand | TyperGroup) -> Iterator[str]:
    """Yield a command's arguments, its help and its options."""
    described, _, examples = (command.help or "").partition("Examples:")
    if not examples:
        described, _, examples = described.partition("Example:")
    for paragraph in described.strip().split("\n\n"):
        yield from _text(" ".join(paragraph.split()))
        yield ".PP"
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            yield from (".TP", f".I {_escaped(parameter.metavar or parameter.name)}")
            yield from _text(getattr(parameter, "help", None) or "")
    yield from _options(command)
    if examples.strip():
        yield from (".PP", ".nf")
        yield from (_escaped(" ".join(line.split())) for line in examples.strip().split("\n\n"))
        yield ".fi"


def _options(command: TyperCommand | TyperGroup) -> Iterator[str]:
    context = command.make_context(command.name, [], resilient_parsing=True)
    for option in command.params:
        record = option.get_help_record(context) if option.param_type_name == "option" else None
        if record is not None:  # None: hidden
            names, meaning = record
            yield from (".TP", f".B {_escaped(names)}")
            yield from _text(" ".join(meaning.split()))


def _text(text: str) -> list[str]:
    return [_escaped(text)] if text else []


def _escaped(text: str) -> str:
    """Write a line so that roff takes it as text."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("…", "...").replace("`", "")
    return re.sub(r"^(?=[.'])", r"\\&", text)


def main() -> int:
    """Write the files. Returns the exit code."""
    for name, text in files().items():
        target = DEPLOY / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{target.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
