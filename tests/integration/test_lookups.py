"""A worker whose keys a remote authority knows: the test is control and answers as it likes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from gateway import metrics
from gateway.channel import Forget, LookedUp, Lookup, Up
from gateway.model import BackendName, KeyState, Principal, Signal, digest_of
from gateway.settings import AuthoritySettings, ForwardSettings
from tests.support.clients import Http2Client, Response, http1_request
from tests.support.exchange import GRPC, Answer, Break, GrpcMessage
from tests.support.plane import KEY, RunningWorker, backend, entry, running_worker, sink_backends
from tests.support.polling import until
from tests.support.sink import RawSink

PATH: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
MESSAGE: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()
DIGEST: Final = digest_of(KEY.encode())
WHO: Final = Principal("authority:1", shared=True)
SETTINGS: Final = AuthoritySettings(cache_size=10, negative_cache_size=10, wait_s=6.0)
YES: Final = LookedUp(DIGEST, "allowed", WHO, "authority", 300.0, 200.0)
NO: Final = LookedUp(DIGEST, "denied", None, "authority", 30.0)


class Asked:
    """A worker, and what it has asked."""

    def __init__(self, gateway: RunningWorker, sink: RawSink) -> None:
        self.gateway = gateway
        self.sink = sink
        self.lookups: list[Lookup] = []
        self.is_reachable = True
        gateway.send_to(self._take)

    def _take(self, message: Up) -> bool:
        assert isinstance(message, Lookup)
        if self.is_reachable:
            self.lookups.append(message)
        return self.is_reachable

    def say(self, message: LookedUp | Forget) -> None:
        self.gateway.worker.take_verdict(message)

    async def until_asked(self, count: int) -> None:
        await until(lambda: len(self.lookups) >= count, f"{count} look-ups")
        assert len(self.lookups) == count

    async def export(
        self, key: str = KEY, body: bytes = MESSAGE, fields: tuple[tuple[str, str], ...] = ()
    ) -> Response:
        head = (("content-type", GRPC), ("authorization", f"StackState {key}"))
        async with Http2Client(self.gateway.port) as client:
            return await client.request(PATH, (*head, *fields), body)

    def begin(self, key: str = KEY, body: bytes = MESSAGE) -> asyncio.Task[Response]:
        return asyncio.create_task(self.export(key, body))

    def decisions(self) -> dict[tuple[str, str], float]:
        """Verdicts by outcome and source."""
        counted = self.gateway.counted(metrics.AUTH_DECISIONS)
        return {labels[2:4]: value for labels, value in counted.items()}  # type: ignore[misc]


@asynccontextmanager
async def asking(script: Any = None, **changes: Any) -> AsyncIterator[Asked]:
    """Run a worker before a sink; `changes` are `running_worker`'s."""
    async with RawSink(script) if script is not None else RawSink() as sink:
        chosen: dict[str, Any] = {"backends": sink_backends(sink), "authority": SETTINGS, **changes}
        async with running_worker(**chosen) as gateway:
            yield Asked(gateway, sink)


async def test_a_request_waits_for_its_verdict_and_later_ones_do_not() -> None:
    async with asking() as asked:
        first = asked.begin()
        await asked.until_asked(1)
        assert asked.lookups == [Lookup(DIGEST, KEY.encode(), "unknown")]
        assert not asked.sink.requests
        asked.say(YES)
        assert (await first).grpc_status == 0
        assert (await asked.export()).grpc_status == 0
        assert len(asked.lookups) == 1
        assert asked.decisions() == {("allowed", "authority"): 1, ("allowed", "cache"): 1}
        assert asked.gateway.count(metrics.KEY_CACHE_HITS, "positive") == 1


async def test_only_the_request_that_waits_is_held_up() -> None:
    async with asking(keys=[entry("known", "7")]) as asked:
        head = (("content-type", GRPC),)
        async with Http2Client(asked.gateway.port) as client:
            unknown = (*head, ("authorization", f"StackState {KEY}"))
            waiting = asyncio.create_task(client.request(PATH, unknown, MESSAGE))
            await asked.until_asked(1)
            known = (*head, ("authorization", "StackState known"))
            assert (await client.request(PATH, known, MESSAGE)).grpc_status == 0
            assert not waiting.done()
            asked.say(YES)
            assert (await waiting).grpc_status == 0


async def test_requests_with_one_key_share_one_question() -> None:
    async with asking() as asked:
        calls = [asked.begin() for _ in range(20)]
        await until(lambda: asked.gateway.context.counters.in_flight["grpc"] == 20)
        await asked.until_asked(1)
        asked.say(YES)
        assert {(await call).grpc_status for call in calls} == {0}
        assert asked.gateway.count(metrics.KEY_CACHE_COALESCED, "positive") == 19


async def test_a_body_longer_than_its_window_waits_and_arrives_whole() -> None:
    body = GrpcMessage(compressed=False, data=bytes(range(256)) * 2_000).to_bytes()
    async with asking() as asked:
        call = asked.begin(body=body)
        await asked.until_asked(1)
        await until(lambda: asked.gateway.context.budget.used >= 65_535)
        assert asked.gateway.context.budget.used <= 2 * 65_536
        asked.say(YES)
        assert (await call).grpc_status == 0
        assert asked.sink.requests[0].body == body


async def test_a_body_that_came_before_the_verdict_is_there_when_it_must_be_sent_again() -> None:
    answers = [Answer(breaks=Break("reset", code=7)), Answer()]
    async with asking(lambda _: answers.pop(0)) as asked:
        call = asked.begin()
        await asked.until_asked(1)
        await until(lambda: asked.gateway.context.budget.used >= len(MESSAGE))
        asked.say(YES)
        assert (await call).grpc_status == 0
        assert [request.body for request in asked.sink.requests] == [MESSAGE, MESSAGE]
        asked.sink.take_faults()


async def test_a_denied_key_is_refused_for_good_and_remembered() -> None:
    async with asking() as asked:
        call = asked.begin()
        await asked.until_asked(1)
        asked.say(NO)
        assert (await call).grpc_status == 16
        assert (await asked.export()).grpc_status == 16
        assert len(asked.lookups) == 1
        assert not asked.sink.requests
        assert asked.decisions() == {("key_unknown", "authority"): 1, ("key_unknown", "cache"): 1}


async def test_an_undecided_key_is_to_be_sent_again_and_is_not_remembered() -> None:
    async with asking() as asked:
        for count in (1, 2):
            call = asked.begin()
            await asked.until_asked(count)
            asked.say(LookedUp(DIGEST, "undecided", source="authority"))
            assert (await call).grpc_status == 14
        assert asked.decisions() == {("undecided", "authority"): 2}


async def test_a_key_is_undecided_while_control_does_not_answer_or_listen() -> None:
    async with asking(sweeping=False) as asked:
        call = asked.begin()
        await asked.until_asked(1)
        asked.gateway.sweep(in_s=SETTINGS.wait_s - 1)
        assert not call.done()
        asked.gateway.sweep(in_s=SETTINGS.wait_s + 1)
        assert (await call).grpc_status == 14
        asked.is_reachable = False
        assert (await asked.export()).grpc_status == 14


async def test_a_caller_that_went_away_is_forgotten_and_its_verdict_kept() -> None:
    async with asking() as asked:
        async with Http2Client(asked.gateway.port) as client:
            head = (("content-type", GRPC), ("authorization", f"StackState {KEY}"))
            stream = await client.start(PATH, head, MESSAGE)
            await asked.until_asked(1)
            client.reset(stream)
            await until(lambda: asked.gateway.context.counters.in_flight["grpc"] == 0)
        asked.say(YES)
        assert (await asked.export()).grpc_status == 0
        assert len(asked.lookups) == 1
        assert len(asked.sink.requests) == 1


async def test_verdicts_that_no_longer_hold_are_forgotten() -> None:
    async with asking() as asked:
        asked.say(YES)
        assert (await asked.export()).grpc_status == 0
        asked.say(Forget([DIGEST]))
        call = asked.begin()
        await asked.until_asked(1)
        asked.say(NO)
        assert (await call).grpc_status == 16


async def test_a_verdict_in_use_is_asked_for_again_in_the_background() -> None:
    async with asking() as asked:
        asked.say(LookedUp(DIGEST, "allowed", WHO, "authority", 300.0, 0.000_001))
        assert (await asked.export()).grpc_status == 0
        assert (await asked.export()).grpc_status == 0
        assert asked.lookups == [Lookup(DIGEST, KEY.encode(), "refresh")]


async def test_a_stale_verdict_is_counted_as_such() -> None:
    async with asking() as asked:
        asked.say(LookedUp(DIGEST, "allowed", WHO, "stale", 300.0, 200.0))
        assert (await asked.export()).grpc_status == 0
        assert asked.decisions() == {("allowed", "stale"): 1}
        assert asked.gateway.count(metrics.KEY_CACHE_STALE, "positive") == 1


async def test_a_backend_s_refusal_of_an_authority_s_key_is_relayed_and_the_key_asked_for() -> None:
    async with asking(lambda _: Answer(grpc_status=16)) as asked:
        asked.say(YES)
        assert (await asked.export()).grpc_status == 16
        assert asked.lookups == [Lookup(DIGEST, KEY.encode(), "doubt")]
        asked.say(NO)
        assert (await asked.export()).grpc_status == 16
        assert len(asked.sink.requests) == 1


async def test_a_key_of_a_snapshot_is_never_asked_for() -> None:
    keys = [entry(KEY, "1"), entry("gone", "2", state=KeyState.REVOKED)]
    async with asking(keys=keys) as asked:
        assert (await asked.export()).grpc_status == 0
        assert (await asked.export("gone")).grpc_status == 16
        assert asked.lookups == []


async def test_a_key_that_came_into_a_snapshot_meanwhile_is_decided_by_it() -> None:
    async with asking() as asked:
        call = asked.begin()
        await asked.until_asked(1)
        asked.gateway.load_keys(entry(KEY, "1", state=KeyState.REVOKED))
        asked.say(YES)
        assert (await call).grpc_status == 16
        assert asked.decisions() == {("key_revoked", "keyring"): 1}


async def test_nothing_is_asked_before_the_snapshots_are_loaded() -> None:
    async with asking(keys=None) as asked:
        assert (await asked.export()).grpc_status == 14
        assert asked.lookups == []


async def test_what_is_remembered_is_bounded() -> None:
    async with asking() as asked:
        for number in range(1_000):
            digest = digest_of(b"%d" % number)
            asked.say(LookedUp(digest, "allowed", WHO, "authority", 300.0, 200.0))
            asked.say(LookedUp(digest_of(b"no%d" % number), "denied", None, "authority", 300.0))
        known = asked.gateway.path.lookups
        assert known is not None
        assert len(known._allowed.kept) <= SETTINGS.cache_size
        assert len(known._denied.kept) <= SETTINGS.negative_cache_size


async def test_more_keys_than_may_be_asked_about_at_once_are_undecided() -> None:
    async with asking(sweeping=False) as asked:
        lookups = asked.gateway.path.lookups
        assert lookups is not None
        lookups._max_asked = 2
        calls = [asked.begin(f"key-{number}") for number in range(2)]
        await asked.until_asked(2)
        assert (await asked.export("one-more")).grpc_status == 14
        for number in range(2):
            asked.say(LookedUp(digest_of(b"key-%d" % number), "denied", None, "authority", 30.0))
        assert {(await call).grpc_status for call in calls} == {16}


@pytest.mark.parametrize(
    "fields",
    [
        (("authorization", f"StackState {KEY}"),),
        (("sts-api-key", KEY),),
        (("authorization", f"suseobservability   {KEY} "),),
    ],
)
async def test_the_key_is_read_from_whichever_carrier_it_came_in(
    fields: tuple[tuple[str, str], ...],
) -> None:
    async with asking() as asked:
        head = (("host", "h"), ("content-type", "application/json"), ("content-length", "2"))
        call = asyncio.create_task(
            http1_request(asked.gateway.port, "/v1/traces", (*head, *fields), b"{}")
        )
        await asked.until_asked(1)
        assert asked.lookups[0].key == KEY.encode()
        asked.say(YES)
        assert (await call).status == 200


@pytest.mark.parametrize(
    "query, fields",
    [
        (f"?api_key={KEY}", ()),
        ("", (("dd-api-key", KEY),)),
        ("", (("authorization", f"ApiKey {KEY}"),)),
        (f"?a=1&api%5Fkey=%69{KEY[1:]}", ()),
    ],
)
async def test_an_agent_s_key_is_read_from_its_carriers_too(
    query: str, fields: tuple[tuple[str, str], ...]
) -> None:
    async with RawSink() as sink:
        intake = backend(BackendName.INTAKE, sink.http_url)
        async with asking(backends=(intake,)) as asked:
            head = (("host", "h"), ("content-type", "application/json"), ("content-length", "2"))
            path = f"/stsAgent/intake/{query}"
            call = asyncio.create_task(
                http1_request(asked.gateway.port, path, (*head, *fields), b"{}")
            )
            await asked.until_asked(1)
            assert asked.lookups[0].key == KEY.encode()
            asked.say(YES)
            assert (await call).status == 200


def test_a_look_up_does_not_show_its_key() -> None:
    assert KEY not in repr(Lookup(DIGEST, KEY.encode(), "unknown"))


# Tokens

TOKEN: Final = "e30.e30.c2ln"
TOKEN_DIGEST: Final = digest_of(TOKEN.encode())
TOKENS: Final = AuthoritySettings(10, 10, 6.0, keys=False, tokens=True)
SENDER: Final = Principal("jwt:1", signals=Signal.TRACES.bit | Signal.LOGS.bit)
TOKEN_YES: Final = LookedUp(TOKEN_DIGEST, "allowed", SENDER, "authority", 300.0)


@asynccontextmanager
async def asking_about_tokens(**changes: Any) -> AsyncIterator[Asked]:
    async with asking(**{"authority": TOKENS, **changes}) as asked:
        yield asked


def _send_token(
    asked: Asked, path: str = "/v1/traces", *more: tuple[str, str]
) -> asyncio.Task[Response]:
    fields = (("Content-Type", "application/json"), ("Authorization", f"Bearer {TOKEN}"), *more)
    return asyncio.create_task(http1_request(asked.gateway.port, path, fields, b"{}"))


async def test_a_token_is_asked_about_once_and_then_known_by_its_digest() -> None:
    async with asking_about_tokens() as asked:
        call = _send_token(asked)
        await asked.until_asked(1)
        assert asked.lookups == [Lookup(TOKEN_DIGEST, TOKEN.encode(), "unknown", is_token=True)]
        asked.say(TOKEN_YES)
        assert (await call).status == 200
        for _ in range(3):
            assert (await _send_token(asked)).status == 200
        assert len(asked.lookups) == 1
        assert asked.decisions() == {
            ("allowed", "authority"): 1,
            ("allowed", "cache"): 1,
            ("allowed", "keyring"): 2,
        }
        seen = {request.field("authorization") for request in asked.sink.requests}
        assert seen == {f"Bearer {TOKEN}"}


async def test_a_token_may_send_its_own_signals_only_at_the_first_request_and_later() -> None:
    async with asking_about_tokens() as asked:
        first = _send_token(asked, "/v1/metrics")
        await asked.until_asked(1)
        asked.say(TOKEN_YES)
        assert (await first).status == 403
        for _ in range(3):
            assert (await _send_token(asked, "/v1/metrics")).status == 403
            assert (await _send_token(asked, "/v1/logs")).status == 200
        assert asked.decisions()["signal_not_allowed", "cache"] == 1
        assert asked.decisions()["signal_not_allowed", "keyring"] == 2


async def test_a_token_needs_no_key_store_and_a_key_is_not_asked_about() -> None:
    async with asking_about_tokens(keys=None) as asked:
        call = _send_token(asked)
        await asked.until_asked(1)
        asked.say(LookedUp(TOKEN_DIGEST, "denied", None, "authority", 30.0, refusal="TOKEN_KEY"))
        assert (await call).status == 401
        assert b"TOKEN_KEY" in (await _send_token(asked)).body
        assert (await asked.export()).grpc_status == 14  # no keys have been loaded
        assert len(asked.lookups) == 1


async def test_a_forgotten_token_is_asked_about_again() -> None:
    async with asking_about_tokens() as asked:
        call = _send_token(asked)
        await asked.until_asked(1)
        asked.say(TOKEN_YES)
        await call
        for _ in range(2):
            await _send_token(asked)
        asked.say(Forget([TOKEN_DIGEST]))
        call = _send_token(asked)
        await asked.until_asked(2)
        asked.say(LookedUp(TOKEN_DIGEST, "undecided", source="authority"))
        assert (await call).status == 503


async def test_a_token_whose_verdict_is_over_is_asked_about_again() -> None:
    async with asking_about_tokens() as asked:
        call = _send_token(asked)
        await asked.until_asked(1)
        asked.say(LookedUp(TOKEN_DIGEST, "allowed", SENDER, "authority", 0.5))
        assert (await call).status == 200
        later = []
        while len(asked.lookups) < 2:
            later.append(_send_token(asked))
            await asyncio.sleep(0.02)
        asked.say(
            LookedUp(TOKEN_DIGEST, "denied", None, "authority", 30.0, refusal="TOKEN_EXPIRED")
        )
        answers = Counter([(await each).status for each in later])
        assert set(answers) <= {200, 401}
        assert answers[401]


async def test_a_snapshot_of_keys_makes_no_token_unknown() -> None:
    async with asking_about_tokens(keys=[entry("known", "7")]) as asked:
        call = _send_token(asked)
        await asked.until_asked(1)
        asked.say(TOKEN_YES)
        await call
        for _ in range(2):
            await _send_token(asked)
        asked.gateway.worker.path.keyring.load([], 2, first=True, last=True)
        assert (await _send_token(asked)).status == 200
        assert len(asked.lookups) == 1


async def test_a_token_that_no_backend_gets_is_still_asked_about() -> None:
    forward = ForwardSettings("gateway", "the-backends-key", "StackState", identity_headers=True)
    async with asking_about_tokens(forward=forward) as asked:
        call = _send_token(asked)
        await asked.until_asked(1)
        asked.say(TOKEN_YES)
        assert (await call).status == 200
        (request,) = asked.sink.requests
        assert request.field("authorization") == "StackState the-backends-key"
        assert request.field("x-gateway-key-id") == "jwt:1"
        assert TOKEN not in repr(request)


async def test_a_backend_that_refuses_a_token_costs_the_sender_nothing() -> None:
    async with asking_about_tokens(script=lambda _: Answer(401, 16)) as asked:
        call = _send_token(asked)
        await asked.until_asked(1)
        asked.say(TOKEN_YES)
        assert (await call).status == 503
        assert len(asked.lookups) == 1
