"""Rows of the table of keys: how records are made of them, and they of records."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from contextlib import aclosing
from typing import Any, Final, Literal

import msgspec

from gateway.keys.errors import InvalidInputError, StoreDamagedError
from gateway.keys.record import KeyRecord, TenantRecord, limits_as_json
from gateway.keys.stores.sql import Row, SqlConnection
from gateway.keys.tenancy import Tenancy, tenancy_as_json, tenancy_from_json
from gateway.keys.tenancy_rules import check_tenancy
from gateway.model import KeyDigest, KeyLimits, Signal

_COLUMNS: Final = TenantRecord.__struct_fields__
"""In the order of a record's fields, which have the same names."""
_PLACES: Final = [f"${number}" for number in range(1, len(_COLUMNS) + 1)]
SELECT_KEYS: Final = f"SELECT {', '.join(_COLUMNS)} FROM gateway_keys"  # noqa: S608 - our own names
INSERT_KEYS: Final = f"INSERT INTO gateway_keys ({', '.join(_COLUMNS)})"
"""Before VALUES: see `insert_all`."""
UPDATE_KEY: Final = (
    "UPDATE gateway_keys SET "  # noqa: S608 - our own names
    + ", ".join(f"{column} = {place}" for column, place in zip(_COLUMNS, _PLACES, strict=True))
    + f" WHERE id = {_PLACES[_COLUMNS.index('id')]}"
)
_DIGEST_BYTES: Final = 32
_TENANCIES: Final = 10_000
"""Different ones that are checked once."""
_SIGNALS: Final = {signal.value: signal for signal in Signal}


async def read(connection: SqlConnection, query: str, *values: object) -> list[KeyRecord]:
    """Read keys in parts, so that other tasks go on in between."""
    records: list[KeyRecord] = []
    async with aclosing(connection.parts(query, *values)) as parts:
        async for rows in parts:
            records.extend(records_of(rows))
    return records


def records_of(rows: Iterable[Row]) -> list[KeyRecord]:
    """Turn rows of `SELECT_KEYS` into records.

    Raises `StoreDamagedError` for what cannot have been written by us.
    """
    try:
        return [_record(*row) for row in rows]
    except (TypeError, ValueError) as error:
        msg = f"a row of gateway_keys makes no sense ({error}): restore the store from a backup"
        raise StoreDamagedError(msg) from error


async def read_one(
    connection: SqlConnection, column: Literal["id", "digest"], value: int | KeyDigest
) -> KeyRecord | None:
    """Read the key that has this value in a column, if there is one."""
    found = records_of(await connection.fetch(f"{SELECT_KEYS} WHERE {column} = $1", value))
    return found[0] if found else None


def columns_of(record: KeyRecord) -> dict[str, Any]:
    """Return what stands in each column, by name."""
    columns = msgspec.structs.asdict(record)
    columns["tenancy"] = tenancy_as_json(record.tenancy) or None
    if record.signals is not None:
        columns["signals"] = sorted(record.signals)
    if record.limits is not None:
        columns["limits"] = limits_as_json(record.limits)
    return columns


def values_of(record: KeyRecord) -> list[object]:
    """Return the values of `INSERT_KEYS` and `UPDATE_KEY`."""
    columns = columns_of(record)
    for name in ("signals", "limits", "tenancy"):
        if columns[name] is not None:
            columns[name] = json.dumps(columns[name])
    return [columns[name] for name in _COLUMNS]


def _record(  # noqa: PLR0913, PLR0917 - one parameter a column: fast for a million
    key_id: int,
    digest: bytes,
    name: str,
    created_ms: int,
    updated_ms: int,
    revision: int,
    description: str | None,
    expires_at_ms: int | None,
    deleted_at_ms: int | None,
    enabled: bool | int,  # noqa: FBT001 - as above
    signals: list[str] | str | None,
    limits: dict[str, Any] | str | None,
    tenancy: dict[str, Any] | str | None,
) -> KeyRecord:
    if len(digest) != _DIGEST_BYTES:
        msg = f"the digest of key {key_id} has {len(digest)} bytes"
        raise ValueError(msg)
    record = KeyRecord(
        key_id,
        KeyDigest(digest),
        name,
        created_ms,
        # One object for both times, as long as the key was not changed.
        created_ms if updated_ms == created_ms else updated_ms,
        revision,
        description,
        expires_at_ms,
        deleted_at_ms,
        bool(enabled),
        None if signals is None else _signals(signals),
        None if limits is None else _limits(limits),
    )
    return record if tenancy is None else _with_tenancy(record, tenancy)


def _with_tenancy(record: KeyRecord, given: dict[str, Any] | str) -> KeyRecord:
    members = json.loads(given) if isinstance(given, str) else given
    return record.replaced(tenancy=_checked(tenancy_from_json(members)))


@functools.lru_cache(maxsize=_TENANCIES)
def _checked(tenancy: Tenancy | None) -> Tenancy | None:
    """Refuse what nobody can have set here: workers send headers as they stand."""
    try:
        check_tenancy(tenancy)
    except InvalidInputError as error:
        raise ValueError(str(error)) from error
    return tenancy


def _signals(names: list[str] | str) -> frozenset[Signal]:
    """Read the names of signals (or their JSON); those of later versions mean nothing here."""
    if isinstance(names, str):
        names = json.loads(names)
    return frozenset(_SIGNALS[name] for name in names if name in _SIGNALS)


def _limits(given: dict[str, Any] | str) -> KeyLimits | None:
    """Read limits (or their JSON); those of later versions mean nothing here."""
    members = json.loads(given) if isinstance(given, str) else given
    limits = KeyLimits(*(members.get(name) for name in KeyLimits._fields))
    if any(each is not None and (type(each) is not int or each < 0) for each in limits):
        msg = f"limits {limits} are no numbers"
        raise ValueError(msg)
    return None if limits == KeyLimits() else limits
