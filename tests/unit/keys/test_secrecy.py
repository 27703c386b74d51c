"""A key must not be found in anything that this room prints, raises, logs or stores."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.keys.embedded import sqlite_store
from gateway.keys.errors import KeysError
from gateway.keys.manage import KeyManager
from gateway.keys.material import InvalidKeyError, KeyMaterial
from gateway.keys.record import static_keys
from gateway.keys.schema import keys_table
from gateway.keys.service import KeyService
from gateway.keys.store import NewKey

CANARY = "canary-4c1dbb2f-never-shown"

Attempt = Callable[[KeyManager], Awaitable[object]]


def _everything_said(error: BaseException) -> str:
    """All that a log or a console could show of an error, its causes included."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize(
    "attempt",
    [
        lambda manager: manager.adopt(KeyMaterial.adopt(CANARY), "again"),
        lambda manager: manager.adopt(KeyMaterial.adopt(CANARY), CANARY),
        lambda manager: manager.adopt(KeyMaterial.adopt(CANARY), "n", CANARY),
        lambda manager: manager.adopt(KeyMaterial.adopt(CANARY), "n", None, 1),
        lambda manager: manager.adopt(KeyMaterial.adopt(CANARY), "n\n"),
        lambda manager: manager.adopt(KeyMaterial.adopt(f"{CANARY} x"), "n"),
        lambda manager: manager.adopt(KeyMaterial.adopt(CANARY * 50), "n"),
    ],
)
async def test_no_refusal_repeats_the_key(path: Path, attempt: Attempt) -> None:
    store = sqlite_store(path)
    await store.open(create=True)
    manager = KeyManager(store)
    await manager.adopt(KeyMaterial.adopt(CANARY), "first")

    with pytest.raises((KeysError, InvalidKeyError)) as caught:
        await attempt(manager)

    assert CANARY not in _everything_said(caught.value)
    await store.close()


async def test_errors_of_the_database_show_neither_key_nor_parameters(path: Path) -> None:
    store = sqlite_store(path)
    await store.open(create=True)
    async with store._opened().begin() as connection:
        await connection.execute(sa.text(f"DROP TABLE {keys_table.name}"))
    key = KeyMaterial.adopt(CANARY)

    with pytest.raises(KeysError) as caught:
        await KeyManager(store).adopt(key, "name")

    said = _everything_said(caught.value)
    assert CANARY not in said
    assert repr(bytes(key.digest)) not in said
    await store.close()


async def test_nothing_printed_or_logged_contains_the_key(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    keys = KeyService(
        [sqlite_store(path)], static_keys([("static", f"{CANARY}-static")]), tombstones_s=0
    )
    await keys.start()

    issued = await keys.adopt(KeyMaterial.adopt(CANARY), "name")
    rotated = await keys.rotate(issued.record.id, 5)
    deleted = await keys.delete(issued.record.id)
    printed = repr(
        [
            issued,
            rotated,
            deleted,
            NewKey(issued.key.digest, "n"),
            keys.snapshot(),
            list(keys.records()),
            keys.statuses(),
            vars(keys),
            vars(keys._registry),
        ]
    )
    await keys.close()

    for secret in (CANARY, rotated.issued.key.reveal()):
        assert secret not in printed
        assert secret not in caplog.text


async def test_no_file_contains_the_key(path: Path) -> None:
    keys = KeyService([sqlite_store(path)], tombstones_s=0)
    await keys.start()
    adopted = await keys.adopt(KeyMaterial.adopt(CANARY), "name")
    created = await keys.create("name")
    contents = b"".join(f.read_bytes() for f in path.parent.rglob("*") if f.is_file())

    assert bytes(adopted.key.digest) in contents
    assert CANARY.encode() not in contents
    assert created.key.reveal().encode() not in contents
    await keys.close()
