from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.keys.embedded import sqlite_store
from gateway.keys.postgresql import postgresql_store
from gateway.keys.record import KeyRecord
from gateway.keys.sql import SqlStore
from gateway.keys.store import Changes, KeyStore
from tests.support.postgresql import PostgresqlServer, postgresql_server


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_ms = 1_900_000_000_000

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)


async def read_all(store: KeyStore) -> Changes:
    """Read everything that a store holds."""
    revision, records = -1, list[KeyRecord]()
    async for part in store.everything():
        revision = part.revision
        records += part.records
    return Changes(revision, records)


async def changes(store: KeyStore, since: int) -> Changes:
    """Read what changed; a store that wants to be read as a whole fails the test."""
    found = await store.changes(since)
    assert found is not None
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys.db"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    with postgresql_server() as server:
        yield server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is said of stores on each kind, unless it is about a file."""
    parameters = inspect.signature(metafunc.function).parameters
    is_sql = metafunc.module.__name__.endswith("test_sql")
    if is_sql and "store" in parameters and "path" not in parameters:
        metafunc.parametrize("store", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
async def store(request: pytest.FixtureRequest, path: Path) -> AsyncIterator[SqlStore]:
    if getattr(request, "param", "sqlite") == "sqlite":
        store = sqlite_store(path)
    else:
        server: PostgresqlServer = request.getfixturevalue("postgresql")
        store = postgresql_store(await server.new_database())
    await store.open(create=True)
    yield store
    await store.close()
