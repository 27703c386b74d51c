"""The command `gateway`: which commands there are, and how each ends.

Commands are loaded when they run, so that `gateway --help` does not wait for what `gateway send`
needs. Exit codes are those of `output.Exit`, for wrong arguments too.
"""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Final, NamedTuple, cast

import typer
from typer.core import TyperCommand, TyperGroup

from gateway.cli.output import Exit, error, info


class Command(NamedTuple):
    """Where a command is implemented: the name of a function, or of a `typer.Typer`."""

    summary: str
    module: str
    attribute: str


COMMANDS: Final = {
    "serve": Command("Run the gateway.", "gateway.cli.serve", "serve"),
    "demo": Command(
        "Run everything at once, to try it out.",
        "gateway.cli.demo",
        "demo",
    ),
    "keys": Command(
        "Create, list, delete and rotate the keys that senders use.", "gateway.cli.keys", "app"
    ),
    "trace": Command(
        "Watch what the requests of a running gateway become.", "gateway.cli.trace", "trace"
    ),
    "check-config": Command(
        "Check a configuration and print all its faults.",
        "gateway.cli.check_config",
        "check_config",
    ),
    "receive": Command(
        "Receive OTLP, decode it and print what arrives.", "gateway.cli.receive", "receive"
    ),
    "send": Command("Send sample telemetry and explain the answer.", "gateway.cli.send", "send"),
}
"""In the order in which help lists them."""

EXAMPLES: Final = (
    "Examples:",
    "gateway demo",
    "gateway check-config --config gateway.yaml",
    "gateway serve --config gateway.yaml",
    "gateway keys create --name my-collector",
    "gateway send --endpoint http://127.0.0.1:4317 --key-file key.txt",
)


class LazyGroup(TyperGroup):
    """A group whose listed commands stand for the real ones until one of them is meant."""

    def resolve_command(  # type: ignore[override] # typer does not export its types of commands
        self, ctx: typer.Context, args: list[str]
    ) -> tuple[str | None, TyperCommand | TyperGroup | None, list[str]]:
        """Find the command that `args` name, and load it."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name is not None else None, rest


def load_command(name: str) -> TyperCommand | TyperGroup:
    """Import one of `COMMANDS` and make it typer's."""
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
    """Make the group of all commands."""
    app = typer.Typer(
        cls=LazyGroup,
        help="An authenticating gateway for OTLP and StackState telemetry.",
        epilog="\n\n".join(EXAMPLES),
        rich_markup_mode=None,  # help that can be read in a pipe, and paragraphs that wrap
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback(invoke_without_command=True)(_gateway)
    for name, command in COMMANDS.items():
        app.command(name, help=command.summary)(_placeholder)
    return cast("TyperGroup", typer.main.get_command(app))


def _placeholder() -> None:
    """Stand for a command in help and completion: `LazyGroup` loads the real one."""


def _show_version(value: bool) -> None:
    if value:
        from gateway import __version__

        info(f"gateway {__version__}")
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
    return code if isinstance(code, int) else Exit.OK


def _explain(mistake: typer.TyperException) -> None:
    """Say what is wrong with the arguments and where help is."""
    context = getattr(mistake, "ctx", None)
    if context is not None and mistake.format_message() == context.get_help():
        info(mistake.format_message())  # a group without a command shows its help
        return
    hint = f" (see '{context.command_path} --help')" if context is not None else ""
    # What typer's validation puts before the words of an error says nothing.
    error(f"{mistake.format_message().replace('Value error, ', '')}{hint}")


def main() -> None:
    """Run `gateway` as a program."""
    sys.exit(run(sys.argv[1:]))
