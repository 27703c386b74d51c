"""What SQL stores hold and say, on PostgreSQL: the tests of tests/unit/keys/stores/test_sql.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.keys.stores.postgresql import postgresql_store
from gateway.keys.stores.sql_store import SqlStore
from tests.support.postgresql import PostgresqlServer, postgresql_server
from tests.unit.keys.stores.test_sql import *  # noqa: F403 - every test, those to come too


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgresqlServer]:
    with postgresql_server() as server:
        yield server


@pytest.fixture
async def store(postgresql: PostgresqlServer) -> AsyncIterator[SqlStore]:
    store = postgresql_store(await postgresql.new_database())
    await store.feed.open(create=True)
    yield store
    await store.feed.close()
