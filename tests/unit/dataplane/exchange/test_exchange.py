"""One request through the core, on in-memory ends: what is decided, sent on, answered, recorded."""

from __future__ import annotations

import gc

import pytest

from gateway import metrics
from gateway.channel import LookedUp, Lookup
from gateway.dataplane.core.heads import FieldSection
from gateway.dataplane.exchange.answer import HELD_ANSWER_BYTES
from gateway.dataplane.exchange.exchange import Exchange
from gateway.dataplane.exchange.request_body import REPLAY_BYTES
from gateway.model import Principal, digest_of
from gateway.settings import AuthoritySettings, ForwardSettings, PerKeyLimits
from tests.support.in_memory import GRPC_PATH, HTTP_PATH, Core
from tests.support.plane import KEY, entry, limits

PATHS = pytest.mark.parametrize("path", [GRPC_PATH, HTTP_PATH])


def trailers(status: int) -> FieldSection:
    section = FieldSection(0, [(b"grpc-status", b"%d" % status)])
    section.grpc_status = status
    return section


async def test_a_request_goes_to_the_backend_and_its_answer_to_the_caller() -> None:
    core = Core(entry(KEY, name="agent"))
    exchange, caller = core.begin()
    await core.connected()
    (backend,) = core.connector.requests
    exchange.receive_body(b"one ", False)
    exchange.receive_body(b"two", True)
    assert (backend.body, backend.ended) == (b"one two", True)
    assert b"authorization: StackState " + KEY.encode() in backend.fields
    backend.answer_grpc()
    assert (caller.heads[0].grpc_status, caller.ended) == (0, True)
    (record,) = core.records.all
    assert (record.code, record.result, record.request_bytes) == ("OK", "accepted", 7)
    assert (record.auth_outcome, record.peer) == ("allowed", "192.0.2.7:40000")
    assert core.context.counters.in_flight == {"grpc": 0, "http": 0, "intake": 0}


async def test_the_body_waits_for_the_connection_and_is_charged_meanwhile() -> None:
    core = Core(entry(KEY), min_connections=0)
    exchange, _ = core.begin()
    exchange.receive_body(b"x" * 1_000, True)
    assert core.context.budget.used == 1_000
    await core.connected()
    (backend,) = core.connector.requests
    assert backend.body == b"x" * 1_000
    assert core.context.budget.used == 1_000, "kept to be sent again"
    backend.answer_grpc()
    assert core.context.budget.used == 0


@PATHS
async def test_every_refusal_is_in_the_callers_protocol_and_ends_the_exchange(path: bytes) -> None:
    core = Core(entry(KEY))
    exchange, caller = core.begin(core.head(path, key="wrong"))
    assert exchange.is_over
    assert caller.reply is not None
    assert caller.reply.is_grpc is (path == GRPC_PATH)
    assert caller.reply.code == ("UNAUTHENTICATED" if path == GRPC_PATH else "401")
    assert core.connector.requests == []
    assert [refused.reason for refused in core.refusals.take()] == ["key_unknown"]


async def test_an_unknown_path_is_refused_before_the_key_is_asked_for() -> None:
    core = Core()
    _, caller = core.begin(core.head(b"/nowhere", key=None))
    assert caller.reply is not None
    assert caller.reply.code == "404"
    assert core.records.all[0].auth_outcome == ""


@pytest.mark.parametrize("size, is_sent_again", [(REPLAY_BYTES, True), (REPLAY_BYTES + 1, False)])
async def test_a_small_body_is_sent_once_more_if_the_backend_did_not_process_it(
    size: int, is_sent_again: bool
) -> None:
    core = Core(entry(KEY))
    exchange, caller = core.begin()
    await core.connected()
    exchange.receive_body(b"x" * size, True)
    core.connector.requests[0].lose(replayable=True)
    assert (len(core.connector.requests) == 2) is is_sent_again
    if is_sent_again:
        second = core.connector.requests[1]
        assert (len(second.body), second.ended) == (size, True)
        second.lose(replayable=True)
    assert caller.reply is not None, "never a third time"
    assert caller.reply.code == "UNAVAILABLE"
    assert core.context.budget.used == 0


async def test_a_request_that_may_have_been_processed_is_not_sent_again() -> None:
    core = Core(entry(KEY))
    exchange, caller = core.begin()
    await core.connected()
    exchange.receive_body(b"x", True)
    core.connector.requests[0].lose(replayable=False)
    assert len(core.connector.requests) == 1
    assert caller.reply is not None
    assert core.context.counters.backend("otlp_grpc").take() == {"none": 1}


async def test_a_small_answer_that_breaks_off_has_not_begun_for_the_caller() -> None:
    core = Core(entry(KEY))
    exchange, caller = core.begin()
    await core.connected()
    exchange.receive_body(b"x", True)
    (backend,) = core.connector.requests
    backend.request.answer.head(FieldSection(200, []), False)
    backend.request.answer.body(b"half", False)
    backend.lose(replayable=False)
    assert caller.heads == []
    assert caller.reply is not None
    assert core.context.budget.used == 0


@PATHS
async def test_a_large_answer_that_breaks_off_is_never_taken_for_a_whole_one(path: bytes) -> None:
    core = Core(entry(KEY))
    exchange, caller = core.begin(core.head(path))
    await core.connected()
    exchange.receive_body(b"x", True)
    (backend,) = core.connector.requests
    backend.request.answer.head(FieldSection(200, []), False)
    backend.request.answer.body(b"x" * (HELD_ANSWER_BYTES + 1), False)
    assert len(caller.body) == HELD_ANSWER_BYTES + 1
    backend.lose(replayable=False)
    (told,) = caller.broken_off
    assert (told.grpc_status if told is not None else None) == (14 if path == GRPC_PATH else None)


async def test_trailers_end_a_held_answer() -> None:
    core = Core(entry(KEY))
    exchange, caller = core.begin()
    await core.connected()
    exchange.receive_body(b"x", True)
    (backend,) = core.connector.requests
    answer = backend.request.answer
    answer.head(FieldSection(200, []), False)
    answer.body(b"message", False)
    assert caller.heads == []
    answer.trailers(trailers(0))
    assert (caller.body, caller.trailers is not None) == (b"message", True)
    answer.body(b"late", True)
    assert caller.body == b"message", "nothing after the end"


async def test_a_refusal_of_our_own_key_becomes_retryable_and_raises_the_alarm() -> None:
    core = Core(entry(KEY))
    exchange, caller = core.begin()
    await core.connected()
    exchange.receive_body(b"x", True)
    core.connector.requests[0].answer_grpc(16)
    assert caller.reply is not None
    assert (caller.reply.code, core.records.all[0].result) == ("UNAVAILABLE", "backend_refused")
    assert core.context.counters.plain[metrics.BACKEND_AUTH_REFUSED.name, ("otlp_grpc",)] == 1


async def test_a_caller_that_goes_away_cancels_at_the_backend() -> None:
    core = Core(entry(KEY))
    exchange, _ = core.begin()
    await core.connected()
    exchange.receive_body(b"half", False)
    exchange.caller_gone()
    assert core.connector.requests[0].is_canceled
    assert not core.connector.requests[0].ended
    assert core.records.all[0].code == "CANCELLED"
    exchange.caller_gone()
    assert len(core.records.all) == 1


async def test_what_the_backend_takes_late_is_granted_to_the_caller_late() -> None:
    core = Core(entry(KEY))
    exchange, caller = core.begin()
    await core.connected()
    core.connector.connections[0].may_send = 3
    exchange.receive_body(b"12345", False)
    assert (caller.granted, exchange.body.held) == (3, 2)
    core.connector.requests[0].request.body_left(2)
    assert (caller.granted, exchange.body.held) == (5, 0)


async def test_a_body_beyond_the_limit_is_refused_and_never_completed() -> None:
    core = Core(entry(KEY), limits=limits(max_body_bytes=10))
    exchange, caller = core.begin()
    await core.connected()
    exchange.receive_body(b"x" * 6, False)
    exchange.receive_body(b"x" * 6, True)
    (backend,) = core.connector.requests
    assert (backend.is_canceled, backend.ended) == (True, False)
    assert caller.reply is not None
    assert core.records.all[0].result == "too_large"


async def test_a_declared_size_beyond_the_limit_opens_no_request() -> None:
    core = Core(entry(KEY), limits=limits(max_body_bytes=10))
    core.begin(core.head(length=11))
    assert core.connector.attempts == 0
    assert core.records.all[0].result == "too_large"


async def test_deadlines_depend_on_who_is_waited_for() -> None:
    core = Core(entry(KEY))
    now = core.context.tick
    stalled, _ = core.begin()
    unanswered, _ = core.begin()
    await core.connected()
    stalled.receive_body(b"half", False)
    unanswered.receive_body(b"all", True)
    for exchange in (stalled, unanswered):
        exchange.sweep(now + 31)
    assert (stalled.record.result, unanswered.is_over) == ("canceled", False)
    unanswered.sweep(now + 61)
    assert unanswered.record.result == "backend_timeout"


async def test_a_keys_places_are_given_back_when_its_requests_end() -> None:
    core = Core(entry(KEY), per_key=PerKeyLimits(concurrent=1))
    first, _ = core.begin()
    _, caller = core.begin()
    assert caller.reply is not None
    assert caller.reply.code == "RESOURCE_EXHAUSTED"
    first.caller_gone()
    third, _ = core.begin()
    assert not third.is_over


async def test_a_keys_bytes_count_as_they_come_whether_or_not_all_of_them_do() -> None:
    core = Core(entry(KEY), per_key=PerKeyLimits(bytes=10))
    first, _ = core.begin()
    second, _ = core.begin()
    assert not second.is_over
    first.receive_body(b"x" * 30, False)  # more than a second's worth, however old it is by now
    _, caller = core.begin()
    assert caller.reply is not None
    assert caller.reply.code == "RESOURCE_EXHAUSTED"
    first.caller_gone()
    _, caller = core.begin()
    assert caller.reply is not None, "what came is counted though it did not come to an end"


async def test_a_request_waits_for_the_verdict_of_an_authority() -> None:
    settings = AuthoritySettings(100, 100, 5.0)
    core = Core(authority=settings)
    exchange, _ = core.begin()
    exchange.receive_body(b"early", True)
    assert not exchange.is_over
    (question,) = core.sent
    assert isinstance(question, Lookup)
    assert core.lookups is not None
    who = Principal("7", shared=True)
    core.lookups.answer(LookedUp(digest_of(KEY.encode()), "allowed", who, "authority", 60, 30))
    await core.connected()
    assert core.connector.requests[0].body == b"early"
    assert exchange.record.principal == who


async def test_the_backend_sees_who_sends_only_if_that_is_wanted() -> None:
    forward = ForwardSettings("gateway", "secret", "StackState", identity_headers=True)
    core = Core(entry(KEY, "7", name="team é"), forward=forward)
    core.begin(core.head(HTTP_PATH, length=0))
    await core.connected()
    fields = core.connector.requests[0].fields
    assert b"authorization: StackState secret\r\n" in fields
    assert b"x-gateway-key-id: 7\r\nx-gateway-key-name: team %C3%A9\r\n" in fields


async def test_nothing_refers_to_an_exchange_that_is_over() -> None:
    """Else each request would wait for a garbage collection."""
    core = Core(entry(KEY))
    exchange, caller = core.begin()
    await core.connected()
    exchange.receive_body(b"x", True)
    gc.collect()
    gc.disable()
    try:
        core.connector.requests[0].answer_grpc()
        assert caller.ended
        core.connector.connections[0].opened.clear()
        core.records.all.clear()
        assert any(type(each) is Exchange for each in gc.get_objects())
        del exchange, caller
        assert not any(type(each) is Exchange for each in gc.get_objects())
    finally:
        gc.enable()


@pytest.mark.parametrize("chunks", [[(b"some", False), (b"more", True)], [(b"all", True)]])
async def test_while_others_work_waits_a_request_goes_on_when_its_body_begins(
    chunks: list[tuple[bytes, bool]],
) -> None:
    core = Core(entry(KEY))
    await core.connected()
    core.context.backlog.add("another", lambda: None)
    exchange, caller = core.begin()
    begun, _ = core.begin()
    await core.connected()
    assert core.connector.requests == []
    for chunk, ended in chunks:
        exchange.receive_body(chunk, ended)
    await core.connected()
    (backend,) = core.connector.requests
    assert backend.body == b"".join(chunk for chunk, _ in chunks)
    assert backend.ended
    backend.answer_grpc()
    assert caller.ended
    begun.caller_gone()
    assert len(core.connector.requests) == 1
    assert core.context.budget.used == core.context.budget.gathered == 0
    assert [record.result for record in core.records.all] == ["accepted", "canceled"]
