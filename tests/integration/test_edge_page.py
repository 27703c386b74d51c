"""The set-up of docs/edge-gateways.md, with certificates and addresses of our own."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from tests.support.certs import Authority
from tests.support.clients import http1_request
from tests.support.exchange import JSON
from tests.support.process import COMMAND, free_ports, running, running_gateway
from tests.support.sink import RawSink

PAGE: Final = (Path(__file__).parents[2] / "docs/edge-gateways.md").read_text(encoding="utf-8")
CENTER, EDGE = (
    yaml.safe_load(textwrap.dedent(block))
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
)
KEYS: Final = "/api/security/ingestion/api_keys"
TOKEN: Final = "token-of-the-edges"


async def test_a_key_of_the_center_works_at_the_edge(tmp_path: Path) -> None:
    center, edge = (tmp_path / name for name in ("center", "edge"))
    center.mkdir()
    edge.mkdir()
    center_tree, edge_tree = _with_own_places(tmp_path)
    async with RawSink() as sink, running_gateway(center, center_tree) as central:
        edge_tree["backends"] = {"otlp_http": {"urls": [sink.http_url]}}
        async with running_gateway(edge, edge_tree) as follower:
            for gateway in (central, follower):
                check: list[str | Path] = [COMMAND, "check-config", gateway.config_file]
                async with running(check, cwd=tmp_path) as program:
                    assert await program.wait() == 0, program.output
            await central.program.wait_line("a gateway follows the keys")
            status, ready = await follower.get("/readyz")
            (store,) = yaml.safe_load(ready)["stores"]
            assert (status, store["store"], store["up"]) == (200, "gateway", True)
            assert store["revision"] is not None
            key = await _create(central.admin_url)
            fields = (
                ("Authorization", f"StackState {key}"),
                ("Content-Type", JSON),
                ("Content-Length", "2"),
            )
            while (await http1_request(follower.port, "/v1/logs", fields, b"{}")).status != 200:
                assert not follower.program.is_over
            assert len(sink.requests) == 1


def _with_own_places(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the page's configurations with the addresses and files of this test."""
    authority = Authority.create(folder / "ca")
    own = authority.issue("center", ["127.0.0.1"])
    (port,) = free_ports(1)
    center: dict[str, Any] = CENTER["admin"]
    assert center["grpc_address"] == ":9443"
    assert center["tokens"] == [{"name": "edges", "token": "${env:EDGE_TOKEN}"}]
    assert set(center["grpc_tls"]) == {"cert_file", "key_file"}
    center |= {
        "grpc_address": f"127.0.0.1:{port}",
        "grpc_tls": {"cert_file": str(own.cert_file), "key_file": str(own.key_file)},
        "tokens": [{"name": "edges", "token": TOKEN}],
    }
    keys: dict[str, Any] = EDGE["keys"]
    assert keys["stores"] == ["gateway+grpcs://central.example:9443"]
    assert keys["feed"]["token"] == "${env:EDGE_TOKEN}"
    assert set(keys["feed"]["tls"]) == {"ca_file"}
    keys["stores"] = [f"gateway+grpcs://127.0.0.1:{port}"]
    keys["feed"] = {"token": TOKEN, "tls": {"ca_file": str(authority.cert_file)}}
    return {"admin": center}, {"keys": keys}


async def _create(admin_url: str) -> str:
    headers = {"X-API-Token": TOKEN}
    async with (
        aiohttp.ClientSession() as client,
        client.post(admin_url + KEYS, headers=headers, json={"name": "n"}) as response,
    ):
        assert response.status == 200
        return str((await response.json())["apiKey"])
