"""A gateway that accepts tokens of an identity provider: one that rotates, errs, and goes away."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.certs import Authority
from tests.support.clients import Http2Client, Response, http1_request
from tests.support.exchange import GRPC, JSON, GrpcMessage
from tests.support.issuer import AUDIENCE, ScriptedIssuer, SigningKey, unsigned
from tests.support.polling import until
from tests.support.process import KEY, Gateway, merge, running_gateway
from tests.support.sink import RawSink

MESSAGE: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()
GRPC_PATH: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
ACCEPTED, DENIED, AGAIN = 200, 401, 503


class Setting:
    """A gateway, the issuers whose tokens it accepts, and the backend behind it."""

    def __init__(self, gateway: Gateway, sink: RawSink) -> None:
        self.gateway = gateway
        self.sink = sink

    async def send(
        self,
        token: str,
        path: str = "/v1/traces",
        scheme: str = "Bearer",
        forged: tuple[tuple[str, str], ...] = (),
    ) -> Response:
        """Send one request over HTTP/1.1, on a connection of its own."""
        fields = (
            *forged,
            ("Content-Type", JSON),
            ("Authorization", f"{scheme} {token}"),
            ("Content-Length", "2"),
        )
        return await http1_request(self.gateway.port, path, fields, b"{}")

    async def send_grpc(self, token: str) -> Response:
        """Send one request over gRPC."""
        fields = (("content-type", GRPC), ("te", "trailers"), ("authorization", f"Bearer {token}"))
        async with Http2Client(self.gateway.port) as client:
            return await client.request(GRPC_PATH, fields, MESSAGE)

    async def status(self, token: str) -> int:
        return (await self.send(token)).status

    async def statuses(self, *tokens: str) -> Counter[int]:
        """Send all at once, so that every worker gets some."""
        return Counter(await asyncio.gather(*map(self.status, tokens)))

    async def reason(self, token: str) -> str:
        """Return why a token is refused, the same over gRPC and HTTP, once that can be told."""
        async with asyncio.timeout(30):
            while (response := await self.send(token)).status == AGAIN:
                await asyncio.sleep(0.05)
        grpc = await self.send_grpc(token)
        error = json.loads(response.body)
        assert grpc.grpc_message == error["message"]
        return str(error["details"][0]["reason"])

    async def metric(self, name: str, **labels: str) -> float:
        """Sum the series of a metric that have these labels."""
        _, text = await self.gateway.get("/metrics")
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith((f"{name}{{", f"{name} ")) and all(each in line for each in wanted)
        )

    async def stores(self) -> list[dict[str, Any]]:
        _, text = await self.gateway.get("/readyz")
        return list(json.loads(text)["stores"])

    async def until_up(self, *, up: bool = True) -> None:
        async with asyncio.timeout(30):
            while any(store["up"] is not up for store in await self.stores()):
                await asyncio.sleep(0.05)


@asynccontextmanager
async def serving(
    folder: Path,
    *issuers: ScriptedIssuer,
    jwt: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> AsyncIterator[Setting]:
    async with RawSink() as sink:
        tree = {
            "backends": {
                "otlp_http": {"urls": [sink.http_url]},
                "otlp_grpc": {"urls": [sink.grpc_url]},
            },
            "keys": {
                "stores": [f"jwt+{issuer.url}" for issuer in issuers],
                "jwt": {"audience": AUDIENCE, "timeout": "2s", **(jwt or {})},
            },
        }
        async with running_gateway(folder, merge(tree, more or {})) as gateway:
            yield Setting(gateway, sink)


async def test_a_token_is_accepted_over_grpc_and_http_and_checked_once(tmp_path: Path) -> None:
    async with ScriptedIssuer() as issuer, serving(tmp_path, issuer) as setting:
        token = issuer.token()
        assert await setting.statuses(*[token] * 24) == {ACCEPTED: 24}
        assert (await setting.send_grpc(token)).grpc_status == 0
        assert await setting.metric("gateway_jwt_checks_total", result="allowed") == 1
        assert await setting.metric("gateway_jwt_tokens", kind="positive") == 1
        assert await setting.metric("gateway_jwt_key_fetches_total", result="ok") >= 1
        assert issuer.key_fetches == await setting.metric("gateway_jwt_key_fetches_total")
        assert await setting.metric("gateway_key_store_up", store="jwt") == 1
        assert setting.sink.requests[0].field("authorization") == f"Bearer {token}"
        assert (await setting.send(KEY, scheme="StackState")).status == ACCEPTED
        assert (await setting.send("unknown", scheme="StackState")).status == DENIED


async def test_every_kind_of_token_that_is_refused_has_its_reason(tmp_path: Path) -> None:
    keys = [SigningKey.make("rsa", "RS256"), SigningKey.make("ed", "EdDSA"), SigningKey.make("k1")]
    async with ScriptedIssuer(keys) as issuer, serving(tmp_path, issuer) as setting:
        now = int(time.time())
        for key in keys:
            assert await setting.status(key.sign(issuer.claims())) == ACCEPTED
        claims = issuer.claims()
        cases = {
            "TOKEN_EXPIRED": issuer.token(exp=now - 60),
            "TOKEN_NOT_YET_VALID": issuer.token(nbf=now + 600),
            "TOKEN_AUDIENCE": issuer.token(aud="another"),
            "TOKEN_ISSUER": issuer.token(iss="https://canary-7d1f.example"),
            "TOKEN_CLAIMS": issuer.token(exp=None),
            "TOKEN_ALGORITHM": unsigned({"alg": "none", "kid": "k1"}, claims),
            "TOKEN_EXTENSION": keys[2].sign(claims, crit=["canary-7d1f"]),
            "TOKEN_MALFORMED": "canary-7d1f",
            "TOKEN_ENCRYPTED": "canary-7d1f.a.b.c.d",
            "TOKEN_TOO_LONG": unsigned({"alg": "ES256"}, {"x": "canary-7d1f" * 800}),
            "TOKEN_SIGNATURE": SigningKey.make("k1").sign(claims),
            "TOKEN_KEY": SigningKey.make("canary-7d1f").sign(claims),
        }
        for reason, token in cases.items():
            assert await setting.reason(token) == reason
        for key in keys:
            assert await setting.reason(key.confuse(claims)) == "TOKEN_ALGORITHM"
        wrong_kind = keys[0].sign(claims, "PS256")
        assert await setting.reason(wrong_kind) == "TOKEN_ALGORITHM"
        assert len(setting.sink.requests) == len(keys)
        output = setting.gateway.program.output
        assert "canary-7d1f" not in output
        assert not [token for token in cases.values() if token[:40] in output]
        outcomes = ("token_malformed", "token_invalid", "key_expired")
        found = [
            await setting.metric("gateway_auth_decisions_total", outcome=each) for each in outcomes
        ]
        assert all(found)


async def test_a_rotated_key_is_fetched_when_a_token_needs_it_and_a_withdrawn_one_is_forgotten(
    tmp_path: Path,
) -> None:
    async with (
        ScriptedIssuer() as issuer,
        serving(tmp_path, issuer, jwt={"refresh": "5s"}) as setting,
    ):
        old, first = issuer.keys[0], issuer.token()
        assert await setting.status(first) == ACCEPTED
        issuer.keys.append(SigningKey.make("k2", "EdDSA"))
        await _until_accepted(setting, issuer.token(sub="agent-us"))
        assert await setting.status(first) == ACCEPTED
        issuer.keys.remove(old)
        async with asyncio.timeout(60):
            while (status := await setting.status(first)) != DENIED:
                assert status in {ACCEPTED, AGAIN}
                await asyncio.sleep(0.1)
        assert await setting.reason(first) == "TOKEN_KEY"
        assert await setting.statuses(*[first] * 8) == {DENIED: 8}


async def test_a_new_key_under_the_name_of_an_old_one_never_makes_a_good_token_a_no(
    tmp_path: Path,
) -> None:
    async with (
        ScriptedIssuer([SigningKey.make(None)]) as issuer,
        serving(tmp_path, issuer) as setting,
    ):
        assert await setting.status(issuer.token()) == ACCEPTED
        issuer.keys[0] = SigningKey.make(None)
        await _until_accepted(setting, issuer.token())


async def _until_accepted(setting: Setting, token: str) -> None:
    """Send until the token is accepted: before, nobody can tell, and nobody says no."""
    async with asyncio.timeout(30):
        while (status := await setting.status(token)) != ACCEPTED:
            assert status == AGAIN
            await asyncio.sleep(0.05)


async def test_while_the_issuer_is_away_known_keys_check_and_unknown_ones_are_undecided(
    tmp_path: Path,
) -> None:
    async with ScriptedIssuer() as issuer:
        async with serving(tmp_path, issuer, jwt={"refresh": "5s"}) as setting:
            assert await setting.status(issuer.token()) == ACCEPTED
            await issuer.stop()
            assert await setting.status(issuer.token(sub="never-seen")) == ACCEPTED
            issuer.keys.append(SigningKey.make("k2"))
            for _ in range(3):
                assert await setting.statuses(*[issuer.token(jti=str(_))] * 4) == {AGAIN: 4}
            refused = await setting.send(issuer.token())
            assert refused.field("retry-after") == "2"
            await setting.until_up(up=False)
            (store,) = await setting.stores()
            assert store["store"] == "jwt"
            assert "cannot get" in store["error"]
            file = tmp_path / "state" / "jwt.keys"
            assert file.stat().st_mode & 0o777 == 0o600
        async with serving(tmp_path, issuer) as setting:  # a restart while it is away
            known = issuer.keys[0]
            assert await setting.status(known.sign(issuer.claims())) == ACCEPTED
            assert await setting.status(issuer.token()) == AGAIN
            async with issuer:
                await _until_accepted(setting, issuer.token())
                await setting.until_up()
        await issuer.stop()
        file.write_bytes(b"damaged")
        async with serving(tmp_path, issuer) as setting:
            assert await setting.status(known.sign(issuer.claims())) == AGAIN
            assert "cannot read the saved keys" in setting.gateway.program.output


@pytest.mark.parametrize(
    "trick, word, result",
    [
        ({"trick": "hang"}, "did not answer", "timeout"),
        ({"body": b"canary-\x1b[2J"}, "no JSON", "unexpected"),
    ],
    ids=["silence", "garbage"],
)
async def test_an_issuer_that_answers_wrongly_decides_nothing_and_is_asked_again(
    tmp_path: Path, trick: dict[str, Any], word: str, result: str
) -> None:
    async with ScriptedIssuer() as issuer:
        for name, value in trick.items():
            setattr(issuer, name, value)
        async with serving(tmp_path, issuer, jwt={"timeout": "1s"}) as setting:
            assert await setting.statuses(*[issuer.token()] * 4) == {AGAIN: 4}
            await until(lambda: word in setting.gateway.program.output)
            assert await setting.metric("gateway_jwt_key_fetches_total", result=result) >= 1
            assert "canary" not in setting.gateway.program.output
            issuer.trick, issuer.body = "", None
            await _until_accepted(setting, issuer.token())


async def test_several_issuers_have_their_own_rules_and_one_that_is_away_stops_no_other(
    tmp_path: Path,
) -> None:
    async with (
        ScriptedIssuer() as one,
        ScriptedIssuer([SigningKey.make("k1", "RS256")], path="/realms/two/") as two,
        ScriptedIssuer(trick="hang") as away,
    ):
        own = {
            "url": two.url,
            "jwks_uri": f"http://127.0.0.1:{two.port}/keys",
            "audience": ["for-two"],
            "algorithms": ["RS256"],
            "map": {"name": "$.team['name']", "signals": "$.scope"},
        }
        forward = {"forward": {"identity_headers": True}}
        async with serving(
            tmp_path, one, two, away, jwt={"issuers": [own]}, more=forward
        ) as setting:
            assert await setting.status(one.token()) == ACCEPTED
            claims = {"aud": "for-two", "team": {"name": "Küche"}, "scope": "openid traces"}
            assert await setting.status(two.token(**claims)) == ACCEPTED
            assert setting.sink.requests[-1].field("x-gateway-key-name") == "K%C3%BCche"
            key_id = setting.sink.requests[-1].field("x-gateway-key-id") or ""
            assert key_id.startswith("jwt:")
            assert (await setting.send(two.token(**claims), "/v1/logs")).status == 403
            assert await setting.reason(two.token()) == "TOKEN_AUDIENCE"
            assert await setting.reason(one.token(aud="for-two")) == "TOKEN_AUDIENCE"
            assert await setting.reason(two.token(aud="for-two")) == "TOKEN_CLAIMS"
            assert await setting.reason(two.keys[0].sign(one.claims())) == "TOKEN_KEY"
            assert await setting.reason(one.keys[0].sign(two.claims())) == "TOKEN_ALGORITHM"
            assert await setting.status(away.token()) == AGAIN
            assert "/realms/two/.well-known/openid-configuration" not in two.asked


async def test_limits_of_a_token_hold_for_its_sender_whatever_tokens_it_has(tmp_path: Path) -> None:
    jwt = {"map": {"limits": {"requests": "$.rate"}}}
    async with ScriptedIssuer() as issuer, serving(tmp_path, issuer, jwt=jwt) as setting:
        tokens = [issuer.token(rate=1, jti=str(number)) for number in range(12)]
        seen = await setting.statuses(*tokens)
        assert seen[ACCEPTED]
        assert seen[429] >= 6
        assert await setting.status(issuer.token(sub="agent-us")) == ACCEPTED


async def test_claims_say_whose_data_it_is_and_nobody_else_can(tmp_path: Path) -> None:
    claims = {"owner": "$.team", "labels": {"team": "$.team"}, "headers": {"X-Org": "$.org"}}
    more = {"metrics": {"tenant_label": "team"}}
    async with (
        ScriptedIssuer() as issuer,
        RawSink() as other,
        serving(
            tmp_path,
            issuer,
            jwt={"map": claims},
            more={
                **more,
                "workers": 1,
                "backends": {
                    "routes": [{"label": {"team": "b"}, "otlp_http": {"urls": [other.http_url]}}]
                },
            },
        ) as setting,
    ):
        ours, theirs = issuer.token(team="a", org="o-1"), issuer.token(sub="b", team="b", org="o-2")
        await _until_accepted(setting, issuer.token(sub="first"))
        setting.sink.requests.clear()
        # The first request waits for control, the later ones find the verdict in the worker.
        for _ in range(3):
            assert (await setting.send(ours, forged=(("X_Org", "forged"),))).status == ACCEPTED
            assert (await setting.send(theirs)).status == ACCEPTED
        key = await setting.send(KEY, scheme="StackState", forged=(("x-org", "o-1"),))
        assert key.status == ACCEPTED
        wrong = issuer.token(sub="c", org="o-3\x1b[2J")
        assert await setting.reason(wrong) == "TOKEN_CLAIMS"
        sent = [request.field("x-org") for request in setting.sink.requests]
        assert sent == ["o-1"] * 3 + [None]
        assert [request.field("x-org") for request in other.requests] == ["o-2"] * 3
        assert all(request.field("x_org") is None for request in setting.sink.requests)
        async with asyncio.timeout(30):
            while await setting.metric("gateway_tenant_requests_total", tenant="b") < 3:
                await asyncio.sleep(0.05)
        assert "[2J" not in setting.gateway.program.output


async def test_the_agents_intake_and_other_schemes_take_no_tokens(tmp_path: Path) -> None:
    async with ScriptedIssuer() as issuer, RawSink() as agents:
        async with serving(tmp_path, issuer) as setting:
            token = issuer.token()
            assert await setting.status(token) == ACCEPTED
            assert (await setting.send(token, scheme="StackState")).status == DENIED
        intake = {"backends": {"intake": {"urls": [agents.http_url]}}}
        async with serving(tmp_path, issuer, more=intake) as setting:
            refused = await setting.send(token, "/receiver/stsAgent/intake/")
            assert refused.status == 403
            refused = await setting.send("no-token", "/receiver/stsAgent/intake/")
            assert (refused.status, b"sts-api-key" in refused.body) == (401, True)
            assert not agents.requests


async def test_a_token_beside_a_key_is_a_conflict(tmp_path: Path) -> None:
    async with ScriptedIssuer() as issuer, serving(tmp_path, issuer) as setting:
        fields = (
            ("Content-Type", JSON),
            ("Authorization", f"Bearer {issuer.token()}"),
            ("sts-api-key", KEY),
            ("Content-Length", "2"),
        )
        response = await http1_request(setting.gateway.port, "/v1/traces", fields, b"{}")
        assert response.status == DENIED
        assert b"KEY_CONFLICT" in response.body


async def test_made_up_tokens_are_checked_at_the_configured_rate_at_most(tmp_path: Path) -> None:
    async with (
        ScriptedIssuer() as issuer,
        serving(tmp_path, issuer, jwt={"unknown_rate": "1/s"}) as setting,
    ):
        await setting.until_up()
        seen: Counter[int] = Counter()
        for number in range(5):
            seen += await setting.statuses(
                *(issuer.token(aud="x", jti=f"{number}.{n}") for n in range(20))
            )
        assert seen[AGAIN] > 50
        assert set(seen) == {DENIED, AGAIN}
        checks = await setting.metric("gateway_jwt_checks_total", result="denied")
        assert checks == seen[DENIED]
        assert issuer.key_fetches == 1


async def test_a_token_ends_when_it_expires_on_an_open_connection_too(tmp_path: Path) -> None:
    async with (
        ScriptedIssuer() as issuer,
        serving(tmp_path, issuer, jwt={"clock_skew": "0s"}) as setting,
    ):
        token = issuer.token(exp=int(time.time()) + 4)
        fields = (("content-type", GRPC), ("te", "trailers"), ("authorization", f"Bearer {token}"))
        async with Http2Client(setting.gateway.port) as client, asyncio.timeout(30):
            first = await client.request(GRPC_PATH, fields, MESSAGE)
            assert first.grpc_status == 0
            while (response := await client.request(GRPC_PATH, fields, MESSAGE)).grpc_status == 0:
                await asyncio.sleep(0.05)
            assert response.grpc_status == 16
            assert "expired" in response.grpc_message


async def test_new_workers_check_no_token_anew(tmp_path: Path) -> None:
    async with ScriptedIssuer() as issuer, serving(tmp_path, issuer) as setting:
        token = issuer.token()
        assert await setting.status(token) == ACCEPTED
        setting.gateway.program.process.send_signal(signal.SIGHUP)
        await until(lambda: "the configuration was reloaded" in setting.gateway.program.output)
        assert await setting.statuses(*[token] * 8) == {ACCEPTED: 8}
        assert await setting.metric("gateway_jwt_checks_total", result="allowed") == 1


async def test_an_issuers_certificate_is_checked_by_the_configured_ca(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    tls = authority.issue("issuer", ["localhost"]).server_context()
    async with ScriptedIssuer(tls=tls) as issuer:
        jwt = {"tls": {"ca_file": str(authority.cert_file)}}
        async with serving(tmp_path, issuer, jwt=jwt) as setting:
            assert issuer.url.startswith("https://")
            assert await setting.status(issuer.token()) == ACCEPTED
        (tmp_path / "state" / "jwt.keys").unlink()
        async with serving(tmp_path, issuer) as setting:
            assert await setting.status(issuer.token()) == AGAIN
            await until(lambda: "Certificate" in setting.gateway.program.output)
