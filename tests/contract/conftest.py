"""Contract tests speak to a running gateway over real connections, as clients do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
import yaml

from gateway.config import load
from gateway.control.lifecycle.assembly import Options
from gateway.control.lifecycle.control import Control
from tests.support.process import merge

TOKEN = "svctok-contract"
STATIC_KEY = "the-operators-own-receiver-key"
KEYS = "/api/security/ingestion/api_keys"
ADOPT = "/api/security/ingestion/adopt"
AUDIT = "/api/security/ingestion/audit"
AUTHORIZE = "/api/security/ingestion/authorize"


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


class Gateway:
    """A running gateway and a client of its admin address."""

    def __init__(self, control: Control, client: aiohttp.ClientSession) -> None:
        self.control = control
        self._client = client

    @property
    def address(self) -> str:
        return self.control.admin_addresses[0]

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = TOKEN,
        raw: bytes | None = None,
        address: str | None = None,
    ) -> Answered:
        """Send a request; `body` is made JSON, `raw` is sent as it is."""
        fields = {"Content-Type": "application/json"}
        if token is not None:
            fields["X-API-Key"] = token
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        url = f"http://{address or self.address}{path}"
        async with self._client.request(method, url, data=data, headers=fields) as answer:
            return Answered(answer.status, dict(answer.headers), await answer.read())

    async def create(self, name: str = "n", **members: Any) -> dict[str, Any]:
        answered = await self.ask("POST", KEYS, {"name": name, **members})
        assert answered.status == 200, answered.raw
        created: dict[str, Any] = answered.json
        return created

    async def send(self, key: str, signal: str = "traces") -> int:
        """Send telemetry with a key; nothing is behind, so a good key is answered 503."""
        url = f"http://{self.control.addresses[0]}/v1/{signal}"
        fields = {"Content-Type": "application/json", "Authorization": f"StackState {key}"}
        async with self._client.post(url, data=b"{}", headers=fields) as answer:
            return answer.status


Start = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start gateways with `changes` upon a small configuration."""
    controls: list[Control] = []
    async with aiohttp.ClientSession() as client:

        async def start(**changes: Any) -> Gateway:
            tree = {
                "listen": [{"address": "127.0.0.1:0"}],
                "admin": {
                    "address": "127.0.0.1:0",
                    "authorize_address": "127.0.0.1:0",
                    "tokens": [{"name": "alice", "token": TOKEN}, "another-token"],
                },
                "auth": {"receiver_keys": [{"name": "operators", "key": STATIC_KEY}]},
                "limits": {"drain_delay": "0s", "max_connections": 500},
                "state_dir": str(tmp_path / "state"),
                "workers": 1,
            }
            file = tmp_path / "gateway.yaml"
            file.write_text(yaml.safe_dump(merge(tree, changes)))
            control = Control(load(file), Options(bind_patience_s=0))
            controls.append(control)
            await control.start()
            return Gateway(control, client)

        yield start
        for control in controls:
            await control.close()


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    return await start()
