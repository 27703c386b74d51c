"""`gateway keys update`, `enable`, `disable` and `audit`."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from gateway.cli import key_views as views
from gateway.cli.key_access import KeyAccess
from gateway.cli.key_options import (
    BytesLimitOption,
    ConcurrentLimitOption,
    ConfigOption,
    DataOption,
    IdOption,
    Output,
    OutputOption,
    RequestsLimitOption,
    SignalsOption,
    TokenFileOption,
    TokenOption,
    UrlOption,
    access,
    examples,
    explained,
    parse_id,
    parse_limits,
    parse_signals,
)
from gateway.cli.output import info, success
from gateway.keys.store import KeyUpdate

_MOST_ENTRIES: Final = 10_000


def add_to(app: typer.Typer) -> None:
    """Add these commands to `gateway keys`."""
    app.command(
        epilog=examples(
            "gateway keys update --id 250558013078953 --name agent-eu-2",
            "gateway keys update --id 250558013078953 --signals traces,metrics",
            "gateway keys update --id 250558013078953 --limit-bytes 5MiB --limit-requests default",
        )
    )(update)
    app.command(epilog=examples("gateway keys disable --id 250558013078953"))(disable)
    app.command(epilog=examples("gateway keys enable --id 250558013078953"))(enable)
    app.command(
        epilog=examples(
            "gateway keys audit",
            "gateway keys audit --id 250558013078953 --output json",
        )
    )(audit)


def update(
    *,
    key_id: IdOption,
    name: Annotated[
        str | None, typer.Option("--name", "-n", metavar="NAME", help="Its new name.")
    ] = None,
    description: Annotated[
        str | None,
        typer.Option("--description", metavar="TEXT", help="Its new description; '' = none."),
    ] = None,
    signals: SignalsOption = None,
    limit_requests: RequestsLimitOption = None,
    limit_bytes: BytesLimitOption = None,
    limit_concurrent: ConcurrentLimitOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Change a key's name, description, what or how much it may send. The key itself stays."""
    with explained(output):
        keys = access(config, data, url, token, token_file)
        changes = KeyUpdate(
            name=name,
            description=description,
            signals=parse_signals(signals),
            limits=parse_limits(limit_requests, limit_bytes, limit_concurrent),
        )
        _update(keys, key_id, changes, "updated", output)


def disable(
    *,
    key_id: IdOption,
    config: ConfigOption = None,
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Refuse a key until it is enabled again."""
    with explained(output):
        keys = access(config, data, url, token, token_file)
        _update(keys, key_id, KeyUpdate(enabled=False), "disabled", output)


def enable(
    *,
    key_id: IdOption,
    config: ConfigOption = None,
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Accept a disabled key again."""
    with explained(output):
        keys = access(config, data, url, token, token_file)
        _update(keys, key_id, KeyUpdate(enabled=True), "enabled", output)


def audit(
    *,
    key_id: Annotated[
        int | None,
        typer.Option("--id", "-i", metavar="ID", parser=parse_id, help="Only changes of this key."),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            "--limit", metavar="N", min=1, max=_MOST_ENTRIES, help="The most changes to be shown."
        ),
    ] = 100,
    config: ConfigOption = None,
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List who changed which key, when and from where, newest first; never a key. Times are UTC.

    WHO is the name of an admin token, or the user of this machine who typed a command.
    """
    with explained(output):
        entries = access(config, data, url, token, token_file).audit(limit, key_id)
    if output is Output.JSON:
        views.print_json({"ingestion-api-key-changes": entries})
    elif not entries:
        info("No changes found.")
    else:
        views.print_audit(entries)


def _update(keys: KeyAccess, key_id: int, update: KeyUpdate, done: str, output: Output) -> None:
    updated = keys.update(key_id, update)
    if output is Output.JSON:
        views.print_json({"ingestion-api-key": updated})
    else:
        success(f"Ingestion Api Key {done}: {key_id}")
