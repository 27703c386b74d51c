"""A team's token manages the team's keys, others do not exist for it: API, CLI, traces, feed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import grpc.aio
import pytest

from gateway.protos.gateway.keys.v1 import key_feed_pb2
from tests.support.process import Gateway, free_ports, running_gateway

KEYS: Final = "/api/security/ingestion/api_keys"
ADOPT: Final = "/api/security/ingestion/adopt"
IMPORT: Final = "/api/security/ingestion/import"
EXPORT: Final = "/api/security/ingestion/export"
FIND: Final = "/api/security/ingestion/find"
USAGE: Final = "/api/security/ingestion/usage"
AUDIT: Final = "/api/security/ingestion/audit"
OK, NO_CONTENT, BAD, FORBIDDEN, NOT_FOUND, CONFLICT = 200, 204, 400, 403, 404, 409


def _team(name: str, role: str = "key_manager") -> dict[str, Any]:
    return {
        "name": f"{role} {name}",
        "token": f"token-{role}-{name}",
        "role": role,
        "labels": {"team": name},
        "headers": {"X-Scope-OrgID": f"team-{name}"},
    }


TOKENS: Final = [
    {"name": "root", "token": "token-root"},
    _team("a"),
    _team("b"),
    _team("a", "reader"),
]
ROOT, TEAM_A, TEAM_B, READER_A = (str(each["token"]) for each in TOKENS)


@dataclass(frozen=True, slots=True)
class Asking:
    """A gateway whose admin API is asked with one token or another."""

    gateway: Gateway
    client: aiohttp.ClientSession
    grpc_port: int

    async def ask(self, token: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        url, headers = self.gateway.admin_url + path, {"X-API-Token": token}
        async with self.client.request(method, url, headers=headers, json=body) as response:
            text = await response.read()
            return response.status, json.loads(text) if text else None

    async def create(self, token: str, name: str, **members: Any) -> dict[str, Any]:
        status, made = await self.ask(token, "POST", KEYS, {"name": name, **members})
        assert status == OK, made
        return dict(made)

    async def names(self, token: str, query: str = "") -> list[str]:
        status, keys = await self.ask(token, "GET", KEYS + query)
        assert status == OK, keys
        return sorted(key["name"] for key in keys)

    async def send(self, key: str) -> int:
        """Send telemetry with a key; return the status."""
        headers = {"Authorization": f"StackState {key}", "Content-Type": "application/json"}
        url = f"http://127.0.0.1:{self.gateway.port}/v1/traces"
        async with self.client.post(url, headers=headers, data="{}") as response:
            return response.status


@pytest.fixture(name="api")
async def _api(tmp_path: Path) -> AsyncIterator[Asking]:
    (port,) = free_ports(1)
    admin = {"tokens": TOKENS, "grpc_address": f"127.0.0.1:{port}"}
    async with (
        running_gateway(tmp_path, {"admin": admin}) as gateway,
        aiohttp.ClientSession() as client,
    ):
        yield Asking(gateway, client, port)


async def test_a_team_sees_and_changes_its_own_keys_only(api: Asking) -> None:
    mine = await api.create(TEAM_A, "mine", labels={"env": "x"})
    assert mine["labels"] == {"env": "x", "team": "a"}
    assert mine["headers"] == {"X-Scope-OrgID": "team-a"}
    theirs = await api.create(TEAM_B, "theirs")
    nobodys = await api.create(ROOT, "nobodys")
    moved = await api.create(ROOT, "moved", labels={"team": "a"})

    assert await api.names(ROOT) == ["mine", "moved", "nobodys", "theirs"]
    for token in (TEAM_A, READER_A):
        assert await api.names(token) == ["mine", "moved"]
        assert await api.names(token, "?limit=1000") == ["mine", "moved"]
        assert await api.names(token, "?label=team%3Db") == []
        assert await api.names(token, "?label=env%3Dx") == ["mine"]
    for path in (f"{KEYS}/{mine['id']}", f"{KEYS}/{moved['id']}"):
        assert (await api.ask(TEAM_A, "GET", path))[0] == OK
    for key in (theirs, nobodys):
        await _check_not_found(api, TEAM_A, key["id"])
    assert await api.names(ROOT) == ["mine", "moved", "nobodys", "theirs"]
    _, after = await api.ask(ROOT, "GET", f"{KEYS}/{theirs['id']}")
    assert (after["labels"], after["enabled"]) == ({"team": "b"}, True)

    for change in ({"labels": {"team": "b"}}, {"labels": {"team": None}}, {"headers": None}):
        status, error = await api.ask(TEAM_A, "PATCH", f"{KEYS}/{mine['id']}", change)
        assert status == BAD, change
        assert error["_type"] == "IngestionApiKeyInvalidInputError"
    status, error = await api.ask(READER_A, "DELETE", f"{KEYS}/{mine['id']}")
    assert status == FORBIDDEN
    status, changed = await api.ask(TEAM_A, "PATCH", f"{KEYS}/{mine['id']}", {"labels": None})
    assert (status, changed["labels"]) == (OK, {"team": "a"})
    status, rotated = await api.ask(TEAM_A, "POST", f"{KEYS}/{mine['id']}/rotate", {"overlap": 0})
    assert (status, rotated["labels"]) == (OK, {"team": "a"})
    assert (await api.ask(TEAM_A, "DELETE", f"{KEYS}/{mine['id']}"))[0] == NO_CONTENT
    # An administrator takes a key out of the scope.
    await api.ask(ROOT, "PATCH", f"{KEYS}/{moved['id']}", {"labels": {"team": "b"}})
    await _check_not_found(api, TEAM_A, moved["id"])
    assert await api.names(TEAM_B) == ["moved", "theirs"]


async def _check_not_found(api: Asking, token: str, key_id: int) -> None:
    """Check that whatever is asked of a key is answered as for one that never was."""
    for method, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"enabled": False}),
        ("PATCH", "", {"labels": {"team": "a"}}),
        ("POST", "/rotate", {"overlap": 0}),
        ("DELETE", "", None),
    ):
        found = await api.ask(token, method, f"{KEYS}/{key_id}{path}", body)
        never = await api.ask(token, method, f"{KEYS}/1{path}", body)
        assert found[0] == never[0] == NOT_FOUND, (method, found)
        texts = [each[1]["errors"][0]["message"] for each in (found, never)]
        assert texts[0] == texts[1].replace("id 1:", f"id {key_id}:")


async def test_a_teams_pages_and_its_audit_log_are_its_own(api: Asking) -> None:
    made: dict[str, list[dict[str, Any]]] = {TEAM_A: [], TEAM_B: []}
    for number in range(6):
        for token, keys in made.items():
            keys.append(await api.create(token, f"{number}"))
    gone = made[TEAM_A].pop()
    await api.ask(ROOT, "DELETE", f"{KEYS}/{gone['id']}")

    status, first = await api.ask(TEAM_A, "GET", f"{KEYS}?limit=3")
    assert (status, len(first)) == (OK, 3)
    _, rest = await api.ask(TEAM_A, "GET", f"{KEYS}?limit=3&after={first[-1]['id']}")
    own = sorted(key["id"] for key in made[TEAM_A])
    assert [key["id"] for key in first + rest] == own

    _, page = await api.ask(READER_A, "GET", f"{AUDIT}?limit=4")
    _, older = await api.ask(READER_A, "GET", f"{AUDIT}?limit=100&before={page[-1]['id']}")
    changes = page + older
    assert [(each["action"], each["who"]) for each in changes] == [
        ("delete", "root"),
        *[("create", "key_manager a")] * 6,
    ]
    assert {each["keyId"] for each in changes} == {*own, gone["id"]}
    theirs = made[TEAM_B][0]["id"]
    assert (await api.ask(TEAM_A, "GET", f"{AUDIT}?keyId={theirs}"))[1] == []


async def test_a_key_of_others_cannot_be_taken_over(api: Asking) -> None:
    body = {"apiKey": "a-key-from-elsewhere", "name": "n"}
    assert (await api.ask(TEAM_B, "POST", ADOPT, body))[0] == OK
    status, error = await api.ask(TEAM_A, "POST", ADOPT, body)
    assert status == CONFLICT
    assert "ask an administrator" in error["errors"][0]["message"]
    status, adopted = await api.ask(TEAM_A, "POST", ADOPT, {**body, "apiKey": "another-one-here"})
    assert (status, adopted["labels"]) == (OK, {"team": "a"})


async def test_what_concerns_all_keys_is_not_a_teams(api: Asking) -> None:
    for token in (TEAM_A, READER_A):
        for method, path in (("GET", "/-/config"), ("POST", "/-/reload")):
            status, error = await api.ask(token, method, path)
            assert status == FORBIDDEN
            assert "token" in error["error"] or "role" in error["error"]
        assert (await api.ask(token, "GET", "/api/server/info"))[0] == OK
    async with grpc.aio.insecure_channel(f"127.0.0.1:{api.grpc_port}") as channel:
        follow: Any = channel.unary_stream("/gateway.keys.v1.KeyFeed/Follow")
        request = key_feed_pb2.FollowRequest().SerializeToString()
        calling = follow(request, metadata=(("x-api-token", READER_A),))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await calling.read()
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "a token without labels" in str(refused.value.details())


async def test_a_team_traces_the_requests_with_its_keys(api: Asking) -> None:
    mine, theirs = await api.create(TEAM_A, "mine"), await api.create(TEAM_B, "theirs")
    url = api.gateway.admin_url + "/-/trace?for=1h"
    async with api.client.post(url, headers={"X-API-Token": READER_A}) as response:
        assert response.status == OK
        assert json.loads(await response.content.readline())["watching"]
        for key in ("made-up", theirs["apiKey"], mine["apiKey"]):
            await api.send(key)
        line = json.loads(await response.content.readline())
    assert line["key_id"] == str(mine["id"])
    _, own = await api.ask(TEAM_A, "GET", f"{KEYS}/{mine['id']}")
    assert own["id"] == mine["id"]


async def test_the_command_line_works_with_a_teams_token(api: Asking) -> None:
    await api.create(TEAM_B, "theirs")

    async def keys(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "gateway", "keys", *arguments]
        process = await asyncio.create_subprocess_exec(
            *command,
            "--url",
            api.gateway.admin_url,
            env={**os.environ, "GATEWAY_TOKEN": TEAM_A},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    code, output = await keys("create", "--name", "mine", "--label", "env=x")
    assert code == 0, output
    code, output = await keys("list", "--output", "json")
    (key,) = json.loads(output)["ingestion-api-keys"]
    assert (key["name"], key["labels"]) == ("mine", {"env": "x", "team": "a"})
    code, output = await keys("create", "--name", "n", "--label", "team=b")
    assert code == 1
    assert "the label team is a for all keys of this token" in output
    (theirs,) = (await api.ask(TEAM_B, "GET", KEYS))[1]
    code, output = await keys("delete", "--id", str(theirs["id"]))
    assert code == 2
    assert f"there is no key with id {theirs['id']}" in output


async def test_a_team_imports_exports_and_finds_its_own_keys_only(api: Asking) -> None:
    theirs = await api.create(TEAM_B, "theirs")
    digest = f"sha256:{'ab' * 32}"
    given = {"keys": [{"name": "brought", "digest": digest, "labels": {"env": "x"}}]}
    status, outcome = await api.ask(TEAM_A, "POST", IMPORT, given)
    assert (status, outcome["imported"]) == (OK, 1)
    claimed = {"keys": [{"name": "x", "digest": f"sha256:{'cd' * 32}", "labels": {"team": "b"}}]}
    assert (await api.ask(TEAM_A, "POST", IMPORT, claimed))[0] == BAD

    status, exported = await api.ask(TEAM_A, "GET", EXPORT)
    assert [(key["name"], key["digest"]) for key in exported] == [("brought", digest)]
    assert exported[0]["labels"] == {"env": "x", "team": "a"}
    assert exported[0]["headers"] == {"X-Scope-OrgID": "team-a"}

    body = {"apiKey": theirs["apiKey"]}
    assert (await api.ask(TEAM_B, "POST", FIND, body))[1]["name"] == "theirs"
    for key in ("nobody-has-this-key", theirs["apiKey"]):
        status, error = await api.ask(TEAM_A, "POST", FIND, {"apiKey": key})
        assert (status, error["errors"][0]["message"]) == (
            NOT_FOUND,
            "no key of this gateway's stores is this one",
        )


async def test_a_team_sees_the_usage_of_its_own_keys_only(api: Asking) -> None:
    for token in (TEAM_A, TEAM_B):
        made = await api.create(token, f"of {token}")
        await api.send(made["apiKey"])

    async def seen(token: str) -> list[str]:
        status, rows = await api.ask(token, "GET", USAGE)
        assert status == OK, rows
        return sorted(row["name"] for row in rows)

    both = [f"of {TEAM_A}", f"of {TEAM_B}"]

    while await seen(ROOT) != both:  # use is written every 5 s; the test's own limit ends this
        await asyncio.sleep(0.1)
    assert await seen(READER_A) == [f"of {TEAM_A}"]
    assert await seen(TEAM_B) == [f"of {TEAM_B}"]
