"""What is said of tokens, and for how long."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.keys.jwt.verdicts import MAX_S, UNDECIDED, TokenLimits, TokenVerdict, TokenVerdicts
from gateway.model import digest_of
from tests.support.issuer import ScriptedIssuer, SigningKey
from tests.unit.keys.jwt.test_issuer import Clock, Watched


class Counted:
    """What the cache has told."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def hit(self, kind: str) -> None:
        self.counts["hit", kind] += 1

    def miss(self, kind: str) -> None:
        self.counts["miss", kind] += 1

    def coalesced(self, kind: str) -> None:
        self.counts["coalesced", kind] += 1


class Setting:
    """Verdicts on the tokens of one issuer."""

    def __init__(self, server: ScriptedIssuer, limits: TokenLimits) -> None:
        self.server = server
        self.watched = Watched(server)
        self.clock = self.watched.clock
        self.wall = Clock()
        self.wall.now = time.time()
        self.counted = Counted()
        self.forgotten: list[bytes] = []
        self.verdicts = TokenVerdicts(
            [self.watched.issuer],
            limits,
            self.counted,
            self.forgotten.extend,
            self.clock,
            self.wall,
        )

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.wall.now += seconds

    async def ask(self, token: str) -> TokenVerdict:
        found = self.verdicts.look_up(digest_of(token.encode()), token)
        return found if isinstance(found, TokenVerdict) else await found

    async def said(self, token: str) -> str:
        verdict = await self.ask(token)
        return "yes" if verdict.principal else verdict.refusal or "cannot tell"

    async def use_new_keys(self) -> None:
        await self.watched.issuer.refresh()
        self.verdicts.keys_changed(self.watched.issuer)


@asynccontextmanager
async def setting(**limits: Any) -> AsyncIterator[Setting]:
    sizes = {"size": 100, "negative_size": 100, "negative_ttl_s": 30.0, "rate": 0.0, **limits}
    async with ScriptedIssuer() as server:
        each = Setting(server, TokenLimits(**sizes))
        await each.watched.issuer.refresh()
        try:
            yield each
        finally:
            await each.verdicts.close()
            await each.watched.issuer.close()


async def test_a_verdict_is_remembered_until_the_token_expires() -> None:
    async with setting() as each:
        token = each.server.token(exp=int(each.wall.now) + 600)
        first = await each.ask(token)
        assert not first.is_cached
        assert 629 < first.fresh_s <= 630
        each.pass_time(600)
        again = await each.ask(token)
        assert again.is_cached
        assert 29 < again.fresh_s <= 30
        assert again.principal == first.principal
        each.pass_time(31)
        assert await each.said(token) == "TOKEN_EXPIRED"


async def test_a_token_that_is_valid_for_long_is_checked_anew_every_hour() -> None:
    async with setting() as each:
        token = each.server.token(exp=int(each.wall.now) + 10**6)
        assert (await each.ask(token)).fresh_s == MAX_S
        each.pass_time(MAX_S + 1)
        assert not (await each.ask(token)).is_cached


async def test_a_token_that_is_not_valid_yet_is_no_longer_refused_when_it_is() -> None:
    async with setting() as each:
        token = each.server.token(nbf=int(each.wall.now) + 40)
        assert await each.said(token) == "TOKEN_NOT_YET_VALID"
        each.pass_time(5)
        assert (await each.ask(token)).is_cached
        each.pass_time(6)
        assert await each.said(token) == "yes"


async def test_when_a_key_is_withdrawn_its_tokens_are_forgotten_and_others_are_not() -> None:
    async with setting() as each:
        old = each.server.token(sub="old")
        each.server.keys.append(SigningKey.make("k2"))
        await each.use_new_keys()
        new = each.server.token(sub="new")
        assert [await each.said(token) for token in (old, new)] == ["yes", "yes"]
        del each.server.keys[0]
        await each.use_new_keys()
        assert each.forgotten == [digest_of(old.encode())]
        assert (await each.ask(new)).is_cached
        each.pass_time(10)
        assert await each.said(old) == "TOKEN_KEY"


async def test_a_key_that_appears_after_all_ends_the_refusal_at_once() -> None:
    async with setting() as each:
        key = SigningKey.make("late")
        token = key.sign(each.server.claims())
        each.pass_time(10)
        assert await each.said(token) == "TOKEN_KEY"
        each.server.keys.append(key)
        await each.use_new_keys()
        assert each.forgotten == [digest_of(token.encode())]
        assert await each.said(token) == "yes"


async def test_an_undecided_token_is_not_remembered() -> None:
    async with setting() as each:
        token = SigningKey.make("k2").sign(each.server.claims())
        assert await each.ask(token) == UNDECIDED
        assert each.verdicts.entries() == {"positive": 0, "negative": 0}


async def test_questions_about_one_token_are_one_check() -> None:
    async with setting() as each:
        each.pass_time(10)
        token = SigningKey.make("k2").sign(each.server.claims())
        said = await asyncio.gather(*(each.said(token) for _ in range(5)))
        assert said == ["TOKEN_KEY"] * 5
        assert each.counted.counts["coalesced", "negative"] == 4
        assert each.counted.counts["miss", "positive"] == 1


async def test_beyond_the_rate_tokens_are_undecided_and_remembered_ones_are_not() -> None:
    async with setting(rate=3.0) as each:
        known = each.server.token(sub="known")
        assert await each.said(known) == "yes"
        tokens = [each.server.token(sub=str(number)) for number in range(4)]
        said = [await each.said(token) for token in tokens]
        assert said == ["yes", "yes", "cannot tell", "cannot tell"]
        assert await each.said(known) == "yes"
        each.pass_time(1)
        assert await each.said(tokens[-1]) == "yes"


async def test_both_caches_are_bounded() -> None:
    async with setting(size=5, negative_size=5) as each:
        for number in range(20):
            await each.ask(each.server.token(sub=str(number)))
            await each.ask(f"no-token-{number}")
        assert each.verdicts.entries() == {"positive": 5, "negative": 5}
