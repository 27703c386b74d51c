"""A real gateway before three teams' stores: from `gateway keys create` to each store, metrics, a
reload, a rotation and a restart.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.support.child import start_child
from tests.support.process import COMMAND, Gateway, merge, running_gateway
from tests.support.sink import RawSink
from tests.support.tenant_store import TenantStore


async def keys(gateway: Gateway, *arguments: str) -> Any:
    """Run `gateway keys` on the gateway's store; a change is in force when it returns."""
    config = ("--config", str(gateway.config_file), "--output", "json")
    process = await start_child(
        str(COMMAND), "keys", *arguments, *config, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b""), errors.decode()
    return json.loads(output)


async def create(gateway: Gateway, team: str, header: str) -> dict[str, Any]:
    members = ("--label", f"team={team}", "--header", f"X-Scope-OrgID={header}")
    created = await keys(gateway, "create", "--name", f"agent-{team}", *members)
    key: dict[str, Any] = created["ingestion-api-key"]
    return key


async def send(gateway: Gateway, key: str, **fields: str) -> int:
    """Send from several connections, so that both workers get some; all answers are the same."""
    headers = {"Authorization": f"StackState {key}", "Content-Type": "application/json", **fields}
    url = f"http://127.0.0.1:{gateway.port}/v1/traces"
    statuses = set()
    for _ in range(6):
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=b"{}", headers=headers) as answer,
        ):
            statuses.add(answer.status)
    (status,) = statuses
    return status


async def requests_of(gateway: Gateway, tenant: str, at_least: int) -> int:
    """Read a tenant's requests from the metrics, which follow within a second."""
    labels = f'outcome="allowed",tenant="{tenant}"'
    series = re.compile(rf"^gateway_tenant_requests_total{{{labels}}} (\S+)$", re.MULTILINE)
    async with asyncio.timeout(60):
        while True:
            _, page = await gateway.get("/metrics")
            found = series.search(page)
            if found is not None and float(found[1]) >= at_least:
                return int(float(found[1]))
            await asyncio.sleep(0.05)


async def reload(gateway: Gateway, changes: dict[str, Any]) -> None:
    tree = merge(yaml.safe_load(gateway.config_file.read_text()), changes)
    gateway.config_file.write_text(yaml.safe_dump(tree))
    gateway.program.process.send_signal(signal.SIGHUP)
    await gateway.program.wait_line("reloaded")


async def test_teams_keys_lead_to_their_stores_and_metrics(tmp_path: Path) -> None:
    common, own = TenantStore(["team-a", "team-b"]), TenantStore(["team-c"])
    async with RawSink(common) as for_all, RawSink(own) as for_c:
        changes = {
            "backends": {
                "otlp_http": {"urls": [for_all.http_url]},
                "routes": [{"label": {"team": "c"}, "otlp_http": {"urls": [for_c.http_url]}}],
            },
            "forward": {"key": "none"},
            "metrics": {"tenant_label": "team", "max_tenants": 2},
        }
        async with running_gateway(tmp_path, changes) as gateway:
            a, b, c = [await create(gateway, team, f"team-{team}") for team in "abc"]
            plain = (await keys(gateway, "create", "--name", "plain"))["ingestion-api-key"]
            for key in (a, b, c):
                assert await send(gateway, key["apiKey"], X_Scope_OrgID="team-b") == 200
            assert await send(gateway, plain["apiKey"], **{"X-Scope-OrgID": "team-a"}) == 503
            assert {name: len(sent) for name, sent in common.stored.items()} == {
                "team-a": 6,
                "team-b": 6,
            }
            assert {name: len(sent) for name, sent in own.stored.items()} == {"team-c": 6}
            assert common.refused == [[]] * 6

            assert await requests_of(gateway, "a", 6) == 6
            assert await requests_of(gateway, "b", 6) == 6
            assert await requests_of(gateway, "other", 6) == 6
            assert await requests_of(gateway, "none", 6) == 6

            one = ("--id", str(a["id"]))
            rotated = (await keys(gateway, "rotate", *one, "--overlap", "1h"))["ingestion-api-key"]
            assert await send(gateway, rotated["apiKey"]) == 200
            await keys(gateway, "update", *one, "--header", "x-scope-orgid=")
            assert await send(gateway, a["apiKey"]) == 503
            await keys(gateway, "update", "--id", str(b["id"]), "--label", "team=c")
            assert await send(gateway, b["apiKey"]) == 503, "team c's store has no team-b"
            assert len(common.stored["team-a"]) == 12
            assert own.refused == [["team-b"]] * 6

            await reload(gateway, {"backends": {"routes": []}})
            assert await send(gateway, b["apiKey"]) == 200
            assert len(common.stored["team-b"]) == 12
