"""What stands in a file of keys: a YAML list, or a folder with one key in each file.

An entry has `digest: sha256:HEX` or `key: TEXT`, and may have `id`, `name`, `description`,
`expiration: yyyy-MM-dd` (or Unix milliseconds), `enabled`, `signals: [traces, …]`, `limits`,
`owner`, `labels`, `headers`. An id that is not given is made from the digest, so that it stays the
same. Noticing changes belongs to `stores.file`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from gateway.keys import tenancy_rules
from gateway.keys.api_key import ApiKey, InvalidKeyError, key_id_of, looks_issued
from gateway.keys.errors import InvalidInputError, StoreDamagedError, StoreUnavailableError
from gateway.keys.rules import check_not_the_key
from gateway.keys.tenancy import Tenancy, tenancy
from gateway.keys.times import LATEST_MS, parse_expiration
from gateway.model import MAX_KEY_ID, KeyDigest, KeyLimits, Signal

_MAX_BYTES: Final = 256 * 1024 * 1024
_MAX_KEY_FILE_BYTES: Final = 4_096
_MOST_ERRORS: Final = 20
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})", re.IGNORECASE)
_MEMBERS: Final = frozenset(
    {
        "id",
        "digest",
        "key",
        "name",
        "description",
        "expiration",
        "enabled",
        "signals",
        "limits",
        "owner",
        "labels",
        "headers",
    }
)
_UNREADABLE: Final = ArithmeticError, AttributeError, LookupError, TypeError, ValueError
"""What PyYAML raises for a value that is none of its type, such as `!!int x` or 2026-02-30."""
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Entry(NamedTuple):
    """A key as somebody wrote it down."""

    digest: KeyDigest
    id: int
    name: str
    description: str | None = None
    expires_at_ms: int | None = None
    enabled: bool = True
    signals: frozenset[Signal] | None = None
    limits: KeyLimits | None = None
    tenancy: Tenancy | None = None


def read_entries(path: Path) -> tuple[list[Entry], int]:
    """Read the entries, and when they were last changed (Unix milliseconds). Blocks.

    Raises `StoreUnavailableError`, and `StoreDamagedError` with all errors.
    """
    errors: list[str] = []
    try:
        if path.is_dir():
            entries = list(_from_folder(path, errors))
        else:
            entries = list(_from_yaml(path, errors))
        changed_ms = path.stat().st_mtime_ns // 1_000_000
    except OSError as error:
        raise unreadable(path, error) from error
    errors += _repeated(entries)
    if errors:
        more = len(errors) - _MOST_ERRORS
        shown = "; ".join(errors[:_MOST_ERRORS]) + (f"; and {more} more" if more > 0 else "")
        msg = f"{path}: the keys stay as they were, because: {shown}"
        raise StoreDamagedError(msg)
    return entries, changed_ms


def key_files(folder: Path) -> list[Path]:
    """List the files of a folder that hold keys; Kubernetes's own begin with a dot."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208 - names, fast
    return [path for name in names if (path := folder / name).is_file()]


def unreadable(path: Path, error: OSError) -> StoreUnavailableError:
    """Make the error that says why a file cannot be read."""
    return StoreUnavailableError(f"{path}: it cannot be read ({error.strerror}); check it")


def _from_folder(folder: Path, errors: list[str]) -> Iterator[Entry]:
    for file in key_files(folder):
        with file.open("rb") as opened:
            raw = opened.read(_MAX_KEY_FILE_BYTES)
        text = raw.decode("latin-1").removesuffix("\n").removesuffix("\r")
        try:
            digest = ApiKey.adopt(text).digest
        except InvalidKeyError as error:
            errors.append(f"{file.name}: {error}")
        else:
            yield Entry(digest, key_id_of(digest), file.name)


def _from_yaml(path: Path, errors: list[str]) -> Iterator[Entry]:
    with path.open("rb") as opened:
        raw = opened.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        errors.append(f"it is larger than {_MAX_BYTES} bytes: keep so many keys in a database")
        return
    try:
        entries = yaml.load(raw, Loader=_LOADER)  # noqa: S506 - a safe loader, in C where there is one
    except (yaml.YAMLError, RecursionError, *_UNREADABLE) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        errors.append(f"it is no YAML{where}")
        return
    if not isinstance(entries, list):
        errors.append("it is no list: write one '- digest: sha256:…' for each key, [] for none")
        return
    for place, entry in enumerate(entries, start=1):
        try:
            yield parse_entry(entry, place)
        except (InvalidInputError, InvalidKeyError) as error:
            errors.append(f"key {place}: {error}")


def parse_entry(entry: Any, place: int) -> Entry:  # noqa: ANN401 - whatever YAML can say
    """Check one entry; `place` names it where it has no name.

    Raises `InvalidInputError`, `InvalidKeyError`; texts show no values.
    """
    if not isinstance(entry, dict):
        msg = "it is no mapping: write '- digest: sha256:…'"
        raise InvalidInputError(msg)
    if unknown := sorted(str(name) for name in entry if name not in _MEMBERS):
        known = ", ".join(sorted(_MEMBERS))
        shown = "" if looks_issued(unknown[0].encode()) else f" {unknown[0][:40]!r}"
        msg = f"unknown member{shown}: possible are {known}"
        raise InvalidInputError(msg)
    digest = _digest(entry)
    return Entry(
        digest,
        _id(entry.get("id"), digest),
        _text(entry, "name") or f"key-{place}",
        _text(entry, "description"),
        _expiry(entry.get("expiration")),
        _enabled(entry.get("enabled", True)),
        _signals(entry.get("signals")),
        _limits(entry.get("limits")),
        _tenancy(entry, digest),
    )


def _digest(entry: dict[str, Any]) -> KeyDigest:
    if ("digest" in entry) == ("key" in entry):
        msg = "it needs either digest or key (`gateway keys hash` makes an entry)"
        raise InvalidInputError(msg)
    if "key" in entry:
        if not isinstance(entry["key"], str):
            msg = "its key is no text: put it in quotes"
            raise InvalidInputError(msg)
        return ApiKey.adopt(entry["key"]).digest
    found = _DIGEST.fullmatch(str(entry["digest"]))
    if found is None:
        msg = "its digest is not of the form sha256: and 64 hexadecimal digits"
        raise InvalidInputError(msg)
    return KeyDigest(bytes.fromhex(found[1]))


def _id(given: object, digest: KeyDigest) -> int:
    if given is None:
        return key_id_of(digest)
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= MAX_KEY_ID:
        msg = f"its id is no whole number from 1 to {MAX_KEY_ID}"
        raise InvalidInputError(msg)
    return given


def _text(entry: dict[str, Any], member: str) -> str | None:
    value = entry.get(member)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        msg = f"its {member} is no text of printable characters: put it in quotes"
        raise InvalidInputError(msg)
    if looks_issued(value.encode()):
        msg = f"its {member} is a key: names and descriptions are shown everywhere"
        raise InvalidInputError(msg)
    return value


def _expiry(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is int and 0 <= value <= LATEST_MS:
        return value  # as an export has what is no beginning of a day
    # YAML reads an unquoted 2030-12-31 as a date.
    return parse_expiration(value.isoformat() if type(value) is date else str(value))


def _enabled(value: object) -> bool:
    if not isinstance(value, bool):
        msg = "enabled is neither true nor false"
        raise InvalidInputError(msg)
    return value


def _signals(value: object) -> frozenset[Signal] | None:
    if value is None:
        return None
    try:
        signals = frozenset(Signal(each) for each in value) if isinstance(value, list) else None
    except ValueError:
        signals = None
    if not signals:
        msg = f"signals is no list of {', '.join(Signal)}"
        raise InvalidInputError(msg)
    return None if signals == frozenset(Signal) else signals


def _limits(value: object) -> KeyLimits | None:
    if value is None:
        return None
    given = value if isinstance(value, dict) else {"": None}
    is_known = all(name in KeyLimits._fields for name in given)
    if not is_known or not all(type(each) is int and each >= 0 for each in given.values()):
        names = ", ".join(KeyLimits._fields)
        msg = f"limits is no mapping of {names} to whole numbers: write 'limits: {{requests: 100}}'"
        raise InvalidInputError(msg)
    return KeyLimits(**given) if given else None


def _tenancy(entry: dict[str, Any], digest: KeyDigest) -> Tenancy | None:
    owner = entry.get("owner")
    if owner is not None and not isinstance(owner, str):
        msg = "its owner is no text: put it in quotes"
        raise InvalidInputError(msg)
    labels, headers = _texts(entry, "labels"), _texts(entry, "headers")
    tenancy_rules.check_headers(headers)
    given = tenancy(owner, labels, headers)
    tenancy_rules.check_tenancy(given)
    check_not_the_key(digest, *tenancy_rules.texts_of(owner, labels, headers))
    return given


def _texts(entry: dict[str, Any], member: str) -> dict[str, str]:
    value = entry.get(member)
    if value is None:
        return {}
    is_mapping = isinstance(value, dict) and all(isinstance(name, str) for name in value)
    if not is_mapping or not all(isinstance(each, str) for each in value.values()):
        example = "{team: a}" if member == "labels" else "{X-Scope-OrgID: team-a}"
        msg = (
            f"{member} is no mapping of names to texts: write '{member}: {example}', with numbers"
            " in quotes"
        )
        raise InvalidInputError(msg)
    return dict(value)


def _repeated(entries: Sequence[Entry]) -> Iterator[str]:
    digests: dict[bytes, str] = {}
    ids: dict[int, str] = {}
    for entry in entries:
        if entry.digest in digests:
            yield f"{digests[entry.digest]} and {entry.name} are the same key"
        elif entry.id in ids:
            yield f"{ids[entry.id]} and {entry.name} have the same id {entry.id}"
        digests.setdefault(entry.digest, entry.name)
        ids.setdefault(entry.id, entry.name)
