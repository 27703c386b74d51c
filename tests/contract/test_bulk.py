"""Many keys at once by the management API, and a key that somebody has found."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import KEYS, TOKEN, Gateway, Start
from tests.contract.test_cli import at

IMPORT = "/api/security/ingestion/import"
EXPORT = "/api/security/ingestion/export"
FIND = "/api/security/ingestion/find"


def _entry(key: str, **members: Any) -> dict[str, Any]:
    digest = hashlib.sha256(key.encode()).hexdigest()
    return {"digest": f"sha256:{digest}", "name": f"name of {key[:3]}", **members}


async def test_imported_keys_work_at_once_and_come_back_from_an_export(gateway: Gateway) -> None:
    entries = [
        _entry("one-key", id=7, labels={"team": "a"}, limits={"requests": 5}, owner="Team A"),
        _entry("two-key", enabled=False, signals=["logs", "traces"], headers={"X-Tenant": "t"}),
    ]
    body = {"keys": entries}
    dry = await gateway.ask("POST", IMPORT, {**body, "dryRun": True})
    assert dry.json == {"imported": 2, "existing": 0, "deleted": 0}
    assert await gateway.send("one-key") == 401
    done = await gateway.ask("POST", IMPORT, body)
    assert (done.json["imported"], done.headers["X-Gateway-Confirmed"]) == (2, "true")
    assert await gateway.send("one-key") == 503
    assert await gateway.send("two-key") == 401

    assert (await gateway.ask("POST", IMPORT, body)).json["existing"] == 2
    first = await gateway.ask("GET", f"{EXPORT}?limit=1")
    (seven,) = first.json
    assert seven == entries[0]
    assert 'rel="next"' in first.headers["Link"]
    (two,) = (await gateway.ask("GET", f"{EXPORT}?after=7")).json
    assert {**two, "id": 0} == {**entries[1], "id": 0}


async def test_a_batch_with_an_error_stores_nothing_and_says_where_it_is(gateway: Gateway) -> None:
    keys = [_entry("one-key", id=7), _entry("two-key", expiration=1)]
    refused = await gateway.ask("POST", IMPORT, {"keys": keys})
    assert refused.status == 400
    assert "keys[1]" in refused.json["message"]
    assert (await gateway.ask("GET", KEYS)).json == []
    assert (await gateway.ask("POST", IMPORT, {"keys": keys[:1]})).status == 200
    taken = await gateway.ask("POST", IMPORT, {"keys": [_entry("three-key", id=7)]})
    assert (taken.status, "another key's" in taken.json["message"]) == (400, True)
    wrong_ones: list[dict[str, Any]] = [
        {},
        {"keys": []},
        {"keys": [{"name": "n"}]},
        {"keys": [_entry("x")] * 501},
    ]
    for wrong in wrong_ones:
        assert (await gateway.ask("POST", IMPORT, wrong)).status == 400


async def test_a_found_key_is_named_and_a_deleted_one_is_told_so(gateway: Gateway) -> None:
    made = await gateway.create("mine")
    found = await gateway.ask("POST", FIND, {"apiKey": made["apiKey"]})
    assert (found.json["id"], "apiKey" in found.json) == (made["id"], False)
    assert made["apiKey"].encode() not in found.raw
    await gateway.ask("DELETE", f"{KEYS}/{made['id']}")
    gone = await gateway.ask("POST", FIND, {"apiKey": made["apiKey"]})
    assert (gone.status, "already deleted" in gone.raw.decode()) == (404, True)
    nobodys = await gateway.ask("POST", FIND, {"apiKey": "nobodys-key"})
    assert (nobodys.status, b"nobodys-key" in nobodys.raw) == (404, False)


async def test_the_command_does_the_same_on_a_running_gateway(
    gateway: Gateway, tmp_path: Path
) -> None:
    keys = [_entry(f"{number:03}-key", description="d" * 200) for number in range(600)]
    file = tmp_path / "keys.jsonl"
    file.write_text("".join(f"{json.dumps(key)}\n" for key in keys))
    done = await at(gateway, "import", str(file))
    assert done.stdout == "[SUCCESS] 600 keys imported, 0 are there already\n"
    exported = tmp_path / "exported.jsonl"
    assert (await at(gateway, "export", "--file", str(exported))).code == 0
    back = [json.loads(line) for line in exported.read_text().splitlines()]
    assert {key["digest"] for key in back} == {key["digest"] for key in keys}
    again = await at(gateway, "import", str(exported), "--output", "json")
    assert again.json["import"] == {
        "imported": 0,
        "existing": 600,
        "deleted": 0,
        "dryRun": False,
    }
    found = await at(gateway, "find", "--key-file", "-", "-o", "json", text="007-key\n")
    assert found.json["ingestion-api-key"]["name"] == "name of 007"
    created = await gateway.create("leaked")
    secret = created["apiKey"]
    found = await at(gateway, "find", "--key-file", "-", "-o", "json", text=secret)
    assert found.json["ingestion-api-key"]["id"] == created["id"]
    assert (await at(gateway, "revoke", "--key-file", "-", text=secret)).code == 0
    assert await gateway.send(secret) == 401
    assert (await at(gateway, "revoke", "--key-file", "-", text=secret)).code == 2


@pytest.mark.parametrize("role", ["reader", "key_manager"])
async def test_a_reader_may_find_and_a_key_manager_do_all(start: Start, role: str) -> None:
    tokens = [{"name": "alice", "token": TOKEN, "role": role}]
    gateway = await start(admin={"tokens": tokens})
    is_reader = role == "reader"
    assert (await gateway.ask("POST", FIND, {"apiKey": "x"})).status == 404
    assert (await gateway.ask("GET", EXPORT)).status == (403 if is_reader else 200)
    imported = await gateway.ask("POST", IMPORT, {"keys": [_entry("one-key")]})
    assert imported.status == (403 if is_reader else 200)
