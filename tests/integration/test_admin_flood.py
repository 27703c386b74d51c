"""Probes while others fill the admin addresses, with a whole gateway."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
import pytest
import yaml

from gateway.config import load, split_address
from gateway.control.admin.connections import MAX_CONNECTIONS
from gateway.control.lifecycle.assembly import Options
from gateway.control.lifecycle.control import Control
from tests.support.polling import WAIT_S

MANIFESTS: Final = Path(__file__).parents[2] / "deploy" / "kubernetes.yaml"
FLOOD: Final = MAX_CONNECTIONS + 44
FLOODER: Final = "127.0.0.2"
HALF: Final = (
    b"",
    b"GET /readyz HTTP/1.1\r\nHo",
    b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc",
)
CLOSED: Final = 'gateway_admin_connections_closed_total{reason="displaced"}'


@pytest.fixture(name="control")
async def _control(tmp_path: Path) -> AsyncIterator[Control]:
    file = tmp_path / "gateway.yaml"
    tree = {
        "listen": [{"address": "127.0.0.1:0"}],
        "admin": {"address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"},
        "limits": {"drain_delay": "0s", "drain_timeout": "5s"},
        "state_dir": str(tmp_path / "state"),
        "workers": 1,
    }
    file.write_text(yaml.safe_dump(tree))
    control = Control(load(file), Options(bind_patience_s=0))
    await control.start()
    yield control
    await control.close()


def probes() -> set[str]:
    """Return the paths that the kubelet asks for."""
    documents = yaml.safe_load_all(MANIFESTS.read_text())
    (deployment,) = (each for each in documents if each["kind"] == "Deployment")
    (gateway,) = deployment["spec"]["template"]["spec"]["containers"]
    kinds = ("startup", "readiness", "liveness")
    return {gateway[f"{kind}Probe"]["httpGet"]["path"] for kind in kinds}


async def ask(address: str, path: str, source: str) -> tuple[int, str]:
    """Ask over a connection of its own, as the kubelet does."""
    connector = aiohttp.TCPConnector(local_addr=(source, 0), force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector) as client,
        client.get(f"http://{address}{path}") as answer,
    ):
        return answer.status, await answer.text()


async def displaced(address: str) -> float:
    _, text = await ask(address, "/metrics", "127.0.0.1")
    return float(text.partition(f"{CLOSED} ")[2].partition("\n")[0])


@pytest.mark.parametrize("place", ["admin", "metrics"])
async def test_the_probes_of_the_deployment_files_are_answered_under_a_flood(
    control: Control, place: str
) -> None:
    admin = control.parts.admin
    (address,) = admin.addresses if place == "admin" else admin.metrics_addresses
    quiet = admin.metrics_addresses[0] if place == "admin" else admin.addresses[0]
    with contextlib.ExitStack() as stack:
        for number in range(FLOOD):
            sock = stack.enter_context(socket.socket())
            sock.bind((FLOODER, 0))
            sock.connect(split_address(address))
            sock.send(HALF[number % len(HALF)])
            if number % 16 == 0:
                await ask(address, "/livez", FLOODER)
        async with asyncio.timeout(WAIT_S):
            while (seen := await displaced(quiet)) < FLOOD - MAX_CONNECTIONS:
                await asyncio.sleep(0.02)
        for source in ("127.0.0.1", FLOODER):
            for path in probes():
                assert (await ask(address, path, source))[0] == 200
        # The probe's own connection, which ends with it, was the flood's place.
        assert await displaced(quiet) > seen
