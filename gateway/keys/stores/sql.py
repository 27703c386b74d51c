"""What the statements of an SQL store run on: connections to SQLite or PostgreSQL, in transactions.

Statements are text that both databases understand, with parameters `$1`, `$2`, …. JSON goes in and
comes out as text, and a boolean may come out as a number. No library makes statements of objects:
it would cost control 19 MB, and each command a quarter of a second.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, Final, Protocol

PARTITION: Final = 2_000
"""Rows that are turned into records at once: other tasks go on in between."""


_ROWS_AT_ONCE: Final = 500


class Row(Protocol):
    """The values of a row."""

    def __getitem__(self, place: int, /) -> Any: ...  # noqa: ANN401 - a column's value

    def __iter__(self) -> Iterator[Any]: ...


class NoConnectionError(Exception):
    """All connections were in use for too long."""


class SqlConnection(Protocol):
    """A connection within a transaction. Methods raise what the driver does."""

    async def execute(self, statement: str, *values: object) -> None:
        """Carry out a statement."""

    async def fetch(self, statement: str, *values: object) -> Sequence[Row]:
        """Carry out a statement and return all its rows."""

    def parts(self, query: str, *values: object) -> AsyncGenerator[Sequence[Row], None]:
        """Read a great many rows, `PARTITION` at a time. To be closed."""


class SqlEngine(Protocol):
    """Makes connections to one database, and keeps some."""

    def reading(self) -> contextlib.AbstractAsyncContextManager[SqlConnection]:
        """Begin a transaction that sees all of one moment."""

    def writing(self) -> contextlib.AbstractAsyncContextManager[SqlConnection]:
        """Begin a transaction that is committed at the end of the block, undone if it fails."""

    async def drop_connections(self) -> None:
        """Close all connections, those in use too; whoever uses one gets an error.

        New ones are made afterwards when they are needed.
        """


async def fetch_value(connection: SqlConnection, statement: str, *values: object) -> Any:  # noqa: ANN401 - a column's value
    """Return the first column of the first row; None where there is no row."""
    rows = await connection.fetch(statement, *values)
    return rows[0][0] if rows else None


def places(rows: int, columns: int) -> str:
    """Write the parameters of some rows: `($1, $2), ($3, $4)`."""
    numbers = iter(range(1, rows * columns + 1))
    return ", ".join(
        f"({', '.join(f'${next(numbers)}' for _ in range(columns))})" for _ in range(rows)
    )


async def insert_all(
    connection: SqlConnection, statement: str, rows: Sequence[Sequence[object]]
) -> None:
    """Insert rows, many with each statement. `statement` is what stands before VALUES."""
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[first : first + _ROWS_AT_ONCE]
        values = [value for row in some for value in row]
        await connection.execute(f"{statement} VALUES {places(len(some), len(some[0]))}", *values)
