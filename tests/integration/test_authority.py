"""A gateway whose keys an authority knows, which answers slowly, wrongly, or not at all."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from gateway.config import ConfigError, load
from tests.support.authority import NO, YES, Behaviour, ScriptedAuthority
from tests.support.certs import Authority
from tests.support.polling import until
from tests.support.process import COMMAND, Gateway, running_gateway
from tests.support.sink import RawSink

GOOD: Final = "good-key"
BAD: Final = "bad-key"
GARBAGE: Final = b"SSH-2.0-OpenSSH_9.6\r\n"
ACCEPTED, DENIED, AGAIN = 200, 401, 503


class Setting:
    """A gateway, the authority that it asks, and the backend behind it."""

    def __init__(self, gateway: Gateway, authority: ScriptedAuthority, sink: RawSink) -> None:
        self.gateway = gateway
        self.authority = authority
        self.sink = sink

    async def send(self, key: str = GOOD) -> int:
        """Send one request over a connection of its own; return its status."""
        fields = {"Content-Type": "application/json", "Authorization": f"StackState {key}"}
        url = f"http://127.0.0.1:{self.gateway.port}/v1/traces"
        async with (
            aiohttp.ClientSession() as client,
            client.post(url, data=b"{}", headers=fields) as answer,
        ):
            return answer.status

    async def send_many(self, *keys: str) -> Counter[int]:
        """Send all at once, so that every worker gets some."""
        return Counter(await asyncio.gather(*(self.send(key) for key in keys)))

    def begin_many(self, *keys: str) -> asyncio.Task[Counter[int]]:
        """Send all at once, without waiting for the answers."""
        return asyncio.create_task(self.send_many(*keys))

    async def metric(self, name: str, **labels: str) -> float:
        """Sum the series of a metric that have these labels."""
        _, text = await self.gateway.get("/metrics")
        found = re.findall(rf"^{name}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(value) for inside, value in found if all(w in inside for w in wanted))

    async def until_metric(self, least: float, name: str, **labels: str) -> None:
        async with asyncio.timeout(20):
            while await self.metric(name, **labels) < least:
                await asyncio.sleep(0.05)


def knows(*good: str) -> Any:
    return lambda key: YES if key in good else NO


@asynccontextmanager
async def serving(
    folder: Path, authority: ScriptedAuthority, keys: Mapping[str, Any] | None = None
) -> AsyncIterator[Setting]:
    store = f"authority+{authority.url()}"
    async with RawSink() as sink:
        tree = {
            "auth": {"receiver_keys": []},
            "backends": {"otlp_http": {"urls": [sink.http_url]}},
            "keys": {"stores": [store], **(keys or {})},
        }
        async with running_gateway(folder, tree) as gateway:
            yield Setting(gateway, authority, sink)


async def test_the_authority_decides_and_is_asked_once_for_all_workers(tmp_path: Path) -> None:
    async with (
        ScriptedAuthority(knows(GOOD)) as authority,
        serving(tmp_path, authority) as setting,
    ):
        assert await setting.send_many(*[GOOD] * 24, *[BAD] * 24) == {ACCEPTED: 24, DENIED: 24}
        assert await setting.send_many(*[GOOD] * 24, *[BAD] * 24) == {ACCEPTED: 24, DENIED: 24}
        assert Counter(authority.asked) == {GOOD: 1, BAD: 1}
        await setting.until_metric(
            96, "gateway_auth_decisions_total", protocol="http", signal="traces"
        )
        assert await setting.metric("gateway_authority_requests_total", result="allowed") == 1
        assert await setting.metric("gateway_authority_requests_total", result="denied") == 1
        assert await setting.metric("gateway_authority_duration_seconds_count") == 2
        assert await setting.metric("gateway_key_cache_entries", kind="positive") == 1
        assert await setting.metric("gateway_key_cache_entries", kind="negative") == 1
        assert await setting.metric("gateway_key_cache_misses_total", kind="positive") == 2
        assert await setting.metric("gateway_key_cache_hits_total", kind="positive") > 0
        assert await setting.metric("gateway_key_store_up", store="authority") == 1
        _, text = await setting.gateway.get("/readyz")
        assert [store["up"] for store in json.loads(text)["stores"]] == [True]


@pytest.mark.parametrize("trusts", [True, False])
async def test_the_authoritys_certificate_must_be_one_that_the_system_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, trusts: bool
) -> None:
    issuer = Authority.create(tmp_path)
    if trusts:
        monkeypatch.setenv("SSL_CERT_FILE", str(issuer.cert_file))
    context = issuer.issue("authority", ["127.0.0.1"]).server_context()
    async with (
        ScriptedAuthority(knows(GOOD), context) as authority,
        serving(tmp_path, authority) as setting,
    ):
        assert await setting.send() == (ACCEPTED if trusts else AGAIN)
        assert authority.asked == ([GOOD] if trusts else [])


async def test_new_workers_need_not_ask_again(tmp_path: Path) -> None:
    async with (
        ScriptedAuthority(knows(GOOD)) as authority,
        serving(tmp_path, authority) as setting,
    ):
        assert await setting.send() == ACCEPTED
        token = (tmp_path / "state" / "admin-token").read_text().strip()
        url = f"{setting.gateway.admin_url}/-/reload"
        async with (
            aiohttp.ClientSession(headers={"X-API-Token": token}) as client,
            client.post(url) as answer,
        ):
            assert answer.status == 200
        assert await setting.send_many(*[GOOD] * 16) == {ACCEPTED: 16}
        assert authority.asked == [GOOD]


async def test_a_good_key_is_never_refused_for_good_whatever_the_authority_does(
    tmp_path: Path,
) -> None:
    tricks: list[Behaviour] = [500, 401, YES, GARBAGE, 429, "close", 302, 404, "hang", 200, 503]
    cycle = itertools.cycle(tricks)
    keys = {
        "cache": {"ttl": "20ms", "negative_ttl": "20ms"},
        "authority": {"timeout": "200ms", "unknown_rate": "1000/s"},
        "max_stale": "0s",
    }
    async with (
        ScriptedAuthority(lambda key: next(cycle) if key == GOOD else NO) as authority,
        serving(tmp_path, authority, keys) as setting,
    ):
        seen: Counter[int] = Counter()
        for _ in range(25):
            seen += await setting.send_many(*[GOOD] * 8)
        assert set(seen) <= {ACCEPTED, AGAIN}
        assert seen[ACCEPTED]
        assert seen[AGAIN]
        assert authority.most_per_key <= 2  # one question; a request given up may still be answered
        assert set(await setting.send_many(*[BAD] * 8)) <= {DENIED, AGAIN}


async def test_a_slow_authority_is_asked_one_question_per_key_at_a_time(tmp_path: Path) -> None:
    async with (
        ScriptedAuthority(knows(*(f"key-{n}" for n in range(20)))) as authority,
        serving(tmp_path, authority, {"authority": {"timeout": "20s"}}) as setting,
    ):
        authority.wait_for = asyncio.Event()
        sending = setting.begin_many(*(f"key-{n}" for n in range(20) for _ in range(6)))
        await until(lambda: len(authority.asked) >= 5)
        authority.wait_for.set()
        assert await sending == {ACCEPTED: 120}
        assert authority.most_per_key == 1
        assert authority.most_at_once <= 5
        assert len(authority.asked) == 20


async def test_known_keys_outlive_their_authority_and_it_is_asked_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    async with (
        ScriptedAuthority(knows(GOOD)) as authority,
        serving(tmp_path, authority, {"cache": {"ttl": "50ms"}}) as setting,
    ):
        assert await setting.send() == ACCEPTED
        await authority.stop()
        while not await setting.metric("gateway_key_cache_stale_served_total", kind="positive"):
            assert await setting.send() == ACCEPTED
        assert await setting.send("never-seen") == AGAIN
        assert await setting.metric("gateway_key_store_up", store="authority") == 0
        _, text = await setting.gateway.get("/readyz")
        (store,) = json.loads(text)["stores"]
        assert not store["up"]
        assert "cannot be asked" in store["error"]
        before = len(authority.asked)
        async with authority:
            while len(authority.asked) == before:
                assert await setting.send() == ACCEPTED
                await asyncio.sleep(0.02)
            await setting.until_metric(1, "gateway_key_store_up", store="authority")


async def test_a_restart_while_the_authority_is_away_loses_no_known_key(tmp_path: Path) -> None:
    async with ScriptedAuthority(knows(GOOD)) as authority:
        async with serving(tmp_path, authority) as setting:
            assert await setting.send_many(GOOD, BAD) == {ACCEPTED: 1, DENIED: 1}
        file = tmp_path / "state" / "authority.verdicts"
        assert file.stat().st_mode & 0o777 == 0o600
        assert GOOD.encode() not in file.read_bytes()
        await authority.stop()
        async with serving(tmp_path, authority) as setting:
            assert await setting.send_many(GOOD, BAD) == {ACCEPTED: 1, AGAIN: 1}
        file.write_bytes(file.read_bytes()[:-1])
        async with serving(tmp_path, authority) as setting:
            assert await setting.send(GOOD) == AGAIN
            assert "cannot read the saved verdicts" in setting.gateway.program.output


async def test_made_up_keys_reach_the_authority_at_the_configured_rate_at_most(
    tmp_path: Path,
) -> None:
    keys = {"authority": {"unknown_rate": "20/s"}, "cache": {"negative_size": 100}}
    async with (
        ScriptedAuthority(knows(GOOD)) as authority,
        serving(tmp_path, authority, keys) as setting,
    ):
        assert await setting.send() == ACCEPTED
        began = time.monotonic()
        seen: Counter[int] = Counter()
        for start in range(0, 600, 50):
            seen += await setting.send_many(*(f"made-up-{n}" for n in range(start, start + 50)))
        lasted = time.monotonic() - began
        assert set(seen) == {DENIED, AGAIN}
        assert seen[DENIED] == len(authority.asked) - 1
        assert len(authority.asked) - 1 <= 20 * (lasted + 1) + 1
        assert await setting.send_many(*[GOOD] * 8) == {ACCEPTED: 8}
        assert await setting.metric("gateway_key_cache_entries", kind="negative") <= 100


async def test_stores_are_combined_and_a_stored_key_is_not_asked_for(tmp_path: Path) -> None:
    async with ScriptedAuthority(knows(GOOD)) as authority:
        stores = [f"sqlite:///{tmp_path / 'keys.db'}", f"authority+{authority.url()}"]
        async with serving(tmp_path, authority, {"stores": stores}) as setting:
            key = await _create(setting, tmp_path)
            assert await setting.send_many(key, GOOD, BAD) == {ACCEPTED: 2, DENIED: 1}
            assert sorted(authority.asked) == [BAD, GOOD]


async def _create(setting: Setting, folder: Path) -> str:
    command = await asyncio.create_subprocess_exec(
        COMMAND,
        "keys",
        "create",
        "--name",
        "stored",
        "--config",
        str(setting.gateway.config_file),
        "--output",
        "json",
        stdout=asyncio.subprocess.PIPE,
        cwd=folder,
    )
    output, _ = await command.communicate()
    return str(json.loads(output)["ingestion-api-key"]["apiKey"])


async def test_no_key_is_written_to_the_log(tmp_path: Path) -> None:
    tricks: itertools.cycle[Behaviour] = itertools.cycle([500, 401, GARBAGE, "close", NO])
    async with (
        ScriptedAuthority(lambda _: next(tricks)) as authority,
        serving(tmp_path, authority) as setting,
    ):
        await setting.send_many(*(f"canary-5a1d-{n}" for n in range(40)))
        await setting.until_metric(1, "gateway_authority_requests_total", result="unexpected")
        assert "canary-5a1d" not in setting.gateway.program.output
        assert "no verdict of the dialect" in setting.gateway.program.output


@pytest.mark.parametrize(
    "stores, word",
    [
        (["authority+http://h:1/x"], "keys.authority.dialect"),
        (["authority+http://h:1"], "has no path"),
        (["authority://h:1/authorize"], "authority+https"),
        (["authority+http://h:1/authorize", "sqlite:////tmp/k/keys.db"], "put authorities last"),
    ],
)
def test_an_invalid_authority_is_an_error(tmp_path: Path, stores: list[str], word: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps({"keys": {"stores": stores}}))
    with pytest.raises(ConfigError) as faulty:
        load(file, (), {"HOME": str(tmp_path)})
    assert word in str(faulty.value)
