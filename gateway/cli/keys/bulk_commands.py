"""The commands of `gateway keys` on many keys, and on keys that somebody holds in the hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.keys import tables
from gateway.cli.keys.formats import Format, format_of
from gateway.cli.keys.options import IdOption, Session, command_on_keys, examples
from gateway.cli.keys.values import read_key
from gateway.cli.output import info, success, warning
from gateway.control.admin.api.key_filter import KeyFilter
from gateway.keys.errors import InvalidInputError, KeyNotFoundError

_KeyFile = Annotated[
    str,
    typer.Option("--key-file", metavar="FILE", help="Where the key is (- is standard input)."),
]
_FormatOption = Annotated[
    Format | None,
    typer.Option("--format", help="How the file is written. Without: as its name ends."),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `gateway keys`."""
    app.command(name="show", epilog=examples("gateway keys show --id 250558013078953"))(
        command_on_keys(show)
    )
    app.command(name="find", epilog=examples("gateway keys find --key-file key.txt"))(
        command_on_keys(find)
    )
    app.command(name="revoke", epilog=examples("gateway keys revoke --key-file - < leaked.txt"))(
        command_on_keys(revoke)
    )
    app.command(
        name="import",
        epilog=examples(
            "gateway keys import keys.csv --dry-run", "gateway keys import --format yaml - < k.yaml"
        ),
    )(command_on_keys(import_keys))
    app.command(name="export", epilog=examples("gateway keys export --file keys.csv"))(
        command_on_keys(export)
    )


def show(session: Session, *, key_id: IdOption) -> None:
    """Show one key with all that is known of it; never the key itself."""
    for key in session.keys().list_keys(KeyFilter()):
        if key["id"] == key_id:
            _say_key(session, key)
            return
    msg = f"there is no key with id {key_id}: `gateway keys list` shows all"
    raise KeyNotFoundError(msg)


def find(session: Session, *, key_file: _KeyFile) -> None:
    """Say whose key it is that somebody has found."""
    _say_key(session, session.keys().whose(read_key(key_file)))


def revoke(session: Session, *, key_file: _KeyFile) -> None:
    """Delete a key that has leaked: senders that use it are refused from now on."""
    keys = session.keys()
    key = keys.whose(read_key(key_file))
    keys.delete(key["id"])
    if not session.wrote_json({"deleted-ingestion-api-key": key["id"]}):
        success(f"Ingestion Api Key deleted: {key['id']} ({key['name']})")


def import_keys(
    session: Session,
    *,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="YAML, CSV or JSON lines; - is standard input.")
    ],
    form: _FormatOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the file, and say what would be stored.")
    ] = False,
) -> None:
    """Store many keys, given as SHA-256 digests or as keys. Those that are there stay as they are.

    The whole file is checked first. Then batches of 500 are stored, each of them whole or not at
    all; after an interruption, run it again.
    """
    from gateway.cli.keys.bulk import bring_in
    from gateway.cli.keys.bulk_file import read_file

    outcome = bring_in(session.keys(), read_file(file, format_of(file, form)), is_dry_run=dry_run)
    result: dict[str, Any] = {
        "imported": outcome.imported,
        "existing": outcome.existing,
        "deleted": outcome.deleted,
        "dryRun": dry_run,
    }
    if outcome.deleted:
        warning(f"{outcome.deleted} of the keys were deleted here before, and stay deleted")
    if not session.wrote_json({"import": result}):
        done = "would be imported" if dry_run else "imported"
        success(f"{outcome.imported} keys {done}, {outcome.existing} are there already")


def export(
    session: Session,
    *,
    file: Annotated[
        str, typer.Option("--file", metavar="FILE", help="Where to write (- is standard output).")
    ] = "-",
    form: _FormatOption = None,
) -> None:
    """Write all keys that are not deleted, for `import` or a file store: digests, never keys."""
    from gateway.cli.keys.bulk_file import write_file

    chosen = form or (Format.YAML if file == "-" else format_of(file, None))
    text = write_file(session.keys().export(), chosen)
    if file == "-":
        info(text.removesuffix("\n"))
        return
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as failure:
        msg = f"the file cannot be written: {failure.strerror}"
        raise InvalidInputError(msg) from failure


def _say_key(session: Session, key: dict[str, Any]) -> None:
    if not session.wrote_json({"ingestion-api-key": key}):
        tables.print_key(key)
