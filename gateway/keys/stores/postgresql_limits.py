"""Where gateways that share a PostgreSQL divide their keys' limits: one row for each gateway.

A gateway writes its row and reads the others' in one statement, about once a second. The table has
no log: after a crash of the server it is empty, and is full again within a second. It is beside the
keys' and touches nothing of theirs: nobody is woken by it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from gateway.keys.limit_board import FRESH_S
from gateway.keys.quota_store import QuotaUse, Totals
from gateway.keys.stores.postgresql_side import SideConnection

_EXCHANGE: Final = """
WITH mine AS (
    INSERT INTO gateway_limit_reports (gateway, written_at, report) VALUES ($1, now(), $2)
    ON CONFLICT (gateway) DO UPDATE SET
        written_at = excluded.written_at, report = excluded.report
)
SELECT gateway, report FROM gateway_limit_reports
WHERE gateway <> $1 AND written_at > now() - make_interval(secs => $3)"""
_LEAVE: Final = "DELETE FROM gateway_limit_reports WHERE gateway = $1"
_ADD: Final = """
INSERT INTO gateway_key_quota_use AS old (key_hash, period, requests, bytes)
SELECT key_hash, period, requests, bytes
FROM unnest($1::bytea[], $2::bigint[], $3::bigint[]) AS used (key_hash, requests, bytes)
    CROSS JOIN unnest($4::text[]) AS period
ORDER BY key_hash, period
ON CONFLICT (key_hash, period) DO UPDATE SET
    requests = old.requests + excluded.requests, bytes = old.bytes + excluded.bytes"""
"""In one order, so that two gateways never wait for each other in a circle."""
_TOTALS: Final = """
SELECT key_hash, period, requests, bytes FROM gateway_key_quota_use
WHERE key_hash = ANY($1::bytea[]) AND period = ANY($2::text[])"""


class PostgresqlLimitBoard:
    """A `LimitBoard` in a database."""

    def __init__(self, side: SideConnection) -> None:
        self._side = side

    async def exchange(self, name: str, report: bytes) -> Mapping[str, bytes]:
        """See `LimitBoard`."""
        async with self._side.using() as connection:
            rows = await connection.fetch(_EXCHANGE, name, report, FRESH_S)
        return {row["gateway"]: row["report"] for row in rows}

    async def leave(self, name: str) -> None:
        """See `LimitBoard`."""
        async with self._side.using() as connection:
            await connection.execute(_LEAVE, name)

    async def close(self) -> None:
        """See `LimitBoard`."""
        self._side.close()


class PostgresqlQuotaStore:
    """A `QuotaStore` in a database: several gateways add to the same sums."""

    def __init__(self, side: SideConnection) -> None:
        self._side = side

    async def add(
        self, used: Mapping[bytes, QuotaUse], asked: Collection[bytes], periods: Collection[str]
    ) -> Totals:
        """See `QuotaStore`."""
        async with self._side.using() as connection:
            if used:
                columns = zip(*((key, *use) for key, use in used.items()), strict=True)
                await connection.execute(_ADD, *map(list, columns), list(periods))
            rows = await connection.fetch(_TOTALS, list(asked), list(periods))
        return {
            (row["key_hash"], row["period"]): QuotaUse(row["requests"], row["bytes"])
            for row in rows
        }

    async def close(self) -> None:
        """See `QuotaStore`."""
        self._side.close()
