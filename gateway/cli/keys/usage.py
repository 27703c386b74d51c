"""`gateway keys usage`: what keys sent, by day, month or key."""

from __future__ import annotations

import csv
import enum
import io
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

import typer

from gateway.cli.keys import tables
from gateway.cli.keys.access import Members
from gateway.cli.keys.options import Session, command_on_keys, examples
from gateway.cli.output import info
from gateway.keys.errors import InvalidInputError
from gateway.keys.record import STATIC_PREFIX

_NONE: Final = "-"
_ITEMS: Final = {"traces": "spans", "metrics": "data_points", "logs": "log_records"}
"""Signal → what its items are called."""
_CSV_COLUMNS: Final = (
    *("period", "key_id", "name", "owner", "requests", "bytes", "refusals"),
    *(f"{items}{part}" for items in _ITEMS.values() for part in ("", "_error", "_samples")),
)


class Period(enum.StrEnum):
    """What a row is for."""

    DAY = "day"
    MONTH = "month"
    KEY = "key"


class UsageOutput(enum.StrEnum):
    """How usage is written."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"


def add_usage_to(app: typer.Typer) -> None:
    """Add the command to `gateway keys`."""
    app.command(
        epilog=examples(
            "gateway keys usage --since 2030-12-01",
            "gateway keys usage --by month --owner team-a",
            "gateway keys usage --by key --since 2030-12-01 --until 2030-12-31 --output csv",
        )
    )(command_on_keys(usage))


def usage(
    session: Session,
    *,
    key_id: Annotated[
        str | None,
        typer.Option("--id", "-i", metavar="ID", help="Only this key, deleted or not."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", "-n", metavar="NAME", help="Only keys of this name.")
    ] = None,
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
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="yyyy-MM-dd", help="The first day. Without: 30 days."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="yyyy-MM-dd", help="The last day. Without: today."),
    ] = None,
    by: Annotated[Period, typer.Option("--by", help="What a row is for.")] = Period.DAY,
    output: Annotated[
        UsageOutput,
        typer.Option("--output", "-o", help="Text, JSON for scripts, or CSV for spreadsheets."),
    ] = UsageOutput.TEXT,
) -> None:
    """Show what keys sent: requests, bytes of their bodies, refusals, and items where the gateway
    takes samples. Days are UTC; today's are up to 5 seconds late while a gateway runs.

    Items are estimates with their standard error. One without ± was counted exactly; ±? = unknown.
    """
    given = {"keyId": _id(key_id), "name": name, "owner": owner, "label": label}
    given |= {"since": since, "until": until, "by": by.value}
    rows = session.keys().usage({name: value for name, value in given.items() if value is not None})
    if session.wrote_json({"ingestion-api-key-usage": rows}):
        return
    if output is UsageOutput.CSV:
        _print_csv(rows)
    elif rows:
        tables.print_rows(list(_text_rows(rows, by)))
    else:
        info("No usage found.")


def _id(text: str | None) -> str | None:
    if text is None or text.isdigit() or text.startswith(STATIC_PREFIX):
        return text
    msg = "an id is a number, or static:NAME: `gateway keys list` shows them"
    raise InvalidInputError(msg)


def _text_rows(rows: Sequence[Members], by: Period) -> Iterator[tuple[str, ...]]:
    signals = [each for each in _ITEMS if any(each in row.get("items", {}) for row in rows)]
    has_owner = any(row.get("owner") for row in rows)
    period = () if by is Period.KEY else (by.value.upper(),)
    owner = ("OWNER",) if has_owner else ()
    named = (_ITEMS[each].replace("_", " ").upper() for each in signals)
    yield (*period, "KEY ID", "NAME", *owner, "REQUESTS", "BYTES", "REFUSALS", *named)
    for row in rows:
        items = row.get("items", {})
        yield (
            *(() if by is Period.KEY else (row.get("period", _NONE),)),
            row["keyId"],
            row["name"] or _NONE,
            *((row.get("owner") or _NONE,) if has_owner else ()),
            *(str(row[each]) for each in ("requests", "bytes", "refusals")),
            *(_estimate(items.get(each)) for each in signals),
        )


def _estimate(found: Members | None) -> str:
    if found is None:
        return _NONE
    error = found.get("error")
    if error is None:
        return f"{found['count']} ±?"
    return str(found["count"]) if error == 0 else f"{found['count']} ±{error:.0f}"


def _print_csv(rows: Sequence[Members]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for row in rows:
        writer.writerow(_csv_row(row))
    info(text.getvalue().removesuffix("\n"))


def _csv_row(row: Members) -> list[Any]:
    values = [row.get("period", ""), row["keyId"], row["name"], row.get("owner", "")]
    values += [row["requests"], row["bytes"], row["refusals"]]
    for signal in _ITEMS:
        found = row.get("items", {}).get(signal, {})
        values += [found.get(part, "") for part in ("count", "error", "samples")]
    return values
