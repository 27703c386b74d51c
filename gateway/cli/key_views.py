"""How keys look on paper: JSON as StackState's API has it, and the table of `gateway keys list`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Final

from rich.cells import cell_len

from gateway.cli.output import info
from gateway.keys.material import KeyMaterial
from gateway.keys.record import KeyRecord, KeyUsage, describe_day

_NONE: Final = "-"
_DAY_MS: Final = 86_400_000
_COLUMNS: Final = ("ID", "NAME", "EXPIRATION", "DESCRIPTION", "LAST USED")


def rotation(successor: KeyRecord, predecessor: KeyRecord) -> str:
    """Say until when a rotated key works, and its successor where that ends too."""
    ends_ms = predecessor.expires_at_ms or 0
    word = "works until" if ends_ms > predecessor.updated_ms else "has not worked since"
    text = f"Its id is {successor.id}. The old key {predecessor.id} {word} {_moment(ends_ms)} UTC."
    if successor.expires_at_ms is None:
        return text
    return f"{text} The new key expires on {describe_day(successor.expires_at_ms)}."


def _moment(unix_ms: int) -> str:
    return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def _expiration(unix_ms: int) -> str:
    """Write a day, as keys are given one; with the time of day where a rotation has set it."""
    midnight = unix_ms % _DAY_MS == 0
    return describe_day(unix_ms) if midnight else _moment(unix_ms)


def as_json(
    record: KeyRecord, key: KeyMaterial | None = None, usage: KeyUsage | None = None
) -> dict[str, object]:
    """Render a key as StackState's API does (`IngestionApiKey`): what is absent is left out."""
    members: dict[str, object] = {
        "id": record.id,
        "lastUpdateTimestamp": record.updated_ms,
        "name": record.name,
    }
    if record.description is not None:
        members["description"] = record.description
    if record.expires_at_ms is not None:
        members["expiration"] = record.expires_at_ms
    if key is not None:
        members["apiKey"] = key.reveal()
    if usage is not None and usage.last_used_ms:
        members["lastUsedTimestamp"] = usage.last_used_ms
    return members


def print_json(value: object, stream: IO[str] | None = None) -> None:
    """Write `value` as the `sts` CLI does: members sorted, indented by two; to stdout by itself."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    stream = stream or sys.stdout
    stream.write(text.encode("utf-8", "replace").decode() + "\n")


def print_table(records: Sequence[KeyRecord], usage: Mapping[str, KeyUsage]) -> None:
    """Write the keys as a table like the `sts` CLI's, with one more column."""
    lines = [_COLUMNS, *(_row(record, usage.get(record.key_id)) for record in records)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (
            text + " " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True)
        )
        info(" | ".join(padded))


def _row(record: KeyRecord, usage: KeyUsage | None) -> tuple[str, ...]:
    expires = record.expires_at_ms
    used = usage.last_used_ms if usage is not None else 0
    return (
        record.key_id,
        record.name,
        _NONE if expires is None else _expiration(expires),
        record.description or _NONE,
        _moment(used) if used else _NONE,
    )
