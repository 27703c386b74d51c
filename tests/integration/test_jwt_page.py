"""The steps of docs/identity-provider.md, followed to the letter with an issuer of our own."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any, Final

import yaml

from gateway.config import load
from tests.support.child import start_child
from tests.support.issuer import ScriptedIssuer
from tests.support.polling import until
from tests.support.process import COMMAND, Program, free_ports
from tests.support.sink import RawSink

PAGE: Final = (Path(__file__).parents[2] / "docs/identity-provider.md").read_text(encoding="utf-8")
CONFIGURATION, COLLECTOR, SEVERAL = (
    yaml.safe_load(textwrap.dedent(block))
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
)
COMMANDS: Final = [
    shlex.split(line)
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.strip().splitlines()
]
ISSUER: Final = "https://login.example.com/realms/telemetry"


async def test_the_steps_lead_to_an_accepted_token(tmp_path: Path) -> None:
    check, serve, send = COMMANDS
    async with ScriptedIssuer(path="/realms/telemetry") as issuer, RawSink() as sink:
        port, admin = free_ports(2)
        _write(tmp_path, issuer, sink, port, admin)
        (tmp_path / "token.txt").write_text(issuer.token(client_id="agent", scope="a traces b"))
        send = [word.replace("4318", str(port)) for word in send]
        assert await _run(check, tmp_path) == 0
        program = await Program.start([COMMAND, *serve[1:]], cwd=tmp_path)
        try:
            await until(lambda: "the key store is up to date" in program.output)
            async with asyncio.timeout(30):
                while await _run(send, tmp_path):
                    await asyncio.sleep(0.1)
            (tmp_path / "token.txt").write_text(issuer.token(client_id="agent", scope="logs"))
            assert await _run(send, tmp_path) == 2
        finally:
            await program.stop()
        assert sink.requests[0].field("authorization") is None


def _write(folder: Path, issuer: ScriptedIssuer, sink: RawSink, port: int, admin: int) -> None:
    """Write the page's configuration with the addresses and places of this test."""
    tree: dict[str, Any] = CONFIGURATION
    assert tree["keys"]["stores"][1] == f"jwt+{ISSUER}"
    tree["keys"]["stores"] = [f"sqlite://{folder / 'keys.db'}", f"jwt+{issuer.url}"]
    tree["listen"] = [{"address": f"127.0.0.1:{port}"}]
    tree["backends"] = {
        "otlp_grpc": {"urls": [sink.grpc_url]},
        "otlp_http": {"urls": [sink.http_url]},
    }
    tree |= {"state_dir": str(folder / "state"), "workers": 1}
    tree |= {"admin": {"address": f"127.0.0.1:{admin}"}, "limits": {"drain_delay": "0s"}}
    (folder / "gateway.yaml").write_text(yaml.safe_dump(tree))


async def _run(command: list[str], folder: Path) -> int:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    child = await start_child(str(COMMAND), *command[1:], cwd=folder, env=environment)
    return await child.wait()


def test_the_example_with_several_issuers_is_valid(tmp_path: Path) -> None:
    tree = dict(SEVERAL)
    del tree["keys"]["jwt"]["tls"]  # its file is on the reader's machine
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(tree))
    assert [store.kind for store in load(file).config.keys.stores] == ["sqlite", "jwt", "jwt"]


def test_the_collectors_example_names_what_it_uses() -> None:
    authenticator = COLLECTOR["exporters"]["otlp"]["auth"]["authenticator"]
    assert authenticator in COLLECTOR["extensions"]
