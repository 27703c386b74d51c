"""`gateway keys`: create, list, change, delete, rotate, hash keys, in the words of the `sts` CLI.

Works on the store, whether a gateway runs on it or not (a running one takes changes over, and
commands that change keys wait until it has), or by the API of a running gateway. The rules are in
`gateway.keys.commands`.
"""

from __future__ import annotations

from typing import Annotated, Final

import typer

from gateway.cli.keys import tables
from gateway.cli.keys.access import Members
from gateway.cli.keys.bulk_commands import add_to
from gateway.cli.keys.listing import Sort, Status, chosen, in_order
from gateway.cli.keys.options import (
    BytesLimitOption,
    BytesPerDayOption,
    BytesPerMonthOption,
    ConcurrentLimitOption,
    DescriptionOption,
    ExpirationOption,
    HeadersOption,
    IdOption,
    LabelsOption,
    NameOption,
    Output,
    OutputOption,
    OwnerOption,
    RequestsLimitOption,
    RequestsPerDayOption,
    RequestsPerMonthOption,
    Session,
    SignalsOption,
    command_on_keys,
    examples,
    explained,
)
from gateway.cli.keys.tenancy import parse_tenancy, parse_tenancy_update
from gateway.cli.keys.unseen import deleted_unless_shown
from gateway.cli.keys.usage import add_usage_to
from gateway.cli.keys.values import duration_ms, parse_id, parse_limits, parse_signals, read_key
from gateway.cli.output import info, success
from gateway.control.admin.api.key_filter import KeyFilter
from gateway.keys.api_key import new_key_id
from gateway.keys.store import KeySpec, KeyUpdate
from gateway.keys.tenancy import tenancy_as_json
from gateway.keys.times import describe_day, now_unix_ms, parse_expiration
from gateway.model import KeyLimits

_MOST_ENTRIES: Final = 10_000

app = typer.Typer(
    name="keys",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback with local variables could show a key
    help="Create, list, change, delete and rotate the keys that senders use.",
)


@app.command(
    epilog=examples(
        "gateway keys create --name agent-eu --expiration 2030-12-31",
        "gateway keys create --name agent-eu --limit-requests 100 --output json",
        "gateway keys create --name agent-eu --label team=a --header X-Scope-OrgID=team-a",
        "gateway keys create --name old-receiver-key --key-file - < key.txt",
    )
)
@command_on_keys
def create(
    session: Session,
    *,
    name: NameOption,
    description: DescriptionOption = None,
    expiration: ExpirationOption = None,
    signals: SignalsOption = None,
    limit_requests: RequestsLimitOption = None,
    limit_bytes: BytesLimitOption = None,
    limit_concurrent: ConcurrentLimitOption = None,
    limit_requests_per_day: RequestsPerDayOption = None,
    limit_bytes_per_day: BytesPerDayOption = None,
    limit_requests_per_month: RequestsPerMonthOption = None,
    limit_bytes_per_month: BytesPerMonthOption = None,
    owner: OwnerOption = None,
    label: LabelsOption = None,
    header: HeadersOption = None,
    key_file: Annotated[
        str | None,
        typer.Option(
            "--key-file",
            metavar="FILE",
            help="Adopt the existing key in FILE (- is standard input) instead of making one.",
        ),
    ] = None,
) -> None:
    """Create a key. It is shown once: only its SHA-256 is kept.

    With --key-file an existing key is adopted instead: 1 to 512 visible ASCII characters.
    """
    expires_at_ms = None if expiration is None else parse_expiration(expiration)
    adopted = None if key_file is None else read_key(key_file)
    day = (limit_requests_per_day, limit_bytes_per_day)
    month = (limit_requests_per_month, limit_bytes_per_month)
    limits = KeyLimits(**parse_limits(limit_requests, limit_bytes, limit_concurrent, *day, *month))
    own = None if limits == KeyLimits() else limits
    tenancy = parse_tenancy(owner, label, header)
    spec = KeySpec(name, description, expires_at_ms, parse_signals(signals), own, tenancy)
    keys = session.keys()
    created = keys.create(spec, adopted)
    if adopted is not None:
        if not session.wrote_json({"ingestion-api-key": created}):
            success(f"Ingestion API Key adopted: {created['id']}")
        return
    with deleted_unless_shown(keys, created["id"], "No key was created."):
        if not session.wrote_json({"ingestion-api-key": created}):
            _say_generated(created["apiKey"])


@app.command(
    name="list",
    epilog=examples(
        "gateway keys list",
        "gateway keys list --label team=a",
        "gateway keys list --config /etc/gateway/gateway.yaml --output json",
    ),
)
@command_on_keys
def list_keys(
    session: Session,
    *,
    owner: Annotated[
        str | None, typer.Option("--owner", metavar="TEXT", help="Only keys of this owner.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="NAME=VALUE",
            help="Only keys with this label; repeat it for keys with all of several.",
        ),
    ] = None,
    status: Annotated[
        Status | None, typer.Option("--status", help="Only keys with this status.")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            "--search", metavar="TEXT", help="Only keys with this in their name or description."
        ),
    ] = None,
    sort: Annotated[Sort, typer.Option("--sort", help="What comes first.")] = Sort.NAME,
) -> None:
    """List all keys that are not deleted, by name; never the keys themselves.

    Times are UTC. LAST USED is up to 5 seconds late while a gateway runs. On a terminal the table
    is as wide as that; columns in which no key has a value are left out.
    """
    found = session.keys().list_keys(KeyFilter.of(owner, label or ()))
    keys = in_order(chosen(found, status, search, now_unix_ms()), sort)
    if session.wrote_json({"ingestion-api-keys": keys}):
        return
    if keys:
        tables.print_table(keys)
    else:
        info("No ingestion api keys found.")


@app.command(epilog=examples("gateway keys delete --id 250558013078953"))
@command_on_keys
def delete(
    session: Session,
    *,
    key_id: IdOption,
) -> None:
    """Delete a key: senders that use it are refused from now on."""
    session.keys().delete(key_id)
    if not session.wrote_json({"deleted-ingestion-api-key": key_id}):
        success(f"Ingestion Api Key deleted: {key_id}")


@app.command(epilog=examples("gateway keys rotate --id 250558013078953 --overlap 24h"))
@command_on_keys
def rotate(
    session: Session,
    *,
    key_id: IdOption,
    overlap: Annotated[
        str,
        typer.Option(
            "--overlap", metavar="DURATION", help="How long the old key goes on working: 24h, 7d."
        ),
    ],
    expiration: Annotated[
        str | None,
        typer.Option(
            "--expiration",
            metavar="yyyy-MM-dd",
            help="When the new key expires. Without: it lives as long as the old one was to.",
        ),
    ] = None,
) -> None:
    """Create a successor of a key, with the same name; the old key expires after the overlap."""
    overlap_ms = duration_ms("--overlap", overlap)
    expires_at_ms = None if expiration is None else parse_expiration(expiration)
    keys = session.keys()
    rotated = keys.rotate(key_id, overlap_ms, expires_at_ms)
    predecessor = rotated.pop("predecessor")
    shown = {"ingestion-api-key": rotated, "rotated-ingestion-api-key": predecessor}
    left = f"The old key now ends after the overlap: rotate {key_id} again."
    with deleted_unless_shown(keys, rotated["id"], left):
        if session.wrote_json(shown):
            return
        _say_generated(rotated["apiKey"])
        info(tables.rotation(rotated, predecessor))


@app.command(
    name="hash", epilog=examples("gateway keys hash --name agent-eu < key.txt >> keys.yaml")
)
def hash_key(
    *,
    name: Annotated[
        str | None, typer.Option("--name", "-n", metavar="NAME", help="What the key is for.")
    ] = None,
    description: DescriptionOption = None,
    expiration: ExpirationOption = None,
    owner: OwnerOption = None,
    label: LabelsOption = None,
    header: HeadersOption = None,
    key_file: Annotated[
        str,
        typer.Option("--key-file", metavar="FILE", help="Where the key is (- is standard input)."),
    ] = "-",
    output: OutputOption = Output.TEXT,
) -> None:
    """Write the entry of a file store (YAML) for a key: its SHA-256, not the key."""
    with explained(output):
        key = read_key(key_file)
        entry: dict[str, object] = {"id": new_key_id(), "digest": f"sha256:{key.digest.hex()}"}
        if name:
            entry["name"] = name
        if description:
            entry["description"] = description
        if expiration is not None:
            entry["expiration"] = describe_day(parse_expiration(expiration))
        entry |= tenancy_as_json(parse_tenancy(owner, label, header))
    if output is Output.JSON:
        tables.print_json(entry)
        return
    import yaml

    info(yaml.safe_dump([entry], sort_keys=False, allow_unicode=True).rstrip())


@app.command(
    epilog=examples(
        "gateway keys update --id 250558013078953 --name agent-eu-2",
        "gateway keys update --id 250558013078953 --signals traces,metrics",
        "gateway keys update --id 250558013078953 --limit-bytes 5MiB --limit-requests default",
        "gateway keys update --id 250558013078953 --limit-bytes-per-month 500GiB",
        "gateway keys update --id 250558013078953 --owner team-a --label team=a --label env=",
    )
)
@command_on_keys
def update(
    session: Session,
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
    limit_requests_per_day: RequestsPerDayOption = None,
    limit_bytes_per_day: BytesPerDayOption = None,
    limit_requests_per_month: RequestsPerMonthOption = None,
    limit_bytes_per_month: BytesPerMonthOption = None,
    owner: Annotated[
        str | None, typer.Option("--owner", metavar="TEXT", help="Its new owner; '' = none.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="NAME=VALUE",
            help="A label to set, NAME= to take it away; others stay. May be repeated.",
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="NAME=VALUE", help="A header, in the same way."),
    ] = None,
) -> None:
    """Change a key's name, description, what or how much it may send, whose data that is.

    The key itself stays.
    """
    keys = session.keys()
    day = (limit_requests_per_day, limit_bytes_per_day)
    month = (limit_requests_per_month, limit_bytes_per_month)
    changes = KeyUpdate(
        name=name,
        description=description,
        signals=parse_signals(signals),
        limits=parse_limits(limit_requests, limit_bytes, limit_concurrent, *day, *month),
        tenancy=parse_tenancy_update(owner, label, header),
    )
    updated = keys.update(key_id, changes)
    _say_updated(session, updated, "updated")


@app.command(epilog=examples("gateway keys disable --id 250558013078953"))
@command_on_keys
def disable(session: Session, *, key_id: IdOption) -> None:
    """Refuse a key until it is enabled again."""
    updated = session.keys().update(key_id, KeyUpdate(enabled=False))
    _say_updated(session, updated, "disabled")


@app.command(epilog=examples("gateway keys enable --id 250558013078953"))
@command_on_keys
def enable(session: Session, *, key_id: IdOption) -> None:
    """Accept a disabled key again."""
    updated = session.keys().update(key_id, KeyUpdate(enabled=True))
    _say_updated(session, updated, "enabled")


@app.command(
    epilog=examples(
        "gateway keys audit",
        "gateway keys audit --id 250558013078953 --output json",
    )
)
@command_on_keys
def audit(
    session: Session,
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
) -> None:
    """List who changed which key, when and from where, newest first; never a key. Times are UTC.

    WHO is the name of an admin token, or the user of this machine who typed a command.
    """
    entries = session.keys().audit(limit, key_id)
    if session.wrote_json({"ingestion-api-key-changes": entries}):
        return
    if entries:
        tables.print_audit(entries)
    else:
        info("No changes found.")


add_to(app)
add_usage_to(app)


def _say_updated(session: Session, updated: Members, done: str) -> None:
    if not session.wrote_json({"ingestion-api-key": updated}):
        success(f"Ingestion Api Key {done}: {updated['id']}")


def _say_generated(key: str) -> None:
    success(f"Ingestion API Key generated: {key}")
    info()
