"""`gateway keys --url`: the installed command against a running gateway's API."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.contract.conftest import KEYS, TOKEN, Gateway
from tests.support.child import start_child
from tests.support.process import COMMAND, free_ports


class Done:
    """How a command ended."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr

    @property
    def json(self) -> Any:
        assert self.code == 0, self.stderr
        return json.loads(self.stdout)


async def run(*arguments: str, text: str = "", **environment: str) -> Done:
    """Run `gateway keys …`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    process = await start_child(
        COMMAND,
        "keys",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**clean, **environment},
    )
    stdout, stderr = await process.communicate(text.encode())
    assert process.returncode is not None
    return Done(process.returncode, stdout.decode(), stderr.decode())


async def at(gateway: Gateway, *arguments: str, text: str = "") -> Done:
    return await run(*arguments, "--url", gateway.url, text=text, GATEWAY_TOKEN=TOKEN)


async def test_all_commands_work_by_the_api_in_the_same_words(gateway: Gateway) -> None:
    created = await at(gateway, "create", "--name", "agent-eu", "--signals", "traces")
    shown = re.fullmatch(
        r"\[SUCCESS\] Ingestion API Key generated: (iapikey-\w{38})\n\n", created.stdout
    )
    assert shown is not None, created.stderr
    assert await gateway.send(shown[1]) == 503

    listed = (await at(gateway, "list", "--output", "json")).json["ingestion-api-keys"]
    (key,) = listed
    assert (key["name"], key["signals"], key["enabled"]) == ("agent-eu", ["traces"], True)
    one = ("--id", str(key["id"]))

    assert (await at(gateway, "disable", *one)).stdout == (
        f"[SUCCESS] Ingestion Api Key disabled: {key['id']}\n"
    )
    assert await gateway.send(shown[1]) == 401
    assert "agent-eu (disabled)" in (await at(gateway, "list")).stdout
    await at(gateway, "enable", *one)
    assert await gateway.send(shown[1]) == 503

    updated = await at(
        gateway, "update", *one, "--name", "eu", "--signals", "all", "--output", "json"
    )
    assert updated.json["ingestion-api-key"]["name"] == "eu"
    assert "signals" not in updated.json["ingestion-api-key"]

    limits = ["--limit-requests", "0", "--limit-bytes", "1kB", "--limit-concurrent", "4"]
    limits += ["--limit-requests-per-day", "7"]
    limited = await at(gateway, "update", *one, *limits, "--output", "json")
    assert limited.json["ingestion-api-key"]["limits"] == {
        "requests": 0,
        "bytes": 1000,
        "concurrent": 4,
        "requestsPerDay": 7,
    }
    most = ["--limit-requests", "default", "--limit-bytes", "default"]
    most += ["--limit-requests-per-day", "default"]
    less = await at(gateway, "update", *one, *most, "--output", "json")
    assert less.json["ingestion-api-key"]["limits"] == {"concurrent": 4}

    tenant = ("--owner", "team-a", "--label", "team=a", "--header", "X-Scope-OrgID=team-a")
    await at(gateway, "update", *one, *tenant, "--label", "env=x", "--output", "json")
    by_label = await at(gateway, "list", "--label", "team=a", "--output", "json")
    (owned,) = by_label.json["ingestion-api-keys"]
    assert (owned["owner"], owned["labels"]) == ("team-a", {"env": "x", "team": "a"})
    none_left = await at(gateway, "list", "--label", "team=b", "--output", "json")
    assert none_left.json["ingestion-api-keys"] == []
    await at(gateway, "update", *one, "--label", "env=", "--owner", "")
    made = await at(gateway, "create", "--name", "tenant", *tenant, "--output", "json")
    assert made.json["ingestion-api-key"]["headers"] == {"X-Scope-OrgID": "team-a"}
    await at(gateway, "delete", "--id", str(made.json["ingestion-api-key"]["id"]))

    rotated = (await at(gateway, "rotate", *one, "--overlap", "1h", "--output", "json")).json
    successor = rotated["ingestion-api-key"]
    assert rotated["rotated-ingestion-api-key"]["id"] == key["id"]
    assert successor["limits"] == {"concurrent": 4}
    assert (successor["labels"], successor["headers"]) == (
        {"team": "a"},
        {"X-Scope-OrgID": "team-a"},
    )
    assert "owner" not in successor
    assert await gateway.send(successor["apiKey"]) == 503

    deleted = await at(gateway, "delete", *one)
    assert deleted.stdout == f"[SUCCESS] Ingestion Api Key deleted: {key['id']}\n"
    assert await gateway.send(shown[1]) == 401
    assert [each["id"] for each in (await gateway.ask("GET", KEYS)).json] == [successor["id"]]


async def test_an_existing_key_is_adopted_by_the_api_and_shown_nowhere(gateway: Gateway) -> None:
    secret = "a-key-from-elsewhere"
    adopted = await at(gateway, "create", "--name", "old", "--key-file", "-", text=secret + "\n")
    assert adopted.stdout.startswith("[SUCCESS] Ingestion API Key adopted: ")
    assert secret not in adopted.stdout + adopted.stderr
    assert await gateway.send(secret) == 503
    again = await at(gateway, "create", "--name", "old", "--key-file", "-", text=secret)
    assert (again.code, again.stdout) == (2, "")
    assert "exists already" in again.stderr


async def test_the_audit_log_names_whoever_changed_a_key_by_api_and_by_command(
    gateway: Gateway, tmp_path: Path
) -> None:
    created = await gateway.create("by-api")
    config = ("--config", str(tmp_path / "gateway.yaml"))
    assert (await run("delete", "--id", str(created["id"]), *config)).code == 0

    by_store = (await run("audit", "--output", "json", *config)).json["ingestion-api-key-changes"]
    by_api = (await at(gateway, "audit", "--output", "json")).json["ingestion-api-key-changes"]
    assert by_store == by_api
    assert [(each["action"], each["keyName"]) for each in by_api] == [
        ("delete", "by-api"),
        ("create", "by-api"),
    ]
    assert by_api[0]["who"].startswith("user ")
    assert by_api[0]["origin"].startswith("host ")
    assert (by_api[1]["who"], by_api[1]["origin"]) == ("alice", "127.0.0.1")

    table = (await at(gateway, "audit", "--limit", "1")).stdout.splitlines()
    assert len(table) == 2
    assert table[0].split(" | ")[0].strip() == "TIME"
    assert " | delete | " in table[1]


async def test_a_refusal_keeps_its_text_and_its_exit_code(gateway: Gateway) -> None:
    for arguments, code, text in (
        (("delete", "--id", "1"), 2, "there is no key with id 1"),
        (("create", "--name", "n", "--expiration", "2020-05-22"), 2, "not in the future"),
        (("create", "--name", " "), 1, "the name is empty"),
        (("create", "--name", "n", "--signals", "spans"), 1, "--signals"),
        (("create", "--name", "n", "--limit-bytes", "lots"), 1, "--limit-bytes: write a whole"),
        (("update", "--id", "1"), 1, "nothing is to be changed"),
    ):
        done = await at(gateway, *arguments)
        assert (done.code, done.stdout) == (code, ""), arguments
        assert text in done.stderr, arguments
    as_json = await at(gateway, "delete", "--id", "1", "--output", "json")
    assert json.loads(as_json.stderr)["error"] is True


async def test_a_token_comes_from_a_file_from_standard_input_or_from_the_environment(
    gateway: Gateway, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    url = ("--url", gateway.url)
    for done in (
        await run("list", *url, "--token-file", str(file)),
        await run("list", *url, "--token-file", "-", text=TOKEN),
        await run("list", *url, "--token", TOKEN),
        await run("list", *url, GATEWAY_TOKEN=TOKEN),
    ):
        assert (done.code, done.stdout) == (0, "No ingestion api keys found.\n"), done.stderr


async def test_a_wrong_token_is_refused_and_not_repeated(gateway: Gateway) -> None:
    done = await run("list", "--url", gateway.url, GATEWAY_TOKEN="canary-token")
    assert (done.code, done.stdout) == (2, "")
    assert "token" in done.stderr
    assert "canary" not in done.stderr


async def test_options_that_do_not_go_together_are_refused(gateway: Gateway) -> None:
    url = ("--url", gateway.url)
    for arguments, text in (
        (url, "--url needs an admin token"),
        (("--token", "t"), "name its --url"),
        ((*url, "--token", "t", "--token-file", "-"), "give only one of them"),
        ((*url, "--data", "x", "--token", "t"), "leave --config and --data out"),
        (("--url", "127.0.0.1:8090", "--token", "t"), "such as http://"),
    ):
        done = await run("list", *arguments)
        assert (done.code, done.stdout) == (1, ""), arguments
        assert text in done.stderr, arguments


@pytest.fixture
async def stranger() -> AsyncIterator[tuple[str, list[str]]]:
    """Some other web server: it redirects all to itself and notes which tokens it gets."""
    tokens: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        tokens.append(f"{request.path} {request.headers.get('X-API-Token', '')}")
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}", tokens
    await runner.cleanup()


async def test_a_token_does_not_follow_a_redirect(stranger: tuple[str, list[str]]) -> None:
    url, tokens = stranger
    done = await run("list", "--url", url, GATEWAY_TOKEN=TOKEN)
    assert done.code == 2
    assert "is it the gateway's admin address?" in done.stderr
    assert tokens == [f"{KEYS} {TOKEN}"]


async def test_nobody_at_the_address_is_unreachable() -> None:
    (port,) = free_ports(1)
    done = await run("list", "--url", f"http://127.0.0.1:{port}", GATEWAY_TOKEN=TOKEN)
    assert (done.code, done.stdout) == (3, "")
    assert "nobody answers" in done.stderr
