from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.keys.stores.sql_store import SqlStore
from gateway.keys.stores.sqlite import sqlite_store


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_ms = 1_900_000_000_000

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqlStore]:
    store = sqlite_store(path)
    await store.feed.open(create=True)
    yield store
    await store.feed.close()
