"""A log that nobody reads, or that is closed, stops nothing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import yaml

from tests.integration.test_serve import ask, run_command, send, tree_in
from tests.support.child import start_child
from tests.support.process import COMMAND, START_S, free_ports


@contextlib.asynccontextmanager
async def _serving(folder: Path, stderr: int | None) -> AsyncIterator[tuple[str, str, list[str]]]:
    """Run a gateway whose log goes to `stderr` (None: it is closed); it must end with 0."""
    listen, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
    file = folder / "gateway.yaml"
    changes = {
        "listen": [{"address": listen}],
        "admin": {"address": admin},
        "keys": {"stores": [f"sqlite:///{folder / 'keys.db'}"]},
    }
    file.write_text(yaml.safe_dump(tree_in(folder, changes)))
    command = [COMMAND, "serve", "--config", file]
    if stderr is None:
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    process = await start_child(*map(str, command), stderr=stderr)
    try:
        await _until_ready(admin)
        yield listen, admin, ["--config", str(file), "--output", "json"]
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _until_ready(admin: str) -> None:
    async with asyncio.timeout(START_S):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                if await ask(admin, "/readyz") == 200:
                    return
            await asyncio.sleep(0.05)


async def _refused_from(address: str, listen: str) -> int:
    """Send with a wrong key from one of loopback's addresses: the log has a line for each."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    fields = {"Authorization": "StackState nobody-knows-it", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(connector=connector) as client,
        client.post(f"http://{listen}/v1/traces", data=b"{}", headers=fields) as answer,
    ):
        return answer.status


async def _make_and_delete_a_key(listen: str, options: list[str]) -> None:
    """A key counts as soon as it is made, and no more as soon as it is deleted."""
    made = yaml.safe_load(await run_command("keys", "create", "--name", "agent", *options))
    key = made["ingestion-api-key"]
    assert await send(listen, key["apiKey"]) == 503  # the key is good, but there is no backend
    await run_command("keys", "delete", "--id", str(key["id"]), *options)
    assert await send(listen, key["apiKey"]) == 401


async def test_a_log_that_nobody_reads_stops_neither_workers_nor_control(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        async with _serving(tmp_path, writing) as (listen, admin, options):
            for number in range(2, 66):  # far more lines than the pipe takes
                assert await _refused_from(f"127.0.0.{number}", listen) == 401
            await _make_and_delete_a_key(listen, options)
            assert await ask(admin, "/livez") == 200
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("closed", ["at the start", "later"])
async def test_a_log_that_is_closed_stops_nothing(tmp_path: Path, closed: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        async with _serving(tmp_path, writing if closed == "later" else None) as gateway:
            listen, admin, options = gateway
            await _make_and_delete_a_key(listen, options)
            assert await ask(admin, "/livez") == 200
    finally:
        os.close(writing)
