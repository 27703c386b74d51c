"""Over HTTP/1.1 a small body takes a connection to the backend only when all of it has come."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.channel import LookedUp
from gateway.dataplane.exchange.exchange import Exchange
from gateway.dataplane.exchange.forwarding import Forwarding
from gateway.dataplane.exchange.request_body import GATHERED_BYTES
from gateway.model import Principal, digest_of
from gateway.settings import AuthoritySettings
from tests.support.in_memory import HTTP_PATH, Core
from tests.support.plane import KEY, MIB, entry, limits


def http1_core(*, key: bool = True, **settings: Any) -> Core:
    """Return a core whose connections carry one request at a time; none is there yet."""
    return Core(*([entry(KEY)] if key else []), streams=1, min_connections=0, **settings)


def begin(core: Core, length: int = -1, *parts: bytes) -> Exchange:
    exchange, _ = core.begin(core.head(HTTP_PATH, length=length))
    for part in parts:
        exchange.receive_body(part, False)
    return exchange


@pytest.mark.parametrize("length", [-1, 7])
async def test_a_small_body_takes_no_place_until_it_is_whole(length: int) -> None:
    core = http1_core()
    exchange = begin(core, length, b"one ", b"")
    await core.connected()
    assert core.connector.attempts == 0
    assert core.context.budget.used == core.context.budget.gathered == 4
    exchange.receive_body(b"two", True)
    await core.connected()
    (backend,) = core.connector.requests
    assert (backend.body, backend.ended) == (b"one two", True)
    assert core.context.budget.gathered == 0
    assert core.context.budget.used == 7, "kept to be sent again, and charged once"
    backend.answer()
    assert core.context.budget.used == 0
    assert exchange.record.result == "accepted"


async def test_a_body_that_comes_at_once_goes_on_at_once() -> None:
    core = http1_core()
    core.http_pool.maintain()
    first = begin(core)
    first.receive_body(b"warm", True)
    await core.connected()
    core.connector.requests[0].answer()
    exchange = begin(core, 3)
    exchange.receive_body(b"all", True)
    assert core.connector.requests[1].body == b"all"
    core.connector.requests[1].answer()
    assert core.context.budget.used == 0


async def test_no_body_at_all_is_a_whole_one() -> None:
    core = http1_core()
    exchange = begin(core, 0)
    exchange.receive_body(b"", True)
    await core.connected()
    assert core.connector.requests[0].ended


async def test_a_body_that_is_declared_to_be_large_takes_its_place_at_once() -> None:
    core = http1_core()
    begin(core, GATHERED_BYTES)
    begin(core, GATHERED_BYTES + 1)
    await core.connected()
    assert len(core.connector.requests) == 1


async def test_a_body_of_unknown_length_takes_its_place_when_it_has_become_large() -> None:
    core = http1_core()
    exchange = begin(core, -1, bytes(GATHERED_BYTES))
    assert core.connector.attempts == 0
    exchange.receive_body(b"x", False)
    await core.connected()
    (backend,) = core.connector.requests
    assert (len(backend.body), backend.ended) == (GATHERED_BYTES + 1, False)
    assert core.context.budget.gathered == 0
    exchange.receive_body(b"y", True)
    assert backend.ended
    backend.answer()
    assert core.context.budget.used == 0


async def test_bodies_are_gathered_in_a_quarter_of_the_memory_at_most() -> None:
    core = http1_core(limits=limits(buffer_memory_bytes=MIB))
    many = [begin(core, -1, bytes(GATHERED_BYTES)) for _ in range(5)]
    assert core.connector.attempts == 0
    many.append(begin(core, -1, bytes(GATHERED_BYTES)))
    await core.connected()
    assert len(core.connector.requests) == 1, "5 × 48 KiB is what a quarter of 1 MiB takes"
    assert core.context.budget.gathered == 5 * GATHERED_BYTES
    for exchange in many:
        exchange.caller_gone()
    assert core.context.budget.used == core.context.budget.gathered == 0


async def test_nothing_is_granted_while_a_body_is_gathered() -> None:
    """No window fills by so little, and what is granted may come on top of what is held."""
    core = http1_core()
    exchange, caller = core.begin(core.head(HTTP_PATH))
    exchange.receive_body(bytes(GATHERED_BYTES), False)
    assert caller.granted == 0
    exchange.receive_body(b"x", False)
    await core.connected()
    assert caller.granted == GATHERED_BYTES + 1


async def test_the_sender_is_asked_for_its_body_before_there_is_a_place() -> None:
    core = http1_core()
    head = core.head(HTTP_PATH, length=5)
    head.expects_continue = True
    _, caller = core.begin(head)
    assert caller.accepted_body
    assert core.connector.attempts == 0


async def test_a_sender_that_stops_while_its_body_is_gathered_has_stalled() -> None:
    """It is not the backend's fault: that has seen nothing of it."""
    core = http1_core()
    exchange = begin(core, 10, b"half")
    exchange.sweep(core.context.tick + 31)
    assert (exchange.record.code, exchange.record.result) == ("503", "canceled")
    assert core.context.budget.used == core.context.budget.gathered == 0
    assert core.context.counters.backend("otlp_http").take() == {}


async def test_a_gathered_body_beyond_the_limit_is_refused() -> None:
    core = http1_core(limits=limits(max_body_bytes=10))
    exchange = begin(core, -1, bytes(6), bytes(6))
    assert exchange.record.result == "too_large"
    assert core.context.budget.used == core.context.budget.gathered == 0
    assert core.connector.attempts == 0


async def test_a_caller_that_goes_away_while_its_body_is_gathered_leaves_nothing() -> None:
    core = http1_core()
    exchange = begin(core, 10, b"half")
    exchange.caller_gone()
    assert core.context.budget.used == core.context.budget.gathered == 0
    assert core.http_pool.waiting == {}


async def test_a_gathered_body_is_refused_when_the_backend_is_away() -> None:
    core = http1_core()
    core.connector.refuse()
    exchange = begin(core, 10, b"half")
    exchange.receive_body(b"rest", True)
    await core.connected()
    assert exchange.record.result == "backend_unreachable"
    again = begin(core, 3)
    again.receive_body(b"all", True)
    assert again.record.result == "backend_unreachable", "nothing is tried again at once"
    assert core.context.budget.used == core.context.budget.gathered == 0


@pytest.mark.parametrize("is_whole", [True, False])
async def test_what_came_before_the_verdict_is_gathered_with_the_rest(is_whole: bool) -> None:
    core = http1_core(key=False, authority=AuthoritySettings(100, 100, 5.0))
    exchange, _ = core.begin(core.head(HTTP_PATH, length=7))
    exchange.receive_body(b"one " if not is_whole else b"one two", is_whole)
    assert core.lookups is not None
    who = Principal("7", shared=True)
    core.lookups.answer(LookedUp(digest_of(KEY.encode()), "allowed", who, "authority", 60, 30))
    await core.connected()
    assert len(core.connector.requests) == is_whole
    if not is_whole:
        assert core.context.budget.gathered == 4
        exchange.receive_body(b"two", True)
        await core.connected()
    assert core.connector.requests[0].body == b"one two"
    assert core.context.budget.gathered == 0


async def test_a_gathered_body_is_sent_once_more_if_the_backend_did_not_process_it() -> None:
    core = http1_core()
    exchange = begin(core, 7, b"one ")
    exchange.receive_body(b"two", True)
    await core.connected()
    core.connector.requests[0].lose(replayable=True)
    second = core.connector.requests[1]
    assert (second.body, second.ended) == (b"one two", True)
    second.answer()
    assert core.context.budget.used == 0


# Whom a request shares places with


def forwarding_of(exchange: Exchange) -> Forwarding:
    assert isinstance(exchange.sink, Forwarding)
    return exchange.sink


async def test_a_sender_is_its_key_or_its_address_where_the_backend_judges() -> None:
    core = http1_core()
    exchange = begin(core, 10)
    assert forwarding_of(exchange).sender == "1"
    exchange.record.principal = None
    pool = exchange.route.pool
    assert pool is not None
    unjudged = Forwarding(exchange, pool, forwarding_of(exchange).fields)
    assert unjudged.sender == "192.0.2.7", "whatever its port"


async def test_a_sender_is_held_up_by_the_backend_and_by_full_memory() -> None:
    core = http1_core()
    exchange = begin(core, MIB)
    await core.connected()
    request = forwarding_of(exchange)
    core.connector.connections[0].may_send = 3
    exchange.receive_body(b"123", False)
    assert state(request) == (True, 3, False)
    exchange.receive_body(b"45", False)
    assert state(request) == (True, 5, True)
    request.body_left(2)
    assert state(request) == (True, 5, False)
    budget = core.context.budget
    budget.charge(budget.limit)
    assert state(request) == (True, 5, True)
    budget.release(budget.limit)
    exchange.receive_body(b"", True)
    assert state(request) == (False, 5, False)


def state(request: Forwarding) -> tuple[bool, int, bool]:
    return request.is_upload, request.received, request.is_held_up
