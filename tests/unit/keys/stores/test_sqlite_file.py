"""What holds for every SQLite file of ours."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.keys.errors import StoreUnavailableError
from gateway.keys.stores import sqlite_file


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "_connection_worker" in thread.name}


async def test_a_connection_that_is_in_use_when_the_engine_is_closed_is_closed_too(
    tmp_path: Path,
) -> None:
    path = tmp_path / "some.db"
    sqlite_file.create_file(path, 7, lambda _: None)
    before = _threads()
    engine = sqlite_file.open_engine(path, "FULL")

    async with engine.connect() as connection:
        await connection.execute(sa.text("SELECT 1"))
        await engine.dispose()
        with pytest.raises(StoreUnavailableError), sqlite_file.translated(path):
            await connection.execute(sa.text("SELECT 1"))

    for thread in _threads() - before:
        await asyncio.to_thread(thread.join)
