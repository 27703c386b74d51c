"""The command `gateway`: its subcommands and their exit codes.

Commands are imported when they run, so that `gateway --help` does not wait for the imports of
`gateway send`. Exit codes are those of `output.Exit`, also for wrong arguments.
"""

from __future__ import annotations

import errno
import importlib
import sys
from typing import Annotated, Final, NamedTuple, cast

import typer
from typer.core import TyperCommand, TyperGroup

from gateway.cli.output import Exit, OutputError, error, give_up, info


class Command(NamedTuple):
    """Where a command is implemented: the name of a function, or of a `typer.Typer`."""

    summary: str
    module: str
    attribute: str


COMMANDS: Final = {
    "serve": Command("Run the gateway.", "gateway.cli.serve", "serve"),
    "demo": Command(
        "Run a gateway with a key store and a receiver, to try it out.",
        "gateway.cli.demo",
        "demo",
    ),
    "keys": Command(
        "Create, list, delete and rotate the API keys of senders.",
        "gateway.cli.keys.commands",
        "app",
    ),
    "trace": Command("Watch the requests of a running gateway.", "gateway.cli.trace", "trace"),
    "check-config": Command(
        "Check a configuration and print all its errors.",
        "gateway.cli.check_config",
        "check_config",
    ),
    "monitoring": Command(
        "Print alert rules for Prometheus and a dashboard for Grafana.",
        "gateway.cli.monitoring",
        "app",
    ),
    "init": Command("Write a commented configuration to begin with.", "gateway.cli.init", "init"),
    "config": Command("Describe the configuration file.", "gateway.cli.config", "app"),
    "receive": Command(
        "Receive OTLP, decode it and print what arrives.", "gateway.cli.receive", "receive"
    ),
    "send": Command("Send sample telemetry and explain the response.", "gateway.cli.send", "send"),
    "completion": Command(
        "Print a script with which a shell completes commands and options.",
        "gateway.cli.completion",
        "completion",
    ),
    "version": Command(
        "Show the version and whether the data path runs compiled.",
        "gateway.cli.version",
        "version",
    ),
}
"""In the order in which help lists them."""

EXAMPLES: Final = (
    "Examples:",
    "gateway demo",
    "gateway init collector",
    "gateway check-config gateway.yaml",
    "gateway serve --config gateway.yaml",
    "gateway keys create --name my-collector",
    "gateway send --endpoint http://127.0.0.1:4317 --key-file key.txt",
)


class LazyGroup(TyperGroup):
    """A group with placeholder commands, which loads the real command when it is used."""

    def resolve_command(  # type: ignore[override] # typer does not export its types of commands
        self, ctx: typer.Context, args: list[str]
    ) -> tuple[str | None, TyperCommand | TyperGroup | None, list[str]]:
        """Find the command that `args` name, and load it."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name is not None else None, rest


def load_command(name: str) -> TyperCommand | TyperGroup:
    """Import one of `COMMANDS` as a typer command."""
    command = COMMANDS[name]
    target = getattr(importlib.import_module(command.module), command.attribute)
    if isinstance(target, typer.Typer):
        target.rich_markup_mode = None
        group = typer.main.get_group(target)
        group.name = name
        return group
    alone = typer.Typer(rich_markup_mode=None, add_completion=False)
    alone.command(name)(target)
    return cast("TyperCommand", typer.main.get_command(alone))


def build() -> TyperGroup:
    """Build the group of all commands."""
    app = typer.Typer(
        cls=LazyGroup,
        help="An authenticating gateway for OTLP and StackState telemetry.",
        epilog="\n\n".join(EXAMPLES),
        rich_markup_mode=None,  # help that is readable in a pipe, and paragraphs that wrap
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback(invoke_without_command=True)(_gateway)
    for name, command in COMMANDS.items():
        app.command(name, help=command.summary)(_placeholder)
    return cast("TyperGroup", typer.main.get_command(app))


def _placeholder() -> None:
    """Represent a command in help and completion: `LazyGroup` loads the real one."""


def _show_version(value: bool) -> None:
    if value:
        from gateway.cli.version import version

        version()
        raise typer.Exit


def _gateway(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    _ = version
    if ctx.invoked_subcommand is None:
        info(ctx.get_help())
        raise typer.Exit(Exit.BAD_INPUT)


def run(arguments: list[str]) -> int:
    """Run the command that `arguments` name and return its exit code."""
    try:
        code = build().main(arguments, prog_name="gateway", standalone_mode=False)
    except typer.TyperException as mistake:
        _explain(mistake)
        return Exit.BAD_INPUT
    except typer.Abort:
        return Exit.BAD_INPUT
    except OutputError as lost:
        return _not_shown(lost)
    except OSError as failure:  # typer itself writes help
        if failure.errno != errno.ENOSPC:
            raise
        give_up(sys.stdout)
        return _not_shown(OutputError(failure))
    return code if isinstance(code, int) else Exit.OK


def _not_shown(lost: OutputError) -> int:
    if not lost.is_reader_gone:  # 'gateway … | head' has seen enough
        error(f"the result cannot be shown: stdout cannot be written ({lost})")
    return Exit.BAD_INPUT


def _explain(mistake: typer.TyperException) -> None:
    """Print what is wrong with the arguments and where to find help."""
    context = getattr(mistake, "ctx", None)
    if context is not None and mistake.format_message() == context.get_help():
        info(mistake.format_message())  # a group without a command shows its help
        return
    hint = f" (see '{context.command_path} --help')" if context is not None else ""
    # typer's validation adds a prefix to error messages that says nothing.
    error(f"{mistake.format_message().replace('Value error, ', '')}{hint}")
