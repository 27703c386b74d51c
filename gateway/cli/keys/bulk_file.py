"""Files of many keys: YAML, CSV and JSON lines, read with the line of each key, and written.

An entry has the members of a key file (`keys.stores.file_entries`). In CSV the members of `limits`
are columns `limit_requests` and so on, `signals` are separated by blanks, labels and headers are
written `name=value; name=value`.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from gateway.cli.keys.formats import Format
from gateway.keys.api_key import InvalidKeyError
from gateway.keys.errors import InvalidInputError
from gateway.keys.record import KeyRecord, limits_as_json
from gateway.keys.stores.file_entries import Entry, parse_entry
from gateway.keys.tenancy import tenancy_as_json
from gateway.keys.times import DAY_MS, describe_day
from gateway.model import KeyLimits

_MAX_BYTES: Final = 256 * 1024 * 1024
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNREADABLE: Final = ArithmeticError, AttributeError, LookupError, TypeError, ValueError
"""What PyYAML raises for a value that is none of its type, such as `!!int x` or 2026-02-30."""
_LIMITS: Final = tuple(f"limit_{name}" for name in KeyLimits._fields)
_COLUMNS: Final = (
    *("id", "digest", "name", "description", "expiration", "enabled", "signals"),
    *_LIMITS,
    *("owner", "labels", "headers"),
)
_TRUTH: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Read(NamedTuple):
    """What a file holds."""

    entries: dict[int, Entry]
    """By the lines where they begin."""
    errors: dict[int, str]
    """By their lines."""


def read_file(path: str, form: Format) -> Read:
    """Read a file, or standard input (-). Raises `InvalidInputError` where that is impossible."""
    try:
        if path == "-":
            raw = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                raw = file.read(_MAX_BYTES + 1)
    except OSError as failure:
        msg = f"the file cannot be read: {failure.strerror}"
        raise InvalidInputError(msg) from failure
    if len(raw) > _MAX_BYTES:
        msg = f"the file is larger than {_MAX_BYTES} bytes: split it"
        raise InvalidInputError(msg)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        line = raw.count(b"\n", 0, failure.start) + 1
        msg = f"line {line} is no UTF-8: save the file as UTF-8"
        raise InvalidInputError(msg) from failure
    return _checked(_READERS[form](text))


def write_file(records: Iterable[KeyRecord | Entry], form: Format) -> str:
    """Write keys, with their digests and without what a gateway learns of them."""
    entries = [_members(record) for record in records]
    if form is Format.JSONL:
        return "".join(f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in entries)
    if form is Format.YAML:
        return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=1_000)
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_row, entries))
    return text.getvalue()


def _checked(found: Iterable[tuple[int, Any]]) -> Read:
    entries: dict[int, Entry] = {}
    errors: dict[int, str] = {}
    digests: dict[bytes, int] = {}
    ids: dict[int, int] = {}
    for place, (line, value) in enumerate(found, start=1):
        try:
            if isinstance(value, InvalidInputError):
                raise value
            entry = parse_entry(value, place)
        except (InvalidInputError, InvalidKeyError) as error:
            errors[line] = str(error)
            continue
        twin, same_id = digests.setdefault(entry.digest, line), ids.setdefault(entry.id, line)
        if twin != line:
            errors[line] = f"it is the same key as in line {twin}: remove one"
        elif same_id != line:
            errors[line] = f"it has the same id as the key in line {same_id}"
        entries[line] = entry
    return Read(entries, errors)


def _read_yaml(text: str) -> Iterator[tuple[int, Any]]:
    try:
        loader = _LOADER(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.SequenceNode):
            msg = "it is no list: write one '- digest: sha256:…' for each key"
            raise InvalidInputError(msg)
        for item in node.value:
            line = item.start_mark.line + 1
            try:
                yield line, loader.construct_document(item)
            except (yaml.YAMLError, RecursionError, *_UNREADABLE):
                yield line, InvalidInputError("a value in it is none of its type: put it in quotes")
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        msg = f"it is no YAML{where}"
        raise InvalidInputError(msg) from error


def _read_jsonl(text: str) -> Iterator[tuple[int, Any]]:
    for line, each in enumerate(text.split("\n"), start=1):
        if not each.strip():
            continue
        try:
            yield line, json.loads(each)
        except (ValueError, RecursionError):
            yield line, InvalidInputError("it is no JSON: write one object in each line")


def _read_csv(text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    line = 1
    try:
        for row in reader:
            if not header:
                header = [_column(name) for name in row]
            elif row and len(row) != len(header):
                text = f"it has {len(row)} columns, the first line has {len(header)}"
                yield line, InvalidInputError(text)
            elif row:
                yield line, _from_row(dict(zip(header, row, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        yield line, InvalidInputError(f"it is no CSV ({error})")


def _column(name: str) -> str:
    column = name.strip().lower()
    if column not in {*_COLUMNS, "key"}:
        shown = ascii(name[:40])
        msg = f"line 1: unknown column {shown}: possible are {', '.join((*_COLUMNS, 'key'))}"
        raise InvalidInputError(msg)
    return column


def _from_row(row: Mapping[str, str]) -> dict[str, Any] | InvalidInputError:
    """Turn a row into the members that a key file has; empty cells are left out."""
    given = {name: cell for name, cell in row.items() if cell.strip()}
    try:
        members: dict[str, Any] = {
            name: _CELLS.get(name, str)(cell) for name, cell in given.items() if name not in _LIMITS
        }
        limits = {name: _number(given[name]) for name in _LIMITS if name in given}
    except InvalidInputError as error:
        return error
    if limits:
        members["limits"] = {name.removeprefix("limit_"): each for name, each in limits.items()}
    return members


def _number(cell: str) -> int:
    digits = cell.strip()
    if not (digits.isascii() and digits.isdigit()) or len(digits) > len(str(2**63)):
        msg = f"{digits[:40]!a} is no whole number"
        raise InvalidInputError(msg)
    return int(digits)


def _truth(cell: str) -> bool:
    found = _TRUTH.get(cell.strip().lower())
    if found is None:
        msg = "enabled is neither true nor false"
        raise InvalidInputError(msg)
    return found


def _time(cell: str) -> int | str:
    return int(cell) if cell.isascii() and cell.isdigit() else cell.strip()


def _pairs(cell: str) -> dict[str, str]:
    pairs = {}
    for part in cell.split(";"):
        name, equals, value = part.partition("=")
        if not equals:
            msg = "labels and headers are written name=value; name=value"
            raise InvalidInputError(msg)
        pairs[name.strip()] = value.strip()
    return pairs


_CELLS: Final[dict[str, Callable[[str], Any]]] = {
    "id": _number,
    "expiration": _time,
    "enabled": _truth,
    "signals": lambda cell: re.split(r"[\s,]+", cell.strip()),
    "labels": _pairs,
    "headers": _pairs,
}
_READERS: Final = {
    Format.YAML: _read_yaml,
    Format.CSV: _read_csv,
    Format.JSONL: _read_jsonl,
}


def _members(record: KeyRecord | Entry) -> dict[str, Any]:
    members: dict[str, Any] = {
        "id": record.id,
        "digest": f"sha256:{record.digest.hex()}",
        "name": record.name,
        "description": record.description,
    }
    if (expires := record.expires_at_ms) is not None:
        members["expiration"] = describe_day(expires) if expires % DAY_MS == 0 else expires
    if not record.enabled:
        members["enabled"] = False
    if record.signals is not None:
        members["signals"] = sorted(signal.value for signal in record.signals)
    if record.limits is not None:
        members["limits"] = limits_as_json(record.limits)
    members |= tenancy_as_json(record.tenancy)
    return {name: value for name, value in members.items() if value is not None}


def _row(members: dict[str, Any]) -> dict[str, Any]:
    row = dict(members)
    for name, value in row.pop("limits", {}).items():
        row[f"limit_{name}"] = value
    if "signals" in row:
        row["signals"] = " ".join(row["signals"])
    if "enabled" in row:
        row["enabled"] = "false"
    for name in ("labels", "headers"):
        if name in row:
            row[name] = "; ".join(f"{each}={value}" for each, value in row[name].items())
    return row
