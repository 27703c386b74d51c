"""A real Envoy that asks the gateway: through it senders are told what the gateway tells."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.clients import Response
from tests.support.envoy_fronts import (
    MESSAGE,
    WAYS,
    Fronts,
    digest_text,
    key_fields,
    running_fronts,
    send,
    told,
)
from tests.support.exchange import Fields
from tests.support.issuer import AUDIENCE, ScriptedIssuer
from tests.support.key_feed import TOKEN, running_center
from tests.support.process import COMMAND, free_ports, running, running_gateway

KEY: Final = "iapikey-0123456789abcdefghijklmnopqrstuv2Pxkvs"
RIGHT: Final = (("authorization", f"StackState {KEY}"),)


CASES: Final[dict[str, Fields]] = {
    "KEY_MISSING": (),
    "SCHEME_BEARER": (("authorization", f"Bearer {KEY}"),),
    "SCHEME_UNKNOWN": (("authorization", f"SUSE Observability {KEY}"),),
    "KEY_PERCENT_ENCODED": (("authorization", f"StackState%20{KEY}"),),
    "KEY_PLUS_ENCODED": (("authorization", f"StackState+{KEY}"),),
    "KEY_QUOTED": (("authorization", f'StackState "{KEY}"'),),
    "KEY_EMPTY": (("authorization", "StackState"),),
    "KEY_TOO_LONG": key_fields("k" * 513),
    "KEY_CHARACTERS": key_fields("two words"),
    "AUTHORIZATION_REPEATED": RIGHT + RIGHT,
    "KEY_CONFLICT": (*RIGHT, ("sts-api-key", "another-key")),
    "KEY_UNKNOWN": key_fields("nobody-knows-it"),
    "KEY_TYPO": key_fields(f"{KEY[:-1]}A"),
    "KEY_EXPIRED": key_fields("expired"),
    "KEY_DISABLED": key_fields("disabled"),
    "SIGNAL_NOT_ALLOWED": key_fields("traces-only"),
}


ENTRIES: Final[list[dict[str, Any]]] = [
    {"digest": digest_text(KEY), "name": "agent é", "id": 7},
    {"digest": digest_text("expired"), "name": "expired", "expiration": "2001-01-01"},
    {"digest": digest_text("disabled"), "name": "disabled", "enabled": False},
    {"digest": digest_text("traces-only"), "name": "traces-only", "signals": ["traces"]},
]


ALLOWED: Final = re.compile(
    r'gateway_auth_decisions_total{(?=[^}]*outcome="allowed")(?=[^}]*signal="logs").*} [^0]'
)


async def test_each_refusal_through_envoy_is_the_gateways_own(tmp_path: Path) -> None:
    async with running_fronts(tmp_path, ENTRIES) as fronts:
        for reason, fields in CASES.items():
            for way in WAYS:
                own = told(await send(fronts.gateway.port, way, fields))
                through = told(await send(fronts.envoy.port, way, fields))
                assert through == own, (reason, way)
                assert reason in str(own["details"]), own
        assert not fronts.sink.requests


@pytest.mark.parametrize("path", ["/elsewhere", "/opentelemetry.proto.collector.X/Export"])
async def test_unknown_paths_and_methods_are_refused_alike(tmp_path: Path, path: str) -> None:
    async with running_fronts(tmp_path, ENTRIES) as fronts:
        for way in WAYS:
            own = told(await send(fronts.gateway.port, way, RIGHT, path))
            assert told(await send(fronts.envoy.port, way, RIGHT, path)) == own, way


async def test_what_cannot_be_told_now_is_retryable_in_every_way(tmp_path: Path) -> None:
    async with running_center(tmp_path / "center") as center:
        keys = {
            "stores": [*_file(tmp_path), f"gateway+grpc://{center.address}"],
            "feed": {"token": TOKEN},
        }
        async with running_fronts(tmp_path, ENTRIES, keys=keys) as fronts:
            await center.grpc.close()
            while "UNDECIDED" not in str(
                told(await send(fronts.gateway.port, "grpc", key_fields("nobody-knows-it")))
            ):
                await asyncio.sleep(0.05)
            await _check_undecided(fronts)


async def _check_undecided(fronts: Fronts) -> None:
    for way in WAYS:
        own = told(await send(fronts.gateway.port, way, key_fields("nobody-knows-it")))
        through = told(await send(fronts.envoy.port, way, key_fields("nobody-knows-it")))
        assert through == own, way
        assert own["status"] == (200 if way == "grpc" else 503)
        assert "UNDECIDED" in str(own["details"])


def _file(folder: Path) -> list[str]:
    return [f"file://{folder / 'keys.yaml'}"]


async def test_an_allowed_request_arrives_with_whose_key_it_is(tmp_path: Path) -> None:
    async with running_fronts(tmp_path, ENTRIES) as fronts:
        forged = (("x-gateway-key-id", "1"), ("x_gateway_key_name", "root"), ("x-scope-orgid", "a"))
        for way in WAYS:
            response = await send(fronts.envoy.port, way, RIGHT + forged)
            assert response.status == 200
            request = fronts.sink.requests[-1]
            assert request.body == MESSAGE
            assert request.field("x-gateway-key-id") == "7"
            assert request.field("x-gateway-key-name") == "agent %C3%A9"
            assert request.field("authorization") == f"StackState {KEY}"
            assert request.field("x_gateway_key_name") is None
            assert request.field("x-scope-orgid") is None
        _, metrics = await fronts.gateway.get("/metrics")
        counted = [line for line in metrics.splitlines() if ALLOWED.match(line)]
        assert sorted(line.rpartition(" ")[2] for line in counted) == ["1.0", "4.0"], counted


async def test_the_backend_gets_the_key_that_forward_key_says(tmp_path: Path) -> None:
    forward = {"key": "gateway", "gateway_key": "backends-own"}
    async with running_fronts(tmp_path, ENTRIES, forward=forward) as fronts:
        for way in WAYS:
            fields = (("sts-api-key", KEY),)
            assert (await send(fronts.envoy.port, way, fields)).status == 200
            request = fronts.sink.requests[-1]
            assert request.field("authorization") == "StackState backends-own"
            assert request.field("sts-api-key") is None


async def test_tokens_of_an_identity_provider_are_decided_on_alike(tmp_path: Path) -> None:
    async with ScriptedIssuer() as issuer:
        keys = {
            "stores": [*_file(tmp_path), f"jwt+{issuer.url}"],
            "jwt": {"audience": AUDIENCE, "map": {"signals": "$.scope"}},
        }
        async with running_fronts(tmp_path, ENTRIES, keys=keys) as fronts:
            await fronts.gateway.program.wait_line("the key store is up to date.*http")
            good = issuer.token(client_id="agent", scope="logs")
            cases = {
                "accepted": good,
                "SIGNAL_NOT_ALLOWED": issuer.token(client_id="agent", scope="traces"),
                "TOKEN_EXPIRED": issuer.token(client_id="agent", scope="logs", exp=1_000_000_000),
                "TOKEN_MALFORMED": good.replace(".", "!"),
                "TOKEN_AUDIENCE": issuer.token(client_id="agent", scope="logs", aud="other"),
            }
            for reason, token in cases.items():
                fields = (("authorization", f"Bearer {token}"),)
                for way in WAYS:
                    own = await send(fronts.gateway.port, way, fields)
                    through = await send(fronts.envoy.port, way, fields)
                    assert told(through) == told(own), (reason, way)
                    assert _is_accepted(through) or reason in str(told(own)["details"])
                    assert _is_accepted(through) == (reason == "accepted")
            ids = {each.field("x-gateway-key-id") for each in fronts.sink.requests}
            assert len(ids - {None}) == 1


async def test_while_the_gateway_is_away_envoy_has_senders_try_again(tmp_path: Path) -> None:
    async with running_fronts(tmp_path, ENTRIES) as fronts:
        assert (await send(fronts.envoy.port, "grpc", RIGHT)).grpc_status == 0
        await fronts.gateway.program.stop()
        for way in WAYS:
            response = await send(fronts.envoy.port, way, RIGHT)
            if way == "grpc":
                assert response.grpc_status == 14
            else:
                assert response.status == 503


async def test_while_the_gateway_restarts_no_sender_drops_its_data(tmp_path: Path) -> None:
    async with running_fronts(tmp_path, ENTRIES) as fronts:
        told_by: list[Response] = []
        is_over = asyncio.Event()

        async def keep_sending() -> None:
            while not is_over.is_set():
                told_by.append(await send(fronts.envoy.port, "json-h1", RIGHT))

        sending = asyncio.create_task(keep_sending())
        assert await fronts.gateway.program.stop() == 0
        while not told_by or told_by[-1].status == 200:
            await asyncio.sleep(0.01)
        command: list[str | Path] = [COMMAND, "serve", "--config", fronts.gateway.config_file]
        async with running(command, cwd=tmp_path) as program:
            while told_by[-1].status != 200:
                assert not program.is_over, program.output
                await asyncio.sleep(0.01)
            is_over.set()
            await sending
            assert await program.stop() == 0
        assert {each.status for each in told_by} == {200, 503}


async def test_with_a_second_gateway_decisions_go_on_without_the_first(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    (tmp_path / "second").mkdir()
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump(ENTRIES))
    tree = {"keys": {"stores": [f"file://{keys}"]}, "admin": {"grpc_address": f"127.0.0.1:{port}"}}
    async with (
        running_gateway(tmp_path / "second", tree),
        running_fronts(tmp_path, ENTRIES, grpc_ports=[port]) as fronts,
    ):
        is_stopped = asyncio.Event()

        async def keep_sending(way: str) -> list[Response]:
            """Send until the gateway is stopped, and then until a request is accepted."""
            answers: list[Response] = []
            while not is_stopped.is_set() or not _is_accepted(answers[-1]):
                answers.append(await send(fronts.envoy.port, way, RIGHT))
            return answers

        sending = [asyncio.create_task(keep_sending(way)) for way in ("grpc", "json-h1")]
        while len(fronts.sink.requests) < 20:
            await asyncio.sleep(0.01)
        assert await fronts.gateway.program.stop() == 0
        is_stopped.set()
        for answers in await asyncio.gather(*sending):
            assert all(_is_accepted(each) or _is_retryable(each) for each in answers)


def _is_accepted(response: Response) -> bool:
    return response.status == 200 and response.grpc_status in {None, 0}


def _is_retryable(response: Response) -> bool:
    return response.status == 503 or response.grpc_status == 14
