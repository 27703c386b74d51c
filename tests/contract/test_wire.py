"""The management API line by line: statuses, types of content, members, and who may ask what."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from gateway.keys.confirmations.lock_files import LockFile
from gateway.model import digest_of
from tests.contract.conftest import (
    ADOPT,
    AUDIT,
    AUTHORIZE,
    KEYS,
    STATIC_KEY,
    TOKEN,
    Answered,
    Gateway,
    Start,
)
from tests.support.listening import until_refused
from tests.support.postgresql import PostgresqlServer
from tests.support.process import free_ports

INTERNAL = "/internal" + AUTHORIZE
DAY_MS = 86_400_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def is_errors_response(answered: Answered, kind: str) -> bool:
    body = answered.json
    return (
        answered.headers["Content-Type"] == "application/json"
        and body["_type"] == "ErrorsResponse"
        and isinstance(body["trackingKey"], str)
        and isinstance(body["serverTimestamp"], int)
        and [error["_type"] for error in body["errors"]] == [kind]
        and all(error["message"] for error in body["errors"])
    )


# server/info


async def test_server_info_has_every_member_that_makes_a_version(gateway: Gateway) -> None:
    answered = await gateway.ask("GET", "/api/server/info")
    assert answered.status == 200
    assert answered.headers["Content-Type"] == "application/json"
    assert answered.json == {
        "version": {
            "major": 7,
            "minor": 0,
            "patch": 0,
            "diff": "",
            "commit": "",
            "isDev": False,
        },
        "deploymentMode": "SelfHosted",
    }


# Create


async def test_a_created_key_has_no_member_that_it_does_not_need(gateway: Gateway) -> None:
    before = now_ms()
    answered = await gateway.ask("POST", KEYS, {"name": "n"})
    assert answered.status == 200
    assert answered.headers["Content-Type"] == "application/json"
    created = answered.json
    assert created.keys() == {"id", "lastUpdateTimestamp", "name", "enabled", "apiKey"}
    assert before <= created["lastUpdateTimestamp"] <= now_ms()
    assert 0 < created["id"] < 2**53


async def test_absent_members_may_be_null(gateway: Gateway) -> None:
    members = {"description": None, "expiration": None, "signals": None, "limits": None}
    created = await gateway.create("n", **members)
    assert not members.keys() & created.keys()


async def test_what_is_given_comes_back(gateway: Gateway) -> None:
    expiration = now_ms() + DAY_MS
    members = {
        "description": "d",
        "expiration": expiration,
        "signals": ["logs", "traces"],
        "limits": {"requests": 10, "concurrent": 0},
    }
    created = await gateway.create("ünïcode ✓", **members)
    assert created["name"] == "ünïcode ✓"
    assert {name: created[name] for name in members} == members


IMPOSSIBLE: list[tuple[object, str, str]] = [
    ({"name": "n", "expiration": 1590105600000}, "InvalidExpiry", "not in the future"),
    ({"name": "n", "expiration": 0}, "InvalidExpiry", "not in the future"),
    ({"name": "n", "expiration": -1}, "InvalidExpiry", "before 1970 is not in the future"),
    ({"name": "n", "expiration": -(10**17)}, "InvalidExpiry", "not in the future"),
    ({"name": "n", "expiration": 2**63}, "InvalidExpiry", "is after 9999-12-31"),
    ({"name": "n", "expiration": "2030-01-01"}, "InvalidExpiry", "must be a number"),
    ({"name": "n", "expiration": 1.5}, "InvalidExpiry", "must be a number"),
    ({"name": "n", "expiration": True}, "InvalidExpiry", "must be a number"),
    ({}, "InvalidInput", "the name is missing"),
    ({"name": None}, "InvalidInput", "the name must be text"),
    ({"name": ""}, "InvalidInput", "the name is empty"),
    ({"name": "  "}, "InvalidInput", "the name is empty"),
    ({"name": "a\nb"}, "InvalidInput", "line breaks"),
    ({"name": "n" * 256}, "InvalidInput", "256 characters long: at most 255"),
    ({"name": "n", "description": 7}, "InvalidInput", "the description must be text"),
    ({"name": "n", "description": "d" * 1_001}, "InvalidInput", "1001 characters long"),
    ({"name": "n", "signals": []}, "InvalidInput", "$.signals"),
    ({"name": "n", "signals": ["spans"]}, "InvalidInput", "$.signals"),
    ({"name": "n", "colour": "red"}, "InvalidInput", "colour"),
    ([], "InvalidInput", "object"),
]


async def test_a_key_that_cannot_be_is_refused_with_what_to_mend(gateway: Gateway) -> None:
    for body, kind, text in IMPOSSIBLE:
        answered = await gateway.ask("POST", KEYS, body)
        assert answered.status == 400, body
        assert answered.headers["Content-Type"] == "application/json"
        error = answered.json
        assert error.keys() == {"_type", "message"}
        assert error["_type"] == f"IngestionApiKey{kind}Error", body
        assert text in error["message"], body
    assert (await gateway.ask("GET", KEYS)).json == []


async def test_what_is_no_json_is_refused(gateway: Gateway) -> None:
    for raw in [b"", b"{", b"\xff", b'{"name": "\\ud800"}', b"name=n", b"0 ["]:
        answered = await gateway.ask("POST", KEYS, raw=raw)
        assert answered.status == 400, raw
        assert "JSON" in answered.json["message"]


async def test_a_body_that_is_too_long_is_refused(gateway: Gateway) -> None:
    answered = await gateway.ask("POST", KEYS, {"name": "n", "description": "d" * 70_000})
    assert answered.status == 413
    assert is_errors_response(answered, "RequestTooLargeError")


# List


async def test_a_list_has_every_key_and_no_secret(gateway: Gateway) -> None:
    created = [await gateway.create(name) for name in ("b", "a", "c")]
    answered = await gateway.ask("GET", KEYS)
    assert answered.headers["Content-Type"] == "application/json"
    assert [key["id"] for key in answered.json] == sorted(key["id"] for key in created)
    for key in created:
        assert key["apiKey"].encode() not in answered.raw


async def test_pages_are_told_of_in_a_header_field_and_the_body_stays_an_array(
    gateway: Gateway,
) -> None:
    made = sorted([(await gateway.create(f"n{n}"))["id"] for n in range(5)])
    path, found, pages = f"{KEYS}?limit=2", [], 0
    while path:
        answered = await gateway.ask("GET", path)
        found += [key["id"] for key in answered.json]
        pages += 1
        link = answered.headers.get("Link", "")
        assert not link or link.endswith('; rel="next"')
        path = link.partition("<")[2].partition(">")[0]
    assert (found, pages) == (made, 3)


async def test_a_list_without_pages_is_whole_however_long(gateway: Gateway, tmp_path: Path) -> None:
    insert_keys(tmp_path / "state/keys.db", range(1, 2_101))
    answered = await gateway.ask("GET", KEYS)
    assert answered.headers["Content-Type"] == "application/json"
    assert [key["id"] for key in answered.json] == list(range(1, 2_101))


def insert_keys(path: Path, ids: Iterable[int]) -> None:
    """Store keys at once, as another process would."""
    with closing(sqlite3.connect(path)) as store, store:
        (revision,) = store.execute(
            "UPDATE gateway_key_store SET revision = revision + 1 RETURNING revision"
        ).fetchone()
        store.executemany(
            "INSERT INTO gateway_keys"
            " (id, digest, name, created_ms, updated_ms, enabled, revision)"
            " VALUES (?, ?, 'n', 1, 1, 1, ?)",
            [(key_id, digest_of(str(key_id).encode()), revision) for key_id in ids],
        )


async def test_a_page_that_cannot_be_is_refused(gateway: Gateway) -> None:
    for query in ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "after=-1", "after="]:
        answered = await gateway.ask("GET", f"{KEYS}?{query}")
        assert answered.status == 400, query
        assert query.partition("=")[0] in answered.json["message"]


async def test_a_list_shows_when_and_how_much_a_key_was_used(gateway: Gateway) -> None:
    created = await gateway.create()
    before = now_ms()
    assert await gateway.send(created["apiKey"]) == 503
    async with asyncio.timeout(20):
        while True:
            (key,) = (await gateway.ask("GET", KEYS)).json
            if key["usage"]["requests"]:
                break
            await asyncio.sleep(0.02)
    assert (key["usage"]["requests"], key["usage"]["refusals"]) == (1, 0)
    assert before - 1 <= key["lastUsedTimestamp"] <= now_ms()


# Delete


async def test_a_deleted_key_is_refused_everywhere_at_once(gateway: Gateway) -> None:
    created = await gateway.create()
    assert await gateway.send(created["apiKey"]) == 503
    answered = await gateway.ask("DELETE", f"{KEYS}/{created['id']}")
    assert (answered.status, answered.raw) == (204, b"")
    assert answered.headers["X-Gateway-Confirmed"] == "true"
    assert await gateway.send(created["apiKey"]) == 401
    assert (await gateway.ask("POST", AUTHORIZE, {"apiKey": created["apiKey"]})).status == 403


NO_IDS = ["1", "9007199254740991", "9007199254740993", "0", "-1", "x"]


async def test_a_key_that_is_not_there_is_not_found(gateway: Gateway) -> None:
    for key_id in NO_IDS:
        for method, rest, body in (
            ("DELETE", "", None),
            ("GET", "", None),
            ("PATCH", "", {"name": "m"}),
            ("POST", "/rotate", {"overlap": 1}),
        ):
            answered = await gateway.ask(method, f"{KEYS}/{key_id}{rest}", body)
            assert answered.status == 404, (method, key_id)
            assert is_errors_response(answered, "NotFoundError")


# Beyond StackState


async def test_one_key_can_be_asked_for(gateway: Gateway) -> None:
    created = await gateway.create("n", description="d")
    answered = await gateway.ask("GET", f"{KEYS}/{created['id']}")
    assert answered.status == 200
    assert answered.json.items() >= {"id": created["id"], "name": "n", "description": "d"}.items()


async def test_an_existing_key_is_adopted_and_not_repeated(gateway: Gateway) -> None:
    body = {"apiKey": "a-key-from-elsewhere", "name": "old"}
    adopted = await gateway.ask("POST", ADOPT, body)
    assert adopted.status == 200
    assert b"a-key-from-elsewhere" not in adopted.raw
    assert await gateway.send("a-key-from-elsewhere") == 503
    again = await gateway.ask("POST", ADOPT, body)
    assert again.status == 409
    assert is_errors_response(again, "DuplicateError")
    assert str(adopted.json["id"]) in again.json["errors"][0]["message"]


async def test_what_cannot_be_a_key_is_not_adopted_and_not_repeated(gateway: Gateway) -> None:
    impossible: list[object] = ["", "two words", "k" * 513, "schlüssel", None, 7]
    for key in impossible:
        answered = await gateway.ask("POST", ADOPT, {"apiKey": key, "name": "n"})
        assert answered.status == 400, key
        assert "apiKey" in answered.json["message"]
        assert not isinstance(key, str) or not key or key not in answered.json["message"]


async def test_a_patch_changes_what_it_names(gateway: Gateway) -> None:
    created = await gateway.create("n", description="d")
    path = f"{KEYS}/{created['id']}"

    renamed = (await gateway.ask("PATCH", path, {"name": "m"})).json
    plain = (await gateway.ask("PATCH", path, {"description": None})).json

    assert (renamed["name"], renamed["description"]) == ("m", "d")
    assert plain["name"] == "m"
    assert "description" not in plain
    assert plain["lastUpdateTimestamp"] >= created["lastUpdateTimestamp"]
    assert (await gateway.ask("GET", path)).json == plain


async def test_a_disabled_key_is_refused_until_it_is_enabled(gateway: Gateway) -> None:
    created = await gateway.create()
    path, key = f"{KEYS}/{created['id']}", created["apiKey"]

    disabled = await gateway.ask("PATCH", path, {"enabled": False})
    assert (disabled.status, disabled.json["enabled"]) == (200, False)
    assert disabled.headers["X-Gateway-Confirmed"] == "true"
    assert await gateway.send(key) == 401
    assert (await gateway.ask("POST", AUTHORIZE, {"apiKey": key})).status == 403

    await gateway.ask("PATCH", path, {"enabled": True})
    assert await gateway.send(key) == 503
    assert (await gateway.ask("POST", AUTHORIZE, {"apiKey": key})).status == 204


async def test_a_key_sends_only_the_signals_that_it_may(gateway: Gateway) -> None:
    created = await gateway.create("n", signals=["logs"])
    path, key = f"{KEYS}/{created['id']}", created["apiKey"]
    assert [await gateway.send(key, signal) for signal in ("logs", "traces")] == [503, 403]

    everything = await gateway.ask("PATCH", path, {"signals": None})
    assert "signals" not in everything.json
    assert await gateway.send(key) == 503


async def test_a_keys_own_limits_are_obeyed_and_changed_one_by_one(gateway: Gateway) -> None:
    created = await gateway.create("n", limits={"requests": 1})
    path, key = f"{KEYS}/{created['id']}", created["apiKey"]
    sent = [await gateway.send(key) for _ in range(6)]
    assert set(sent) == {503, 429}, "503: no backend is configured"

    more = await gateway.ask("PATCH", path, {"limits": {"requests": 0, "bytes": 5}})
    assert more.json["limits"] == {"requests": 0, "bytes": 5}
    less = await gateway.ask("PATCH", path, {"limits": {"bytes": None}})
    assert less.json["limits"] == {"requests": 0}
    assert [await gateway.send(key) for _ in range(6)] == [503] * 6
    none = await gateway.ask("PATCH", path, {"limits": None})
    assert "limits" not in none.json


async def test_a_key_s_tenancy_is_set_listed_changed_and_kept(gateway: Gateway) -> None:
    members = {
        "owner": "team-a",
        "labels": {"team": "a", "env": "prod"},
        "headers": {"X-Scope-OrgID": "team-a"},
    }
    created = await gateway.create("n", **members)
    other = await gateway.create("m", labels={"team": "b"})
    path = f"{KEYS}/{created['id']}"
    assert {name: created[name] for name in members} == members

    async def listed(query: str) -> list[int]:
        return [key["id"] for key in (await gateway.ask("GET", f"{KEYS}?{query}")).json]

    assert await listed("label=team%3Da") == [created["id"]]
    assert await listed("label=team%3Da&label=env%3Ddev") == []
    assert await listed("owner=team-a") == [created["id"]]
    assert await listed("label=team%3Db&limit=5") == [other["id"]]
    for query in ("label=team", "label=%3Da", "owner=", "owner=a&owner=b"):
        assert (await gateway.ask("GET", f"{KEYS}?{query}")).status == 400, query

    change = {"owner": None, "labels": {"env": None, "team": "c"}, "headers": None}
    changed = (await gateway.ask("PATCH", path, change)).json
    assert changed["labels"] == {"team": "c"}
    assert {"owner", "headers"}.isdisjoint(changed)
    assert "labels" not in (await gateway.ask("PATCH", path, {"labels": None})).json
    adopted = {"apiKey": "key-from-elsewhere", "name": "old", "headers": {"X-Tenant": "a"}}
    assert (await gateway.ask("POST", ADOPT, adopted)).json["headers"] == {"X-Tenant": "a"}
    log = (await gateway.ask("GET", f"{AUDIT}?keyId={created['id']}")).json
    assert log[1]["changes"] == change | {"labels": {"team": "c"}}
    assert log[2]["changes"] == members


async def test_pages_of_a_filtered_list_lead_on_with_the_filter(gateway: Gateway) -> None:
    made = [await gateway.create(f"k{n}", labels={"team": "ab"[n % 2]}) for n in range(6)]
    wanted = sorted(key["id"] for key in made[::2])
    found: list[int] = []
    path = f"{KEYS}?label=team%3Da&limit=2"
    while path:
        page = await gateway.ask("GET", path)
        found += [key["id"] for key in page.json]
        path = page.headers.get("Link", "").partition(">")[0].removeprefix("<")

    assert found == wanted


@pytest.mark.parametrize(
    "member, text",
    [
        ({"owner": 7}, "the owner must be text"),
        ({"labels": {"team": 7}}, "labels must be an object whose values are text"),
        ({"labels": {"": "a"}}, "the name of a label cannot be empty"),
        ({"headers": "X-Tenant: a"}, "headers must be an object whose values are text"),
        ({"headers": {"te": "a"}}, "the header te cannot be set by a key"),
        ({"headers": {"X-T": "a", "x_t": "b"}}, "the headers X-T and x_t are one"),
        ({"headers": {"X-T": ""}}, "the header X-T has no value"),
    ],
)
async def test_each_tenancy_that_cannot_be_is_told(
    gateway: Gateway, member: dict[str, object], text: str
) -> None:
    answered = await gateway.ask("POST", KEYS, {"name": "n", **member})
    assert answered.status == 400
    assert text in answered.json["message"]
    assert (await gateway.ask("GET", KEYS)).json == []


async def test_a_patch_that_cannot_be_changes_nothing(gateway: Gateway) -> None:
    created = await gateway.create()
    path = f"{KEYS}/{created['id']}"
    before = (await gateway.ask("GET", path)).json
    impossible: list[object] = [
        {},
        {"name": None},
        {"name": ""},
        {"enabled": None},
        {"signals": []},
        {"limits": {}},
        {"limits": {"requests": -1}},
        {"limits": {"moons": 1}},
        {"owner": 7},
        {"labels": {"-": "x"}},
        {"labels": {"team": ""}},
        {"labels": []},
        {"headers": {"Host": "x"}},
        {"headers": {"X-Tenant": "a\r\nX-Other: b"}},
        {"headers": {"X-Tenant": 7}},
        {"id": 7},
        [],
    ]
    for body in impossible:
        answered = await gateway.ask("PATCH", path, body)
        assert answered.status == 400, body
        assert answered.json["_type"] == "IngestionApiKeyInvalidInputError"
    assert (await gateway.ask("GET", path)).json == before


async def test_rotating_gives_a_successor_while_the_old_key_works_on(gateway: Gateway) -> None:
    created = await gateway.create("n", signals=["traces"])
    before = now_ms()
    answered = await gateway.ask("POST", f"{KEYS}/{created['id']}/rotate", {"overlap": DAY_MS})
    rotated = answered.json

    assert answered.headers["X-Gateway-Confirmed"] == "true"
    assert (rotated["name"], rotated["signals"]) == ("n", ["traces"])
    assert rotated["predecessor"]["id"] == created["id"] != rotated["id"]
    assert before + DAY_MS <= rotated["predecessor"]["expiration"] <= now_ms() + DAY_MS
    assert [await gateway.send(key["apiKey"]) for key in (created, rotated)] == [503, 503]

    await gateway.ask("POST", f"{KEYS}/{rotated['id']}/rotate", {"overlap": 0})
    assert await gateway.send(rotated["apiKey"]) == 401


async def test_an_overlap_that_cannot_be_is_refused(gateway: Gateway) -> None:
    created = await gateway.create()
    for overlap in [-1, "1h", None, 10**15]:
        path = f"{KEYS}/{created['id']}/rotate"
        answered = await gateway.ask("POST", path, {"overlap": overlap})
        assert answered.status == 400, overlap
        assert "$.overlap" in answered.json["message"]


# Audit


async def test_every_change_is_listed_with_who_when_and_from_where(gateway: Gateway) -> None:
    before = now_ms()
    created = await gateway.create("n")
    path = f"{KEYS}/{created['id']}"
    await gateway.ask("PATCH", path, {"name": "m", "enabled": False}, token="another-token")
    await gateway.ask("DELETE", path)
    entries = (await gateway.ask("GET", AUDIT)).json

    assert [(each["action"], each["who"], each["keyName"]) for each in entries] == [
        ("delete", "alice", "m"),
        ("update", "token-2", "m"),
        ("create", "alice", "n"),
    ]
    assert entries[1]["changes"] == {"name": "m", "enabled": False}
    for entry in entries:
        assert entry["keyId"] == created["id"]
        assert entry["origin"] == "127.0.0.1"
        assert before <= entry["timestamp"] <= now_ms()


async def test_the_audit_log_contains_no_key_and_no_token(gateway: Gateway) -> None:
    created = await gateway.create()
    rotated = (await gateway.ask("POST", f"{KEYS}/{created['id']}/rotate", {"overlap": 1})).json
    await gateway.ask("POST", ADOPT, {"apiKey": "a-key-from-elsewhere", "name": "old"})
    raw = (await gateway.ask("GET", AUDIT)).raw
    for secret in (created["apiKey"], rotated["apiKey"], "a-key-from-elsewhere", TOKEN):
        assert secret.encode() not in raw


async def test_the_audit_log_has_pages_and_can_be_asked_about_one_key(gateway: Gateway) -> None:
    first, second = [await gateway.create(name) for name in ("first", "second")]
    page = await gateway.ask("GET", f"{AUDIT}?limit=1")
    rest = await gateway.ask("GET", page.headers["Link"].partition("<")[2].partition(">")[0])
    about = await gateway.ask("GET", f"{AUDIT}?keyId={first['id']}")
    assert [entry["keyId"] for entry in page.json + rest.json] == [second["id"], first["id"]]
    assert [entry["keyId"] for entry in about.json] == [first["id"]]
    assert "Link" not in rest.headers


# Authorize


async def ask_both(gateway: Gateway, key: str, query: str = "") -> set[tuple[int, bytes]]:
    """Ask both twins on both addresses, without a token."""
    answers = set()
    for path in (AUTHORIZE, INTERNAL):
        for address in (gateway.address, gateway.control.authorize_addresses[0]):
            body = {"apiKey": key}
            answered = await gateway.ask("POST", path + query, body, token=None, address=address)
            answers.add((answered.status, answered.raw))
    return answers


async def test_authorize_says_yes_or_no_without_a_body(gateway: Gateway) -> None:
    created = await gateway.create()
    assert await ask_both(gateway, created["apiKey"]) == {(204, b"")}
    for wrong in ("", "made-up", created["apiKey"] + "x", "ü"):
        assert await ask_both(gateway, wrong) == {(403, b"")}


async def test_receiver_keys_are_good_only_where_they_are_asked_for(gateway: Gateway) -> None:
    assert await ask_both(gateway, STATIC_KEY) == {(403, b"")}
    assert await ask_both(gateway, STATIC_KEY, "?withReceiverKey=false") == {(403, b"")}
    assert await ask_both(gateway, STATIC_KEY, "?withReceiverKey=true") == {(204, b"")}
    created = await gateway.create()
    assert await ask_both(gateway, created["apiKey"], "?withReceiverKey=true") == {(204, b"")}


async def test_a_key_for_some_signals_is_no_good_where_nobody_says_which(gateway: Gateway) -> None:
    created = await gateway.create("n", signals=["traces"])
    assert await ask_both(gateway, created["apiKey"]) == {(403, b"")}


async def test_authorizing_counts_as_use(gateway: Gateway) -> None:
    created = await gateway.create()
    before = now_ms()
    await ask_both(gateway, created["apiKey"])
    (key,) = (await gateway.ask("GET", KEYS)).json
    assert before <= key["lastUsedTimestamp"] <= now_ms()
    assert key["usage"]["requests"] == 0


async def test_what_asks_about_no_key_is_a_bad_request(gateway: Gateway) -> None:
    impossible: list[object] = [{}, {"apiKey": None}, {"apiKey": 7}, [], "text"]
    for body in impossible:
        assert (await gateway.ask("POST", AUTHORIZE, body, token=None)).status == 400, body


async def test_the_authorize_address_answers_nothing_else(gateway: Gateway) -> None:
    address = gateway.control.authorize_addresses[0]
    for path in (KEYS, "/api/server/info", "/metrics", "/readyz", "/-/config", "/api/openapi.json"):
        assert (await gateway.ask("GET", path, address=address)).status == 404


# Tokens


GUARDED: list[tuple[str, str, Any]] = [
    ("GET", "/api/server/info", None),
    ("GET", KEYS, None),
    ("POST", KEYS, {"name": "n"}),
    ("POST", ADOPT, {"name": "n", "apiKey": "k"}),
    ("GET", f"{KEYS}/1", None),
    ("PATCH", f"{KEYS}/1", {"name": "n"}),
    ("POST", f"{KEYS}/1/rotate", {"overlap": 1}),
    ("DELETE", f"{KEYS}/1", None),
    ("GET", AUDIT, None),
]


async def test_nothing_is_done_or_told_without_a_token(gateway: Gateway) -> None:
    for method, path, body in GUARDED:
        answered = await gateway.ask(method, path, body, token=None)
        assert answered.status == 401, (method, path)
        assert is_errors_response(answered, "UnauthorizedError")
    for token in ("", "wrong", TOKEN + "x"):
        answered = await gateway.ask("GET", KEYS, token=token)
        assert answered.status == 401, token
        assert is_errors_response(answered, "UnauthorizedError")
    assert (await gateway.ask("GET", KEYS)).json == []


async def test_guessing_is_turned_away_while_authorize_goes_on(gateway: Gateway) -> None:
    created = await gateway.create()
    guesses = [gateway.ask("GET", KEYS, token=f"guess-{n}") for n in range(40)]
    asked = [gateway.ask("POST", AUTHORIZE, {"apiKey": "made-up"}, token=None) for _ in range(40)]
    pending = [asyncio.ensure_future(guess) for guess in guesses]
    verdicts = await asyncio.gather(*asked)
    assert {verdict.status for verdict in verdicts} == {403}
    # Some are judged, a few wait for their turn, the others are turned away at once.
    turned_away = 0
    for guess in asyncio.as_completed(pending):
        answered = await guess
        if answered.status == 429:
            turned_away += 1
            assert is_errors_response(answered, "TooManyAttemptsError")
            assert int(answered.headers["Retry-After"]) >= 1
        if turned_away == 20:
            break
    for guess_task in pending:
        guess_task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    key = {"apiKey": created["apiKey"]}
    assert (await gateway.ask("POST", AUTHORIZE, key, token=None)).status == 204


# What is not there


async def test_an_unknown_path_or_method_is_told_in_the_apis_own_form(gateway: Gateway) -> None:
    unknown = await gateway.ask("GET", "/api/security/ingestion/nothing")
    method = await gateway.ask("PUT", KEYS)
    assert unknown.status == 404
    assert is_errors_response(unknown, "NotFoundError")
    assert method.status == 405
    assert is_errors_response(method, "MethodNotAllowedError")
    assert set(method.headers["Allow"].split(", ")) >= {"GET", "POST"}


# A store that is away


async def test_without_its_store_the_api_says_try_again_and_known_keys_go_on(
    start: Start, server: PostgresqlServer
) -> None:
    gateway = await start(keys={"stores": [await server.new_database()]})
    created = await gateway.create()
    server.kill()
    await until_refused(f"127.0.0.1:{server.port}")
    path = f"{KEYS}/{created['id']}"
    for method, at, body in (
        ("GET", KEYS, None),
        ("GET", f"{KEYS}?limit=1", None),
        ("GET", path, None),
        ("POST", KEYS, {"name": "m"}),
        ("PATCH", path, {"name": "m"}),
        ("DELETE", path, None),
        ("GET", AUDIT, None),
    ):
        answered = await gateway.ask(method, at, body)
        assert answered.status == 503, (method, at)
        assert is_errors_response(answered, "StoreUnavailableError")
        assert answered.headers["Retry-After"]
    assert await gateway.send(created["apiKey"]) == 503  # the missing backend's
    assert await ask_both(gateway, created["apiKey"]) == {(204, b"")}

    server.start()
    async with asyncio.timeout(30):
        while (await gateway.ask("DELETE", path)).status != 204:
            await asyncio.sleep(0.05)
    assert await gateway.send(created["apiKey"]) == 401


# A remote authority behind it


async def test_authorize_asks_the_authority_about_what_no_store_holds(
    start: Start, tmp_path: Path
) -> None:
    async def judge(request: web.Request) -> web.Response:
        key = (await request.json())["apiKey"]
        return web.Response(status={"theirs": 204, "trouble": 500}.get(key, 403))

    app = web.Application()
    app.router.add_post("/authorize", judge)
    runner = web.AppRunner(app)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        stores = [
            f"sqlite:///{tmp_path}/keys.db",
            f"authority+http://127.0.0.1:{port}/authorize",
        ]
        gateway = await start(keys={"stores": stores})
        created = await gateway.create()
        assert await ask_both(gateway, created["apiKey"]) == {(204, b"")}
        assert await ask_both(gateway, "theirs") == {(204, b"")}
        assert await ask_both(gateway, "nobodys") == {(403, b"")}
        assert await ask_both(gateway, "ü") == {(403, b"")}
        assert await ask_both(gateway, "trouble") == {(503, b"")}
    finally:
        await runner.cleanup()


async def test_a_store_that_was_never_in_reach_is_503_and_no_alarm(start: Start) -> None:
    [port] = free_ports(1)
    gateway = await start(keys={"stores": [f"postgresql://gateway@127.0.0.1:{port}/keys"]})

    for answered in (
        await gateway.ask("GET", KEYS),
        await gateway.ask("GET", f"{KEYS}?limit=1"),
        await gateway.ask("GET", f"{KEYS}/1"),
        await gateway.ask("GET", AUDIT),
        await gateway.ask("POST", KEYS, {"name": "agent"}),
        await gateway.ask("DELETE", f"{KEYS}/1"),
    ):
        assert answered.status == 503, answered.raw
        assert "Retry-After" in answered.headers
        assert is_errors_response(answered, "StoreUnavailableError")

    metrics = (await gateway.ask("GET", "/metrics")).raw.decode()
    assert 'gateway_internal_errors_total{place="control"} 1' not in metrics
    assert 'gateway_key_store_up{store="postgresql"} 0' in metrics


async def test_a_change_is_confirmed_when_other_gateways_of_the_host_have_it(
    start: Start, tmp_path: Path
) -> None:
    gateway = await start()
    with closing(LockFile(tmp_path / "state/keys.db")) as other:
        answered = await gateway.ask("POST", KEYS, {"name": "agent"})
        assert answered.status == 200
        assert answered.headers["X-Gateway-Confirmed"] == "false"
        assert answered.headers["X-Gateway-Unconfirmed"].startswith(f"{os.getpid()}-")

        other.publish(1_000)
        answered = await gateway.ask("POST", KEYS, {"name": "agent"})
        assert answered.headers["X-Gateway-Confirmed"] == "true"
        assert "X-Gateway-Unconfirmed" not in answered.headers


async def test_a_change_is_confirmed_when_the_gateways_of_the_database_have_it(
    start: Start, server: PostgresqlServer
) -> None:
    url = await server.new_database()
    gateway = await start(keys={"stores": [url]})
    answered = await gateway.ask("POST", KEYS, {"name": "agent"})
    assert answered.headers["X-Gateway-Confirmed"] == "true"

    other = await asyncpg.connect(url, server_settings={"application_name": "otlp-gateway far 7-a"})
    answered = await gateway.ask("POST", KEYS, {"name": "agent"})
    await other.close()
    assert answered.headers["X-Gateway-Confirmed"] == "false"
    assert answered.headers["X-Gateway-Unconfirmed"] == "far 7-a"


async def test_gateways_on_standbys_of_the_database_cannot_be_spoken_for(
    start: Start, server: PostgresqlServer
) -> None:
    url = await server.new_database()
    gateway = await start(keys={"stores": [url]})
    await server.execute(url, "SELECT pg_create_physical_replication_slot('of_a_standby')")
    try:
        answered = await gateway.ask("POST", KEYS, {"name": "agent"})
    finally:
        await server.execute(url, "SELECT pg_drop_replication_slot('of_a_standby')")
    assert answered.headers["X-Gateway-Confirmed"] == "except-standbys"
    assert "X-Gateway-Unconfirmed" not in answered.headers
