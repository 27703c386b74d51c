"""What errors of PostgreSQL, its driver and the network mean, in words that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import asyncpg

from gateway.keys.errors import (
    StoreDamagedError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    UnstorableTextError,
)
from gateway.keys.stores.postgresql_connector import LOST
from gateway.keys.stores.sql import NoConnectionError

READ_ONLY: Final = (
    "the database is read-only (a standby, a read replica, or default_transaction_read_only)"
)

_DENIED: Final = {
    "28000": "it refuses the user; check the url's user and the server's pg_hba.conf",
    "28P01": "it refuses the password; check the url, PGPASSWORD or PGPASSFILE",
    "3D000": "there is no such database; create it, or correct the url",
    "3F000": "there is no schema to use; create it, or set the user's search_path",
    "42501": "the user lacks the right; grant it, on the schema for the first start",
}
_ADVICE: Final = {
    "08P01": "a connection pooler does not know a parameter of the url, or the url is not one of"
    " a PostgreSQL; remove 'options' from it, or name it in PgBouncer's ignore_startup_parameters",
    "25006": f"{READ_ONLY}, so keys cannot be changed: use the primary's url; with several hosts"
    " add target_session_attrs=read-write to it",
    "53300": "it has too many connections; raise max_connections or use fewer",
    "55P03": "another transaction holds the lock; try again, or find out which one",
    "57014": "it took too long; try again",
    "57P03": "it is starting up or shutting down; try again",
}
_NO_SUCH_CHARACTER: Final = "22P05"
_TABLES_ARE_GONE: Final = {"42P01", "42703"}


@contextlib.contextmanager
def translated(location: str) -> Iterator[None]:
    """Turn errors of asyncpg and the network into `StoreError`s."""
    try:
        yield
    except (NoConnectionError, *LOST) as error:
        raise _named(location, error) from error


def _named(location: str, error: BaseException) -> StoreError:
    state: Any = getattr(error, "sqlstate", None)
    if state in _DENIED:
        return StoreDeniedError(f"{location}: {_DENIED[state]} ({error})")
    if state == _NO_SUCH_CHARACTER:
        return UnstorableTextError(
            f"{location}: the database's encoding lacks a character of the name or the description;"
            f" write it without, or move the keys to a database with the encoding UTF8 ({error})"
        )
    if state in _TABLES_ARE_GONE:
        return StoreDamagedError(f"{location}: its tables are gone or changed ({error})")
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return StoreDeniedError(f"{location}: its url cannot be used; correct it ({error})")
    if isinstance(error, TimeoutError | NoConnectionError):
        return StoreUnavailableError(f"{location}: it does not answer in time")
    return StoreUnavailableError(f"{location}: {_why_unavailable(error)}")


def _why_unavailable(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):  # it does not say which
        return (
            "a file that its url or the environment names is missing (sslrootcert, sslcert, sslkey,"
            " sslcrl, or the server's socket)"
        )
    state = getattr(error, "sqlstate", None)
    if state in _ADVICE:
        return f"{_ADVICE[state]} ({error})"
    return f"{'it cannot be reached' if state is None else 'it cannot be used'} ({error})"
