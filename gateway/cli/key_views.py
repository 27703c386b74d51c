"""How keys look on paper: JSON as the management API has it, and tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import IO, Any, Final

from rich.cells import cell_len

from gateway.cli.key_access import Members
from gateway.cli.output import info
from gateway.keys.audit import AuditEntry
from gateway.keys.material import KeyMaterial
from gateway.keys.record import KeyRecord, KeyUsage, describe_day, limits_in_words

_NONE: Final = "-"
_DEFAULT: Final = "default"
_DAY_MS: Final = 86_400_000
_UNITS: Final = {"requests": "/s", "bytes": "/s", "concurrent": ""}
_COLUMNS: Final = ("ID", "NAME", "EXPIRATION", "DESCRIPTION", "LAST USED")
_AUDIT_COLUMNS: Final = ("TIME", "WHO", "FROM", "ACTION", "KEY ID", "KEY NAME", "CHANGES")


def rotation(successor: Members, predecessor: Members) -> str:
    """Say until when a rotated key works, and its successor where that ends too."""
    ends_ms = predecessor["expiration"]
    word = "works until" if ends_ms > predecessor["lastUpdateTimestamp"] else "has not worked since"
    old = f"The old key {predecessor['id']} {word} {_moment(ends_ms)} UTC."
    text = f"Its id is {successor['id']}. {old}"
    if "expiration" not in successor:
        return text
    return f"{text} The new key expires on {describe_day(successor['expiration'])}."


def _moment(unix_ms: int) -> str:
    return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def _expiration(unix_ms: int) -> str:
    """Write a day, as keys are given one; with the time of day where a rotation has set it."""
    midnight = unix_ms % _DAY_MS == 0
    return describe_day(unix_ms) if midnight else _moment(unix_ms)


def as_json(
    record: KeyRecord, key: KeyMaterial | None = None, usage: KeyUsage | None = None
) -> Members:
    """Render a key as the API does (`IngestionApiKey`): what is absent is left out."""
    members: Members = {
        "id": record.id,
        "lastUpdateTimestamp": record.updated_ms,
        "name": record.name,
        "enabled": record.enabled,
    }
    if record.description is not None:
        members["description"] = record.description
    if record.expires_at_ms is not None:
        members["expiration"] = record.expires_at_ms
    if record.signals is not None:
        members["signals"] = sorted(record.signals)
    if record.limits is not None:
        members["limits"] = limits_in_words(record.limits)
    if key is not None:
        members["apiKey"] = key.reveal()
    if usage is not None:
        if usage.last_used_ms:
            members["lastUsedTimestamp"] = usage.last_used_ms
        members["usage"] = {
            "requests": usage.requests,
            "bytes": usage.bytes,
            "refusals": usage.refusals,
        }
    return members


def audit_as_json(entry: AuditEntry) -> Members:
    """Render an entry of the audit log as the API does (`AuditEntry`)."""
    return {
        "id": entry.id,
        "timestamp": entry.at_ms,
        "action": entry.action,
        "keyId": entry.key_id,
        "keyName": entry.key_name,
        "who": entry.by.who,
        "origin": entry.by.origin,
        "changes": dict(entry.changes),
    }


def print_json(value: object, stream: IO[str] | None = None) -> None:
    """Write `value` as the `sts` CLI does: members sorted, indented by two; to stdout by itself."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    stream = stream or sys.stdout
    stream.write(text.encode("utf-8", "replace").decode() + "\n")


def print_table(keys: Iterable[Members]) -> None:
    """Write the keys as a table like the `sts` CLI's, with one more column."""
    _print_rows([_COLUMNS, *(_row(key) for key in keys)])


def print_audit(entries: Iterable[Members]) -> None:
    """Write the audit log as a table."""
    _print_rows([_AUDIT_COLUMNS, *(_audit_row(entry) for entry in entries)])


def _print_rows(lines: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (
            text + " " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True)
        )
        info(" | ".join(padded))


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
    if name == "expiration" and isinstance(value, int):
        return f"{_moment(value)} UTC"
    if name == "signals":
        return "all" if value is None else ",".join(value)
    if name == "limits":
        limits = (
            f"{limit} {value[limit]}{unit}" for limit, unit in _UNITS.items() if limit in value
        )
        return _DEFAULT if value is None else ", ".join(limits)
    return _NONE if value is None else str(value)
