"""The steps of docs/client-certificates.md, followed to the letter with openssl."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import textwrap
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway.config import load
from tests.support.child import start_child
from tests.support.polling import until
from tests.support.process import COMMAND, Program, free_ports
from tests.support.sink import RawSink

PAGE: Final = (Path(__file__).parents[2] / "docs/client-certificates.md").read_text("utf-8")
CONFIGURATION, COLLECTOR, REVOKING = (
    yaml.safe_load(textwrap.dedent(block))
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
)
MAKE, SERVE, SEND = (
    [shlex.split(line) for line in block.strip().splitlines()]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
)
pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the page's commands need openssl"
)


async def test_the_steps_lead_to_an_accepted_certificate(tmp_path: Path) -> None:
    for command in MAKE:
        assert await _run(command, tmp_path) == 0
    async with RawSink() as sink:
        port, admin = free_ports(2)
        _write(tmp_path, sink, port, admin)
        check, serve = SERVE
        assert await _run(check, tmp_path) == 0
        program = await Program.start([COMMAND, *serve[1:]], cwd=tmp_path)
        try:
            await until(lambda: "ready" in program.output)
            with_certificate, without = (
                [word.replace("4318", str(port)) for word in command] for command in SEND
            )
            assert await _run(with_certificate, tmp_path) == 0
            assert await _run(without, tmp_path) == 2
        finally:
            await program.stop()
        (request,) = sink.requests
        assert request.field("x-scope-orgid") == "shop"


def _write(folder: Path, sink: RawSink, port: int, admin: int) -> None:
    """Write the page's configuration with the addresses and places of this test."""
    tree: dict[str, Any] = CONFIGURATION
    tree["listen"][0]["address"] = f"127.0.0.1:{port}"
    tree["backends"] = {
        "otlp_grpc": {"urls": [sink.grpc_url]},
        "otlp_http": {"urls": [sink.http_url]},
    }
    tree |= {"state_dir": str(folder / "state"), "workers": 1}
    tree |= {"admin": {"address": f"127.0.0.1:{admin}"}, "limits": {"drain_delay": "0s"}}
    (folder / "gateway.yaml").write_text(yaml.safe_dump(tree))


async def _run(command: list[str], folder: Path) -> int:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    program = str(COMMAND) if command[0] == "gateway" else command[0]
    child = await start_child(program, *command[1:], cwd=folder, env=environment)
    return await child.wait()


async def test_the_example_with_a_list_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a list that openssl makes."""
    for command in MAKE[:3]:
        assert await _run(command, tmp_path) == 0
    (tmp_path / "index").write_text("")
    (tmp_path / "ca.conf").write_text(
        "[ca]\ndefault_ca=a\n[a]\ndatabase=index\ndefault_md=sha256\ndefault_crl_days=7\n"
    )
    make = "openssl ca -config ca.conf -cert ca.crt -keyfile ca.key -gencrl -out ca.crl"
    assert await _run(make.split(), tmp_path) == 0
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(REVOKING))
    monkeypatch.chdir(tmp_path)
    assert load(file, (), {"HOME": str(tmp_path)}).config.listen[0].tls is not None


def test_the_collectors_configuration_has_the_senders_files() -> None:
    tls = COLLECTOR["exporters"]["otlp"]["tls"]
    assert (tls["cert_file"], tls["key_file"]) == ("cart.crt", "cart.key")
