"""An issuer's keys: fetched over a real connection, kept, missed, and fetched again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from gateway.keys.jwt.issuer import AGAIN_S, CannotTellError, Issuer
from gateway.keys.jwt.issuer_client import (
    MAX_BYTES,
    FetchResult,
    IssuerClient,
    IssuerError,
    IssuerOptions,
)
from gateway.keys.jwt.token import Fault, IssuerRules, Token, TokenError, read_token
from gateway.model import digest_of
from tests.support.issuer import AUDIENCE, DISCOVERY, KEYS, ScriptedIssuer, SigningKey
from tests.support.polling import until

ALGORITHMS: Final = frozenset({"ES256", "EdDSA"})


class Clock:
    """Monotonic seconds, moved by the test."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """An issuer under test, and what it has told."""

    def __init__(self, server: ScriptedIssuer, max_stale_s: float = 3_600.0) -> None:
        self.server = server
        self.clock = Clock()
        self.fetches: list[IssuerError | None] = []
        self.changes = 0
        self.issuer = Issuer(
            IssuerRules(server.url, frozenset({AUDIENCE}), ALGORITHMS),
            IssuerClient(IssuerOptions(server.url)),
            refresh_s=300.0,
            max_stale_s=max_stale_s,
            on_fetch=lambda _, error: self.fetches.append(error),
            on_keys=self._changed,
            clock=self.clock,
        )

    def _changed(self) -> None:
        self.changes += 1

    async def find(self, text: str) -> str:
        """Return whether a key has signed a token: `yes`, a fault, or `cannot tell`."""
        token: Token = read_token(text)
        if self.issuer.signer_of(token) is not None:
            return "yes"
        try:
            await self.issuer.find_signer(token, digest_of(text.encode()))
        except TokenError as error:
            return error.fault
        except CannotTellError:
            return "cannot tell"
        return "yes"


@asynccontextmanager
async def watched(server: ScriptedIssuer, **more: Any) -> AsyncIterator[Watched]:
    each = Watched(server, **more)
    try:
        yield each
    finally:
        await each.issuer.close()


async def test_the_keys_are_found_by_discovery_and_caches_are_passed_by() -> None:
    async with ScriptedIssuer(path="/realms/one/") as server, watched(server) as each:
        await each.issuer.refresh()
        assert server.asked == [f"/realms/one{DISCOVERY}", KEYS]
        assert each.fetches == [None]
        assert each.changes == 1
        assert await each.find(server.token()) == "yes"
        await each.issuer.refresh()
        assert each.changes == 1


@pytest.mark.parametrize(
    "trick, word, result",
    [
        ({"trick": "hang"}, "did not answer", FetchResult.TIMEOUT),
        ({"trick": "close"}, "cannot get", FetchResult.UNREACHABLE),
        ({"status": 500}, "status 500", FetchResult.ERROR),
        ({"status": 302}, "status 302", FetchResult.UNEXPECTED),
        ({"status": 404}, "status 404", FetchResult.UNEXPECTED),
        ({"status": 204}, "status 204", FetchResult.UNEXPECTED),
        ({"content_type": "text/html"}, "Content-Type", FetchResult.UNEXPECTED),
        ({"content_type": "application/octet-stream"}, "Content-Type", FetchResult.UNEXPECTED),
        ({"body": b"canary-\x1b[2J"}, "no JSON", FetchResult.UNEXPECTED),
        ({"body": b'{"keys": []}'}, "can be used", FetchResult.UNEXPECTED),
        ({"body": b'{"keys": "canary"}'}, "no JSON", FetchResult.UNEXPECTED),
        ({"body": b'{"keys":[' + b" " * MAX_BYTES + b"]}"}, "more than", FetchResult.UNEXPECTED),
        ({"discovered": {"issuer": "https://canary"}}, "another issuer", FetchResult.UNEXPECTED),
        ({"discovered": {"jwks_uri": 7}}, "no JSON", FetchResult.UNEXPECTED),
        ({"discovered": {"jwks_uri": "file:///canary"}}, "no http", FetchResult.UNEXPECTED),
        ({"discovered": {"jwks_uri": "http://canary\x1b/"}}, "no http", FetchResult.UNEXPECTED),
        ({"discovered": {"jwks_uri": "http://[canary"}}, "no http", FetchResult.UNEXPECTED),
        ({"discovered": {"jwks_uri": "//canary"}}, "no http", FetchResult.UNEXPECTED),
    ],
    ids=range(18),
)
async def test_a_wrong_answer_is_an_error_that_repeats_nothing_of_it_and_keeps_the_keys(
    trick: dict[str, Any], word: str, result: FetchResult
) -> None:
    async with ScriptedIssuer() as server, watched(server) as each:
        await each.issuer.refresh()
        each.issuer.client.options = IssuerOptions(server.url, timeout_s=0.5)
        for name, value in trick.items():
            setattr(server, name, value)
        await each.issuer.refresh()
        error = each.fetches[-1]
        assert error is not None
        assert error.result is result
        assert word in str(error)
        assert "canary" not in str(error)
        assert str(error).isprintable()
        assert await each.find(server.token()) == "yes"


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/jwk-set+json"])
async def test_every_type_of_json_will_do(kind: str) -> None:
    async with ScriptedIssuer(content_type=kind) as server, watched(server) as each:
        await each.issuer.refresh()
        assert each.fetches == [None]


async def test_a_token_of_an_unknown_key_has_the_keys_fetched_once_and_is_then_a_no() -> None:
    async with ScriptedIssuer() as server, watched(server) as each:
        await each.issuer.refresh()
        stranger = SigningKey.make("unknown").sign(server.claims())
        each.clock.now += AGAIN_S
        answers = await asyncio.gather(*(each.find(stranger) for _ in range(20)))
        assert set(answers) == {Fault.KEY}
        assert server.key_fetches == 2


async def test_until_the_keys_may_be_fetched_again_nobody_can_tell() -> None:
    async with ScriptedIssuer() as server, watched(server) as each:
        await each.issuer.refresh()
        server.keys.append(SigningKey.make("k2"))
        tokens = [server.token(), SigningKey.make("k1").sign(server.claims())]
        each.clock.now += 0.1
        assert [await each.find(token) for token in tokens] == ["cannot tell"] * 2
        assert server.key_fetches == 1
        each.clock.now += AGAIN_S
        assert [await each.find(token) for token in tokens] == ["yes", Fault.SIGNATURE]
        assert server.key_fetches == 2


async def test_a_fetch_that_began_before_a_token_came_says_nothing_about_its_key() -> None:
    async with ScriptedIssuer() as server, watched(server) as each:
        server.trick = "hang"
        fetching = asyncio.create_task(each.issuer.refresh())
        await until(lambda: server.asked != [])
        each.clock.now += 1
        asking = asyncio.create_task(each.find(SigningKey.make("new").sign(server.claims())))
        server.trick = ""
        await server.stop()
        async with server:
            await fetching
            assert await asking == "cannot tell"


async def test_the_keys_outlive_the_issuer_up_to_the_bound_and_unknown_ones_are_undecided() -> None:
    async with ScriptedIssuer() as server, watched(server, max_stale_s=100.0) as each:
        await each.issuer.refresh()
        known, server.keys = server.token(), [SigningKey.make("k2")]
        await server.stop()
        each.clock.now += each.issuer.max_age_s - 1
        assert await each.find(known) == "yes"
        assert await each.find(server.token()) == "cannot tell"
        each.clock.now += 2
        assert await each.find(known) == "cannot tell"
        async with server:
            each.clock.now += AGAIN_S
            assert await each.find(server.token()) == "yes"
            assert await each.find(known) == Fault.KEY


async def test_keys_that_are_due_to_be_fetched_anew_are_not_stale_yet() -> None:
    async with ScriptedIssuer() as server, watched(server, max_stale_s=0.0) as each:
        await each.issuer.refresh()
        each.clock.now += 330.0
        assert await each.find(server.token()) == "yes"
        each.clock.now += 10.0
        await server.stop()
        assert await each.find(server.token()) == "cannot tell"


async def test_keys_of_the_last_run_are_used_and_damaged_ones_are_not() -> None:
    async with ScriptedIssuer() as server, watched(server, max_stale_s=100.0) as each:
        content = json.dumps({"keys": [server.keys[0].jwk()]}).encode()
        each.issuer.restore(b"damaged", 1.0)
        assert each.issuer.keys is None
        each.issuer.restore(content, each.issuer.max_age_s + 1)
        assert each.issuer.keys is None
        each.issuer.restore(content, each.issuer.max_age_s - 1)
        assert await each.find(server.token()) == "yes"
        assert server.asked == []


async def test_a_thousand_unknown_keys_have_the_keys_fetched_no_more_often() -> None:
    async with ScriptedIssuer() as server, watched(server) as each:
        await each.issuer.refresh()
        key = SigningKey.make("x")
        claims = server.claims()
        for number in range(1_500):
            assert await each.find(key.sign(claims, kid=str(number))) == "cannot tell"
        assert server.key_fetches == 1
        assert len(each.issuer._missed) <= 1_000
