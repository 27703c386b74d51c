"""A database whose encoding is not UTF-8."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import aiohttp
import pytest

from gateway.control.admin.api.paths import KEYS_PATH
from gateway.keys.errors import InvalidInputError
from gateway.keys.store import KeySpec, KeyUpdate
from gateway.keys.stores.postgresql import postgresql_store
from tests.support.keys import HANG_S, running_keys
from tests.support.postgresql import PostgresqlServer
from tests.support.process import COMMAND, running_gateway

FITS = "Zürich"
LACKS = "price in €"
TEXT = "the database's encoding lacks a character of the name or the description"
TOKEN = "a-token-of-an-administrator"


@pytest.fixture(name="url")
async def _url(server: PostgresqlServer) -> str:
    return await server.new_database("LATIN1")


async def test_names_in_the_databases_encoding_are_read_back_and_others_are_refused(
    url: str,
) -> None:
    async with running_keys([postgresql_store(url)]) as one:
        issued = await one.keys.commands.create(KeySpec(FITS, description=FITS))
        for spec in (KeySpec(LACKS), KeySpec(FITS, description=LACKS)):
            with pytest.raises(InvalidInputError, match=TEXT):
                await one.keys.commands.create(spec)
        with pytest.raises(InvalidInputError, match=TEXT):
            await one.keys.commands.update(issued.record.id, KeyUpdate(name=LACKS))
        (record,) = await one.keys.commands.live()
        assert one.keys.statuses()[0].up

    assert (record.name, record.description, record.revision) == (FITS, FITS, 1)


async def test_commands_and_the_api_refuse_a_name_in_words(url: str, tmp_path: Path) -> None:
    settings = {"keys": {"stores": [url]}, "admin": {"tokens": [TOKEN]}}
    async with running_gateway(tmp_path, settings) as gateway:
        fields = {"X-API-Token": TOKEN}
        async with (
            aiohttp.ClientSession(headers=fields) as client,
            client.post(gateway.admin_url + KEYS_PATH, json={"name": LACKS}) as refused,
        ):
            status, answer = refused.status, await refused.text()
        commands = [
            await asyncio.to_thread(_create, gateway.config_file, name) for name in (LACKS, FITS)
        ]

    assert (status, TEXT in answer) == (400, True)
    assert [command.returncode for command in commands] == [1, 0]
    assert TEXT in commands[0].stderr
    assert "Traceback" not in commands[0].stderr


def _create(config: Path, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "keys", "create", "--name", name, "--config", config],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
