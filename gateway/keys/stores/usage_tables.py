"""The tables of usage by key and day, in the words that SQLite and PostgreSQL share.

They are beside those of the sums, and an older gateway that shares the database leaves them alone:
so they are made where they are missing, and need no version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from gateway.keys.daily_usage import By, DayTraffic, ItemSums, PeriodUsage, UsageQuery

TRAFFIC: Final = "gateway_key_usage_days"
ITEMS: Final = "gateway_key_items_days"
TRAFFIC_COLUMNS: Final = ("day", "key_id", *DayTraffic._fields)
ITEM_COLUMNS: Final = ("day", "key_id", "signal", *ItemSums._fields)
CREATE: Final = (
    f"""
CREATE TABLE IF NOT EXISTS {TRAFFIC} (
    day TEXT NOT NULL,
    key_id TEXT NOT NULL,
    requests BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    refusals BIGINT NOT NULL,
    PRIMARY KEY (day, key_id)
)""",
    f"""
CREATE TABLE IF NOT EXISTS {ITEMS} (
    day TEXT NOT NULL,
    key_id TEXT NOT NULL,
    signal TEXT NOT NULL,
    requests BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    samples BIGINT NOT NULL,
    {", ".join(f"{name} DOUBLE PRECISION NOT NULL" for name in ItemSums._fields[3:])},
    PRIMARY KEY (day, key_id, signal)
)""",
)

_PERIODS: Final[dict[By, str]] = {"day": "day", "month": "substr(day, 1, 7)", "key": "''"}


def added(table: str, columns: Sequence[str], source: str, keys: int) -> str:
    """Write an INSERT of `source` that adds to rows that are there. The first `keys` name a row."""
    sums = ", ".join(f"{name} = old.{name} + excluded.{name}" for name in columns[keys:])
    return (
        f"INSERT INTO {table} AS old ({', '.join(columns)}) {source}"
        f" ON CONFLICT ({', '.join(columns[:keys])}) DO UPDATE SET {sums}"
    )


def traffic_query(query: UsageQuery) -> tuple[str, list[object]]:
    """Return a statement that reads requests and bytes, and its values."""
    where, values = _where(query)
    period = _PERIODS[query.by]
    if query.after is not None:
        values += query.after
        where += f" AND ({period} > ${len(values) - 1} OR ({period} = ${len(values) - 1}"
        where += f" AND key_id > ${len(values)}))"
    values.append(query.limit)
    return _grouped(TRAFFIC, period, TRAFFIC_COLUMNS, 2, where) + f" LIMIT ${len(values)}", values


def items_query(query: UsageQuery, key_ids: Sequence[str]) -> tuple[str, list[object]]:
    """Return a statement that reads sums of items of some keys, and its values."""
    where, values = _where(query)
    places = ", ".join(f"${len(values) + number}" for number in range(1, len(key_ids) + 1))
    where += f" AND key_id IN ({places})"
    return _grouped(ITEMS, _PERIODS[query.by], ITEM_COLUMNS, 3, where), [*values, *key_ids]


def _where(query: UsageQuery) -> tuple[str, list[object]]:
    values: list[object] = [query.since, query.until]
    where = "day >= $1 AND day <= $2"
    if query.key_id is not None:
        values.append(query.key_id)
        where += " AND key_id = $3"
    return where, values


def _grouped(table: str, period: str, columns: Sequence[str], keys: int, where: str) -> str:
    named = columns[1:keys]
    sums = ", ".join(
        f"CAST(sum({name}) AS {'BIGINT' if name in _WHOLE else 'DOUBLE PRECISION'})"
        for name in columns[keys:]
    )
    group = ", ".join([*([] if period == "''" else [period]), *named])
    return (
        f"SELECT {period}, {', '.join(named)}, {sums} FROM {table} WHERE {where}"  # noqa: S608 - our own names
        f" GROUP BY {group} ORDER BY {group}"
    )


_WHOLE: Final = {*DayTraffic._fields, *ItemSums._fields[:3]}


def periods(
    traffic: Iterable[Sequence[Any]], items: Iterable[Sequence[Any]]
) -> Iterator[PeriodUsage]:
    """Put the rows of both queries together."""
    of_items: dict[tuple[str, str], dict[str, ItemSums]] = {}
    for period, key_id, signal, *sums in items:
        of_items.setdefault((period, key_id), {})[signal] = ItemSums(*sums)
    for period, key_id, *counts in traffic:
        known = of_items.get((period, key_id), {})
        yield PeriodUsage(period, key_id, DayTraffic(*counts), known)
