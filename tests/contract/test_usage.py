"""Usage by day over the API, and `gateway keys usage` on the same store."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.main import run
from gateway.keys.daily_usage import ItemSums, day_of, plus
from gateway.keys.record import KeyUsage
from tests.contract.conftest import KEYS, Gateway

USAGE = "/api/security/ingestion/usage"
DAY_MS = 86_400_000
NOON_MS = 1_900_000_000_000 - 1_900_000_000_000 % DAY_MS + DAY_MS // 2
TODAY = day_of(NOON_MS)
SINCE = "since=2030-03-01&until=2030-03-31"


@pytest.fixture
async def keys(gateway: Gateway) -> list[dict[str, Any]]:
    """Two keys that were used on two days, and the operators' own."""
    made = [
        await gateway.create("first", owner="team-a", labels={"env": "prod"}),
        await gateway.create("second"),
    ]
    usage = gateway.control.parts.base.keys.usage
    usage._now_ms = lambda: NOON_MS  # items count on the day in which they come
    for day in range(2):
        for number, key in enumerate(made, 1):
            at_ms = NOON_MS - day * DAY_MS
            usage.note(str(key["id"]), KeyUsage(number, 100 * number, 0, at_ms))
    usage.note("static:operators", KeyUsage(7, 700, 0, NOON_MS))
    sums = plus(ItemSums(4, 400), ItemSums.of_sample(100, 20, 2.0))
    usage.note_items(str(made[0]["id"]), "traces", plus(sums, ItemSums.of_sample(100, 30, 2.0)))
    usage.note_items(
        str(made[0]["id"]), "logs", plus(ItemSums(1, 50), ItemSums.of_sample(50, 9, 1))
    )
    await usage.flush()
    return made


async def _rows(gateway: Gateway, query: str) -> list[dict[str, Any]]:
    answered = await gateway.ask("GET", f"{USAGE}?{query}")
    assert answered.status == 200, answered.raw
    rows: list[dict[str, Any]] = answered.json
    return rows


@pytest.mark.usefixtures("keys")
async def test_usage_is_shown_by_key_and_day(gateway: Gateway) -> None:
    rows = await _rows(gateway, SINCE)

    sent = {(row["period"], row["name"]): (row["requests"], row["bytes"]) for row in rows}
    yesterday = day_of(NOON_MS - DAY_MS)
    assert sent == {
        (yesterday, "first"): (1, 100),
        (yesterday, "second"): (2, 200),
        (TODAY, "first"): (1, 100),
        (TODAY, "second"): (2, 200),
        (TODAY, "operators"): (7, 700),
    }
    (first,) = [row for row in rows if (row["period"], row["name"]) == (TODAY, "first")]
    assert (first["owner"], first["labels"]) == ("team-a", {"env": "prod"})
    assert first["items"]["logs"] == {"count": 9, "error": 0.0, "samples": 1}
    assert first["items"]["traces"]["count"] == 100
    assert first["items"]["traces"]["error"] > 0


@pytest.mark.parametrize(
    "query, expected",
    [
        ("by=key", {("", "first", 2), ("", "second", 4), ("", "operators", 7)}),
        ("by=month&name=first", {("2030-03", "first", 2)}),
        ("by=key&owner=team-a", {("", "first", 2)}),
        ("by=key&label=env%3Dprod", {("", "first", 2)}),
        ("by=key&label=env%3Dtest", set()),
        ("by=key&keyId=static:operators", {("", "operators", 7)}),
        ("since=2030-03-17&until=2030-03-17&name=second", {("2030-03-17", "second", 2)}),
    ],
)
@pytest.mark.usefixtures("keys")
async def test_usage_can_be_chosen(
    gateway: Gateway, query: str, expected: set[tuple[str, str, int]]
) -> None:
    rows = await _rows(gateway, query if "since" in query else f"{SINCE}&{query}")

    assert {(row.get("period", ""), row["name"], row["requests"]) for row in rows} == expected


@pytest.mark.usefixtures("keys")
async def test_usage_has_pages(gateway: Gateway) -> None:
    path = f"{USAGE}?{SINCE}&limit=2"
    rows: list[dict[str, Any]] = []
    for _ in range(3):
        page = await gateway.ask("GET", path)
        rows += page.json
        path = page.headers.get("Link", "").partition("<")[2].partition(">")[0]

    assert not path
    assert rows == await _rows(gateway, SINCE)


@pytest.mark.parametrize(
    "query, word",
    [
        ("since=yesterday", "since"),
        ("since=2030-02-30", "since"),
        ("since=2030-02-02&until=2030-02-01", "swap"),
        ("by=week", "by"),
        ("after=nonsense", "after"),
        ("owner=", "owner"),
    ],
)
async def test_wrong_parameters_are_explained(gateway: Gateway, query: str, word: str) -> None:
    answered = await gateway.ask("GET", f"{USAGE}?{query}")

    assert answered.status == 400
    assert word in answered.json["message"]


async def test_the_usage_of_a_deleted_key_stays(
    gateway: Gateway, keys: list[dict[str, Any]]
) -> None:
    await gateway.ask("DELETE", f"{KEYS}/{keys[0]['id']}")

    rows = await _rows(gateway, f"{SINCE}&by=key&keyId={keys[0]['id']}")

    assert [(row["name"], row["requests"]) for row in rows] == [("first", 2)]


def _run(gateway: Gateway, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    config = gateway.control.parts.base.config.config
    given = ["keys", "usage", "--since", "2030-03-01", "--until", "2030-03-31", *options]
    store = config.keys.stores[0].path.parent
    assert run([*given, "--data", str(store)]) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("keys")
async def test_the_command_shows_what_the_api_shows(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = await _in_thread(_run, gateway, capsys, "--by", "key", "--output", "json")

    from_api = await _rows(gateway, f"{SINCE}&by=key")
    from_command = json.loads(shown)["ingestion-api-key-usage"]
    assert [row | {"name": ""} for row in from_command] == [row | {"name": ""} for row in from_api]
    assert {row["name"] for row in from_command} == {"first", "second", "operators"}


async def test_the_command_writes_a_table(
    gateway: Gateway, keys: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = await _in_thread(_run, gateway, capsys, "--owner", "team-a")

    head, _, today = ([cell.strip() for cell in line.split("|")] for line in shown.splitlines())
    assert head[:4] == ["DAY", "KEY ID", "NAME", "OWNER"]
    assert head[4:] == ["REQUESTS", "BYTES", "REFUSALS", "SPANS", "LOG RECORDS"]
    assert today[:4] == [TODAY, str(keys[0]["id"]), "first", "team-a"]
    assert today[4:7] == ["1", "100", "0"]
    assert today[7].startswith("100 ±")
    assert today[8] == "9"


@pytest.mark.usefixtures("keys")
async def test_the_command_writes_csv(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    shown = await _in_thread(_run, gateway, capsys, "--name", "first", "-o", "csv")

    first, today = csv.DictReader(io.StringIO(shown))
    assert (first["period"], first["spans"], first["spans_error"]) == ("2030-03-16", "", "")
    assert (today["requests"], today["bytes"], today["log_records"]) == ("1", "100", "9")
    assert (today["log_records_error"], today["log_records_samples"]) == ("0.0", "1")
    assert float(today["spans_error"]) > 0


async def _in_thread(call: Any, *arguments: Any) -> str:
    """Commands run a loop of their own."""
    shown: str = await asyncio.to_thread(call, *arguments)
    return shown


async def test_a_reload_changes_how_long_days_are_kept(gateway: Gateway, tmp_path: Path) -> None:
    assert gateway.control.keys.usage.kept_days == 400
    file = tmp_path / "gateway.yaml"
    file.write_text(f"{file.read_text()}\nusage: {{days: 30}}\n")

    assert await gateway.control.reload() == []

    assert gateway.control.keys.usage.kept_days == 30
