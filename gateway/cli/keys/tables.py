"""How results of `gateway keys` are written: tables and sentences for people, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from rich.cells import cell_len

from gateway.cli.keys.access import Members
from gateway.cli.keys.listing import fitted, status_of
from gateway.cli.output import info, write
from gateway.keys.record import camel
from gateway.keys.times import LATEST_MS, describe_day, now_unix_ms
from gateway.terminal import escaped

_NONE: Final = "-"
_DEFAULT: Final = "default"
_DAY_MS: Final = 86_400_000
_LIMITS: Final = {
    "requests": ("requests", "/s"),
    "bytes": ("bytes", "/s"),
    "concurrent": ("concurrent", ""),
    "requestsPerDay": ("requests", "/day"),
    "bytesPerDay": ("bytes", "/day"),
    "requestsPerMonth": ("requests", "/month"),
    "bytesPerMonth": ("bytes", "/month"),
}
"""A member of the API's limits → how people read it."""
_COLUMNS: Final = ("ID", "NAME", "EXPIRATION", "DESCRIPTION", "LAST USED")
_TENANCY: Final = {"owner": "OWNER", "labels": "LABELS", "headers": "HEADERS"}
"""Members with a column of their own where keys have some."""
_FITTED: Final = (
    *("ID", "NAME", "STATUS", "EXPIRATION", "SIGNALS", "LIMITS"),
    *_TENANCY.values(),
    *("DESCRIPTION", "LAST USED"),
)
_AUDIT_COLUMNS: Final = ("TIME", "WHO", "FROM", "ACTION", "KEY ID", "KEY NAME", "CHANGES")


def rotation(successor: Members, predecessor: Members) -> str:
    """Say until when a rotated key works, and its successor where that ends too."""
    ends_ms = predecessor["expiration"]
    word = "works until" if ends_ms > predecessor["lastUpdateTimestamp"] else "has not worked since"
    old = f"The old key {predecessor['id']} {word} {_moment(ends_ms)} UTC."
    text = f"Its id is {successor['id']}. {old}"
    if successor.get("expiration") is None:
        return text
    return f"{text} The new key expires on {describe_day(successor['expiration'])}."


def _moment(unix_ms: int) -> str:
    return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def _expiration(unix_ms: int) -> str:
    """Write a day, as keys are given one; with the time of day where a rotation has set it."""
    midnight = unix_ms % _DAY_MS == 0
    return describe_day(unix_ms) if midnight else _moment(unix_ms)


def print_json(value: object, stream: TextIO | None = None) -> None:
    """Write `value` as the `sts` CLI does: members sorted, indented by two.

    What could control a terminal is escaped as JSON does it. `stream` is stdout unless given.
    """
    stream = stream or sys.stdout
    is_unicode = (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=not is_unicode)
    write("".join(map(_json_character, text)), stream)


def _json_character(char: str) -> str:
    """Escape a character of a JSON text that is not printable; all of them stand in strings."""
    return char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1]


def print_table(keys: Iterable[Members]) -> None:
    """Write the keys as a table like the `sts` CLI's, with more columns behind."""
    keys = list(keys)
    if sys.stdout.isatty():
        for line in fitted([_FITTED, *map(_fitted_row, keys)]):
            info(line)
        return
    more = [member for member in _TENANCY if any(key.get(member) for key in keys)]
    names = (*_COLUMNS, *(_TENANCY[member] for member in more))
    print_rows(
        [names, *((*_row(key), *(_change(each, key.get(each)) for each in more)) for key in keys)]
    )


def _fitted_row(key: Members) -> tuple[str, ...]:
    identifier, name, expiration, description, used = _row(key)
    return (
        identifier,
        name.removesuffix(" (disabled)") if not key.get("enabled", True) else name,
        status_of(key, now_unix_ms()).value,
        expiration,
        _change("signals", key.get("signals")),
        _change("limits", key.get("limits")),
        *(_change(each, key.get(each)) for each in _TENANCY),
        description,
        used,
    )


def print_key(key: Members) -> None:
    """Write all that is known of one key, a line for each."""
    expires, used, usage = key.get("expiration"), key.get("lastUsedTimestamp"), key.get("usage")
    lines = {
        "ID": str(key["id"]),
        "Name": key["name"],
        "Description": key.get("description") or _NONE,
        "Enabled": "yes" if key.get("enabled", True) else "no",
        "Expiration": _NONE if expires is None else f"{_expiration(expires)} UTC",
        "Signals": _change("signals", key.get("signals")),
        "Limits": _change("limits", key.get("limits")),
        "Owner": key.get("owner") or _NONE,
        "Labels": _change("labels", key.get("labels")),
        "Headers": _change("headers", key.get("headers")),
        "Last change": f"{_moment(key['lastUpdateTimestamp'])} UTC",
        "Last used": f"{_moment(used)} UTC" if used else _NONE,
    }
    for name in ("requests", "bytes", "refusals"):
        if usage and name in usage:
            lines[name.capitalize()] = str(usage[name])
    print_rows([(f"{name}:", value) for name, value in lines.items()], between=" ")


def print_audit(entries: Iterable[Members]) -> None:
    """Write the audit log as a table."""
    print_rows([_AUDIT_COLUMNS, *(_audit_row(entry) for entry in entries)])


def print_rows(rows: Sequence[tuple[str, ...]], between: str = " | ") -> None:
    """Write rows in columns; the first has their names."""
    lines = [tuple(map(escaped, row)) for row in rows]  # a line break would begin a row
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (
            text + " " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True)
        )
        info(between.join(padded).rstrip() if between == " " else between.join(padded))


def _row(key: Members) -> tuple[str, ...]:
    expires, used = key.get("expiration"), key.get("lastUsedTimestamp")
    marks = "" if key.get("enabled", True) else " (disabled)"
    return (
        str(key["id"]),
        key["name"] + marks,
        _NONE if expires is None else _expiration(expires),
        key.get("description") or _NONE,
        _moment(used) if used else _NONE,
    )


def _audit_row(entry: Members) -> tuple[str, ...]:
    changes = (f"{name}: {_change(name, value)}" for name, value in entry["changes"].items())
    return (
        _moment(entry["timestamp"]),
        entry["who"],
        entry["origin"],
        entry["action"],
        str(entry["keyId"]),
        entry["keyName"],
        "; ".join(changes) or _NONE,
    )


def _change(name: str, value: Any) -> str:  # noqa: ANN401 - JSON
    match name, value:
        case "expiration", int() if 0 <= value <= LATEST_MS:
            text = f"{_moment(value)} UTC"
        case "signals", None:
            text = "all"
        case "signals", list():
            text = ",".join(map(str, value))
        case "limits", None:
            text = _DEFAULT
        case "limits", dict():
            given = {camel(each): value[each] for each in value}
            known = ((*_LIMITS[each], given[each]) for each in _LIMITS if each in given)
            text = ", ".join(f"{what} {number}{unit}" for what, unit, number in known)
        case (("labels" | "headers"), dict()):
            text = ", ".join(f"{each}={value[each]}" for each in value)
        case _:
            text = _NONE if value is None else str(value)
    return text
