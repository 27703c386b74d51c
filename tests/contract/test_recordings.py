"""What the real `sts` CLI 3.0.6 sent, replayed: each answer must be one that it understands.

The recorded answers are a stand-in server's. Ours must have the same status, exactly the same type
of content, and every member that the CLI was given there, in the same type.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import KEYS, TOKEN, Gateway, Start
from tests.support.postgresql import PostgresqlServer

RECORDINGS = Path(__file__).parent / "recordings/sts-3.0.6"
FUTURE_MS = "4102444800000"
"""2100-01-01: as many digits as the recorded day has, which may be over by now."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A recorded request, as bytes, and the answer that it got."""

    request: bytes
    status: int
    content_type: str | None
    body: str


def exchanges(name: str) -> list[Exchange]:
    text = (RECORDINGS / f"{name}.txt").read_text(encoding="utf-8")
    text = text.partition("\n--- exit")[0]
    found = []
    for part in text.split(">>> request\n")[1:]:
        request, _, answer = part.partition("\n<<< answer it got\n")
        head, _, body = request.partition("\n\n")
        status = re.match(r"HTTP/1\.1 (\d{3})\n", answer)
        assert status is not None
        kind = re.search(r"^Content-Type: (.*)$", answer, re.MULTILINE)
        sent = head.replace("\n", "\r\n") + "\r\n\r\n" + body
        found.append(
            Exchange(
                sent.encode(),
                int(status[1]),
                kind[1] if kind else None,
                answer.partition("\n\n")[2].strip(),
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str | None
    body: bytes


async def replay(gateway: Gateway, request: bytes, **replaced: str) -> Answer:
    """Send a recorded request byte for byte, but for what belongs to the recorded server."""
    replaced = {"svctok-EXAMPLE": TOKEN, "127.0.0.1:18123": gateway.address, **replaced}
    for old, new in replaced.items():
        request = request.replace(old.encode(), new.encode())
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    # The CLI ends its JSON with a line break; the recording has it as one of its own.
    body = body[: int(length[1])].ljust(int(length[1]), b"\n") if length else b""
    host, _, port = gateway.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head + b"\r\n\r\n" + body)
    answered = await reader.readuntil(b"\r\n\r\n")
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (
            line.partition(":") for line in answered.decode().split("\r\n")[1:] if line
        )
    }
    content = await reader.readexactly(int(fields.get("content-length", "0")))
    writer.close()
    return Answer(int(answered.split()[1]), fields.get("content-type"), content)


def contains(ours: Any, recorded: Any) -> bool:
    """Whether everything that the CLI was given is there, in the same JSON types."""
    if isinstance(recorded, dict):
        return isinstance(ours, dict) and all(
            name in ours and contains(ours[name], value) for name, value in recorded.items()
        )
    return type(ours) is type(recorded)


async def check(gateway: Gateway, name: str, **replaced: str) -> list[Answer]:
    answers = []
    for exchange in exchanges(name):
        answer = await replay(gateway, exchange.request, **replaced)
        answers.append(answer)
        assert answer.status == exchange.status, answer
        assert answer.content_type == exchange.content_type
        if not exchange.body:
            assert answer.body == b""
            continue
        assert contains(json.loads(answer.body), json.loads(exchange.body)), answer
    return answers


async def test_context_save_finds_a_version_that_it_speaks(gateway: Gateway) -> None:
    (answer,) = await check(gateway, "context-save")
    info = json.loads(answer.body)
    assert info["deploymentMode"] in {"SelfHosted", "Saas"}
    version = info["version"]
    assert version["major"] >= 5
    assert (version["diff"], version["commit"]) == ("", "")


@pytest.mark.parametrize("name", ["create", "create-json", "create-all-flags"])
async def test_create_answers_the_key_once(gateway: Gateway, name: str) -> None:
    _, answer = await check(gateway, name, **{"1767225600000": FUTURE_MS})
    created = json.loads(answer.body)
    assert created["apiKey"].startswith("iapikey-")
    assert await gateway.send(created["apiKey"]) == 503
    listed = (await gateway.ask("GET", KEYS)).json
    assert [key["id"] for key in listed] == [created["id"]]
    assert "apiKey" not in listed[0]
    if name == "create-all-flags":
        assert (listed[0]["description"], listed[0]["expiration"]) == ("EU agents", int(FUTURE_MS))
    else:
        assert "description" not in listed[0]
        assert "expiration" not in listed[0]


async def test_create_in_the_past_is_refused_in_the_words_that_it_prints(gateway: Gateway) -> None:
    _, answer = await check(gateway, "create-400")
    error = json.loads(answer.body)
    assert error["_type"] == "IngestionApiKeyInvalidExpiryError"
    assert "not in the future" in error["message"]
    assert (await gateway.ask("GET", KEYS)).json == []


@pytest.mark.parametrize("name", ["list", "list-json"])
async def test_list_answers_what_the_table_shows(gateway: Gateway, name: str) -> None:
    await gateway.create("agent-eu", description="EU agents", expiration=int(FUTURE_MS))
    await gateway.create("my-ingestion-api-key")
    _, answer = await check(gateway, name)
    recorded = {key["name"]: key for key in json.loads(exchanges(name)[1].body)}
    ours = {key["name"]: key for key in json.loads(answer.body)}
    assert ours.keys() == recorded.keys()
    for key_name, key in recorded.items():
        assert contains(ours[key_name], key)


async def test_an_empty_list_is_an_empty_array(gateway: Gateway) -> None:
    _, answer = await check(gateway, "list-empty")
    assert answer.body == b"[]"


@pytest.mark.parametrize("name", ["delete", "delete-json"])
async def test_delete_answers_without_a_body(gateway: Gateway, name: str) -> None:
    created = await gateway.create()
    await check(gateway, name, **{"250558013078953": str(created["id"])})
    assert await gateway.send(created["apiKey"]) == 401
    assert (await gateway.ask("GET", KEYS)).json == []


async def test_a_wrong_token_is_told_at_the_first_request(gateway: Gateway) -> None:
    await check(gateway, "list-401", **{TOKEN: "wrong"})


async def test_a_store_that_is_away_is_told_in_the_form_that_it_prints(
    start: Start, server: PostgresqlServer
) -> None:
    gateway = await start(keys={"stores": [await server.new_database()]})
    server.kill()
    info, listed = exchanges("list-500")
    assert (await replay(gateway, info.request)).status == 200
    answer = await replay(gateway, listed.request)
    assert answer.status == 503  # the recorded server's 500 is no promise that it comes back
    assert answer.content_type == listed.content_type
    assert contains(json.loads(answer.body), json.loads(listed.body))
