"""Usage by day, month or key as JSON: the one place, for the API and `gateway keys usage`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from msgspec import UNSET

from gateway.control.admin.api import shapes
from gateway.control.admin.api.key_filter import KeyFilter
from gateway.keys.daily_usage import By, Estimate, PeriodUsage, UsageQuery, estimate
from gateway.keys.errors import InvalidInputError
from gateway.keys.record import STATIC_PREFIX, KeyRecord, KnownKey
from gateway.keys.scope import EVERYTHING, Scope
from gateway.keys.times import parse_day

PAGE: Final = 1_000
"""Rows that are read and sent at once."""
_SHOWN_DAYS: Final = 30
_BETWEEN: Final = "/"
"""Between period and key id in `after`."""

Read = Callable[[UsageQuery], Awaitable[list[PeriodUsage]]]
Find = Callable[[Collection[str]], Awaitable[Mapping[str, KnownKey]]]
"""Finds keys by their ids, deleted ones too as long as they are remembered."""


@dataclass(frozen=True, slots=True)
class UsageChoice:
    """Which rows are wanted: periods, and keys."""

    query: UsageQuery
    keys: KeyFilter
    name: str | None = None
    """Only keys of this name."""

    @classmethod
    def of(
        cls, given: Mapping[str, Any], today: date | None = None, scope: Scope = EVERYTHING
    ) -> UsageChoice:
        """Make one of the parameters of the API that are given, of keys within `scope`.

        Raises `InvalidInputError`.
        """
        until = given.get("until") or f"{today or datetime.now(UTC).date():%Y-%m-%d}"
        last = parse_day(until, "until")
        since = given.get("since") or f"{last - timedelta(days=_SHOWN_DAYS - 1):%Y-%m-%d}"
        if parse_day(since, "since") > last:
            msg = f"since {since} is after until {until}: swap them"
            raise InvalidInputError(msg)
        by: By = given.get("by", "day")
        query = UsageQuery(since, until, by, given.get("keyId"), _place(given.get("after")), PAGE)
        keys = KeyFilter.of(given.get("owner"), given.get("label", ()), scope)
        return cls(query, keys, given.get("name"))

    def takes(self, key: KnownKey | None) -> bool:
        """Whether rows of this key are wanted; None = nobody remembers it."""
        if self.name is not None and (key is None or key.name != self.name):
            return False
        tenancy = key.tenancy if isinstance(key, KeyRecord) else None
        return self.keys.takes(tenancy)


def _place(after: str | None) -> tuple[str, str] | None:
    if after is None:
        return None
    period, between, key_id = after.partition(_BETWEEN)
    if not between:
        msg = "after is none of this API: use the URL in the Link field as it is"
        raise InvalidInputError(msg)
    return period, key_id


def place_of(row: shapes.KeyUsageRow) -> str:
    """Return the `after` of rows that follow this one."""
    return f"{'' if row.period is UNSET else row.period}{_BETWEEN}{row.key_id}"


async def usage_rows(
    read: Read, find: Find, choice: UsageChoice
) -> AsyncIterator[list[shapes.KeyUsageRow]]:
    """Read the rows in parts, none of which is empty. Raises `StoreError`."""
    query = choice.query
    while True:
        rows = await read(query)
        keys = await find({row.key_id for row in rows})
        taken = [
            _row(row, keys.get(row.key_id)) for row in rows if choice.takes(keys.get(row.key_id))
        ]
        if taken:
            yield taken
        if len(rows) < query.limit:
            return
        query = query._replace(after=(rows[-1].period, rows[-1].key_id))


def _row(usage: PeriodUsage, key: KnownKey | None) -> shapes.KeyUsageRow:
    tenancy = key.tenancy if isinstance(key, KeyRecord) else None
    row = shapes.KeyUsageRow(
        key_id=usage.key_id,
        name=_static_name(usage.key_id) if key is None else key.name,
        requests=usage.traffic.requests,
        bytes=usage.traffic.bytes,
        refusals=usage.traffic.refusals,
    )
    if usage.period:
        row.period = usage.period
    if tenancy is not None:
        row.owner = tenancy.owner or UNSET
        row.labels = dict(tenancy.labels) or UNSET
    items = {
        signal: _items(found, sums.samples)
        for signal, sums in sorted(usage.items.items())
        if (found := estimate(sums)) is not None
    }
    if items:
        row.items = items
    return row


def _static_name(key_id: str) -> str:
    """Return the name in the id of a key of the configuration; empty for keys of stores."""
    return key_id.removeprefix(STATIC_PREFIX) if key_id.startswith(STATIC_PREFIX) else ""


def _items(found: Estimate, samples: int) -> shapes.ItemEstimate:
    error = UNSET if found.error is None else round(found.error, 1)
    return shapes.ItemEstimate(count=round(found.items), error=error, samples=samples)
