"""The steps of docs/tenants.md, followed to the letter before a store with tenants."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.child import start_child
from tests.support.process import COMMAND, free_ports, running
from tests.support.sink import RawSink
from tests.support.tenant_store import TenantStore

PAGE: Final = (Path(__file__).parents[2] / "docs/tenants.md").read_text(encoding="utf-8")
CONFIGURATION: Final[dict[str, Any]] = yaml.safe_load(
    textwrap.dedent(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
)
COMMANDS: Final = [
    shlex.split(line)
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.strip().splitlines()
]
BACKENDS: Final = [
    yaml.safe_load("{" + ", ".join(re.findall(r"`(.*?)`", cell)) + "}")
    for cell in re.findall(r"^ *\| (?:Loki|Mimir|Tempo) \| (.*?) \|", PAGE, re.MULTILINE)
]


async def test_the_steps_lead_to_data_under_each_keys_tenant(tmp_path: Path) -> None:
    check, serve, create_a, create_b, send = COMMANDS
    store = TenantStore(["team-a", "team-b"])
    async with RawSink(store) as sink:
        port, admin = free_ports(2)
        _write(tmp_path, CONFIGURATION["backends"], sink, port, admin)
        assert (await _run(check, tmp_path))[0] == 0
        async with running([COMMAND, *serve[1:]], cwd=tmp_path, env=_environment(tmp_path)) as run:
            await run.wait_line('"ready"')
            send = [word.replace("4318", str(port)) for word in send]
            for number, create in enumerate((create_a, create_b), 1):
                code, output = await _run(create, tmp_path)
                assert code == 0, output
                (tmp_path / "key.txt").write_text(_key_in(output))
                code, output = await _run(send, tmp_path)
                assert code == 0, output
                assert sum(map(len, store.stored.values())) == number
            await run.stop()
    assert {tenant: len(found) for tenant, found in store.stored.items()} == {
        "team-a": 1,
        "team-b": 1,
    }
    paths = {request.path for found in store.stored.values() for request in found}
    assert paths == {"/otlp/v1/logs"}
    assert not store.refused


@pytest.mark.parametrize("backends", BACKENDS, ids=str)
async def test_the_backends_of_each_store_are_valid(tmp_path: Path, backends: Any) -> None:
    assert backends
    async with RawSink() as sink:
        _write(tmp_path, backends, sink, *free_ports(2))
        code, output = await _run(COMMANDS[0], tmp_path)
    assert code == 0, output


def test_the_page_has_a_row_for_each_store() -> None:
    assert len(BACKENDS) == 3


def _write(folder: Path, backends: Any, sink: RawSink, port: int, admin: int) -> None:
    """Write the page's configuration with the addresses and places of this test."""
    urls = {"otlp_grpc": sink.grpc_url, "otlp_http": sink.http_url}
    for name, backend in backends.items():
        (url,) = backend["urls"]
        path = re.fullmatch(r"http://[a-z]+:\d+(.*)", url)
        assert path is not None
        backends = {**backends, name: {"urls": [urls[name] + path[1]]}}
    tree = {
        **CONFIGURATION,
        "backends": backends,
        "listen": [{"address": f"127.0.0.1:{port}"}],
        "state_dir": str(folder / "state"),
        "workers": 1,
        "admin": {"address": f"127.0.0.1:{admin}"},
        "limits": {"drain_delay": "0s"},
    }
    (folder / "gateway.yaml").write_text(yaml.safe_dump(tree))


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder)}


async def _run(command: list[str], folder: Path) -> tuple[int, str]:
    child = await start_child(
        str(COMMAND),
        *command[1:],
        cwd=folder,
        env=_environment(folder),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert child.stdout is not None
    output = await child.stdout.read()
    return await child.wait(), output.decode()


def _key_in(output: str) -> str:
    found = re.search(r"iapikey-\w+", output)
    assert found is not None, output
    return found[0]
