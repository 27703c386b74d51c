"""A key must not be found in anything that this room prints, raises, logs or stores."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.keys.api_key import ApiKey, InvalidKeyError
from gateway.keys.commands import KeyCommands
from gateway.keys.errors import KeysError
from gateway.keys.record import static_keys
from gateway.keys.service import KeyService
from gateway.keys.store import KeySpec, NewKey
from gateway.keys.stores.sqlite import sqlite_store

CANARY = "canary-4c1dbb2f-never-shown"

Attempt = Callable[[KeyCommands], Awaitable[object]]


def _everything_said(error: BaseException) -> str:
    """All that a log or a console could show of an error, its causes included."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize(
    "attempt",
    [
        lambda manager: manager.adopt(ApiKey.adopt(CANARY), KeySpec("again")),
        lambda manager: manager.adopt(ApiKey.adopt(CANARY), KeySpec(CANARY)),
        lambda manager: manager.adopt(ApiKey.adopt(CANARY), KeySpec("n", CANARY)),
        lambda manager: manager.adopt(ApiKey.adopt(CANARY), KeySpec("n", None, 1)),
        lambda manager: manager.adopt(ApiKey.adopt(CANARY), KeySpec("n\n")),
        lambda manager: manager.adopt(ApiKey.adopt(f"{CANARY} x"), KeySpec("n")),
        lambda manager: manager.adopt(ApiKey.adopt(CANARY * 50), KeySpec("n")),
    ],
)
async def test_no_refusal_repeats_the_key(path: Path, attempt: Attempt) -> None:
    store = sqlite_store(path)
    await store.feed.open(create=True)
    manager = KeyCommands(store.repository)
    await manager.adopt(ApiKey.adopt(CANARY), KeySpec("first"))

    with pytest.raises((KeysError, InvalidKeyError)) as caught:
        await attempt(manager)

    assert CANARY not in _everything_said(caught.value)
    await store.feed.close()


async def test_errors_of_the_database_show_neither_key_nor_parameters(path: Path) -> None:
    store = sqlite_store(path)
    await store.feed.open(create=True)
    async with store.feed._transactions.engine.writing() as connection:
        await connection.execute("DROP TABLE gateway_keys")
    key = ApiKey.adopt(CANARY)

    with pytest.raises(KeysError) as caught:
        await KeyCommands(store.repository).adopt(key, KeySpec("name"))

    said = _everything_said(caught.value)
    assert CANARY not in said
    assert repr(bytes(key.digest)) not in said
    await store.feed.close()


async def test_nothing_printed_or_logged_contains_the_key(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    keys = KeyService(
        [sqlite_store(path)], static_keys([("static", f"{CANARY}-static")]), tombstones_s=0
    )
    await keys.start()

    issued = await keys.commands.adopt(ApiKey.adopt(CANARY), KeySpec("name"))
    rotated = await keys.commands.rotate(issued.record.id, 5)
    deleted = await keys.commands.delete(issued.record.id)
    printed = repr(
        [
            issued,
            rotated,
            deleted,
            NewKey(issued.key.digest, KeySpec("n")),
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
    adopted = await keys.commands.adopt(ApiKey.adopt(CANARY), KeySpec("name"))
    created = await keys.commands.create(KeySpec("name"))
    contents = b"".join(f.read_bytes() for f in path.parent.rglob("*") if f.is_file())

    assert bytes(adopted.key.digest) in contents
    assert CANARY.encode() not in contents
    assert created.key.reveal().encode() not in contents
    await keys.close()
