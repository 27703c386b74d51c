"""How the senders of one backend share its places and the room for those that wait."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import metrics
from gateway.dataplane.upstream.pool import Pool
from gateway.model import BackendName
from tests.support.in_memory import MemoryConnector, PooledRequest, context
from tests.support.plane import backend, limits
from tests.support.polling import until

WINDOW_S = 11


def pool_of(
    connections: int, streams: int = 1, *, min_upload_rate: float = 1024, **changes: Any
) -> tuple[Pool, MemoryConnector]:
    connector = MemoryConnector(streams)
    settings = backend(
        BackendName.OTLP_HTTP, "http://192.0.2.1:1", max_connections=connections, **changes
    )
    return Pool(context(limits(min_upload_rate=min_upload_rate)), settings, connector), connector


def ask(pool: Pool, sender: str, count: int = 1, *, upload: bool = False) -> list[PooledRequest]:
    requests = [PooledRequest(sender, is_upload=upload) for _ in range(count)]
    for request in requests:
        (pool.open_upload if upload else pool.open)(request)
    return requests


async def placed(pool: Pool, sender: str, count: int, *, upload: bool = False) -> list[Any]:
    """Have `count` requests take a place; return them."""
    requests = ask(pool, sender, count, upload=upload)
    await until(lambda: all(request.upstream is not None for request in requests))
    return requests


def served(requests: list[PooledRequest]) -> list[bool]:
    return [request.upstream is not None for request in requests]


def displaced(pool: Pool, reason: str) -> float:
    return pool._context.counters.plain[metrics.BACKEND_DISPLACED.name, ("otlp_http", reason)]


# Whose turn it is


@pytest.mark.parametrize("connections, streams", [(8, 1), (1, 8)])
async def test_a_free_place_goes_to_the_sender_that_holds_fewest(
    connections: int, streams: int
) -> None:
    pool, _ = pool_of(connections, streams)
    held = await placed(pool, "many", 8)
    more = ask(pool, "many", 3)
    other = ask(pool, "other", 3)
    for request in held[:3]:
        request.upstream.cancel()
    assert (served(more), served(other)) == ([False] * 3, [True] * 3), "though it came later"
    held[3].upstream.cancel()
    assert served(more) == [True, False, False], "4 of 8 against 3"
    await pool.close()


async def test_senders_that_hold_the_same_take_turns() -> None:
    pool, _ = pool_of(2)
    held = await placed(pool, "first", 2)
    a, b = ask(pool, "a", 2), ask(pool, "b", 2)
    for request in held:
        request.upstream.cancel()
    assert (served(a), served(b)) == ([True, False], [True, False])
    await pool.close()


async def test_one_senders_requests_are_served_in_the_order_in_which_they_came() -> None:
    pool, _ = pool_of(1)
    (held,) = await placed(pool, "1", 1)
    first, gone, second = ask(pool, "1", 3)
    pool.forget(gone)
    held.upstream.cancel()
    assert served([first, gone, second]) == [True, False, False]
    assert first.upstream is not None
    first.upstream.cancel()
    assert served([gone, second]) == [False, True]
    assert not pool.waiting
    await pool.close()


async def test_a_place_is_counted_no_longer_when_its_request_has_ended() -> None:
    """Though the places are counted anew only now and then."""
    pool, _ = pool_of(64)
    many = await placed(pool, "many", 63)
    await placed(pool, "other", 1)
    waiting = {name: ask(pool, name, 60) for name in ("many", "other")}
    for request in many[:40]:
        request.upstream.cancel()
    counts = {name: sum(served(requests)) for name, requests in waiting.items()}
    assert sum(counts.values()) == 40
    assert abs((23 + counts["many"]) - (1 + counts["other"])) <= 64 // 16, "half of them each"
    await pool.close()


# The room for those that wait


async def test_a_full_room_is_shared() -> None:
    pool, _ = pool_of(1, max_waiting=4)
    await placed(pool, "many", 1)
    many = ask(pool, "many", 5)
    assert [request.refusal for request in many] == ["", "", "", "", "OVERLOADED"]
    others = [*ask(pool, "a"), *ask(pool, "b"), *ask(pool, "a")]
    assert [request.refusal for request in many] == ["", "", *["OVERLOADED"] * 3], "newest first"
    assert [request.refusal for request in others] == ["", "", "OVERLOADED"], "not for a second"
    assert displaced(pool, "queue") == 2
    assert len(pool.waiting) == 4
    await pool.close()


async def test_nobody_waits_where_nobody_may() -> None:
    pool, _ = pool_of(1, max_waiting=0)
    pool.maintain()
    await until(lambda: any(address.free for address in pool._addresses))
    await placed(pool, "1", 1)
    (request,) = ask(pool, "2")
    assert request.refusal == "OVERLOADED"
    await pool.close()


# Uploads


async def test_uploads_of_one_sender_leave_a_quarter_of_the_places() -> None:
    pool, connector = pool_of(8)
    uploads = ask(pool, "slow", 10, upload=True)
    await until(lambda: sum(served(uploads)) == 6)
    await until(lambda: len(connector.connections) >= 6)
    others = await placed(pool, "other", 2)
    assert sum(served(uploads)) == 6
    for request in others:
        request.upstream.cancel()
    assert sum(served(uploads)) == 6, "the places stay free for others"
    assert len(await placed(pool, "slow", 2)) == 2, "for its whole bodies, too"
    await pool.close()


async def test_two_senders_uploads_leave_some_too() -> None:
    pool, _ = pool_of(14)
    one = await placed(pool, "a", 5, upload=True)
    two = await placed(pool, "b", 5, upload=True)
    more = [*ask(pool, "a", 4, upload=True), *ask(pool, "b", 4, upload=True)]
    await until(lambda: sum(served(more)) == 2)
    assert sum(served(more[:4])) == 1, "six each, two of 14 for others"
    await placed(pool, "c", 1, upload=True)
    assert len(one) + len(two) == 10
    await pool.close()


async def test_an_upload_that_waits_gets_the_place_of_one_that_ends() -> None:
    pool, _ = pool_of(4)
    held = await placed(pool, "1", 3, upload=True)
    (waits,) = ask(pool, "1", upload=True)
    (whole,) = await placed(pool, "1", 1)
    assert served([waits]) == [False]
    held[0].is_upload = False  # all of it has come: it waits for the backend now
    whole.upstream.cancel()
    pool.sweep(0.0)
    assert served([waits]) == [True]
    await pool.close()


async def test_an_upload_that_waits_gets_a_free_place_when_another_one_breaks_off() -> None:
    pool, connector = pool_of(4, min_connections=4)
    for _ in range(4):
        pool.maintain()
    await until(lambda: len(connector.connections) == 4)
    await placed(pool, "1", 3, upload=True)
    (waits,) = ask(pool, "1", upload=True)
    assert served([waits]) == [False]
    connection = next(each for each in connector.connections if each.open_now)
    connection.open_now.clear()  # as over HTTP/1.1, where the connection ends with the request
    connection.close()
    assert served([waits]) == [True], "on the connection that was left for others"
    await pool.close()


async def test_streams_are_not_kept_for_others() -> None:
    pool, _ = pool_of(1, 8)
    assert len(await placed(pool, "1", 8, upload=True)) == 8
    await pool.close()


# Slow uploads


async def watched(pool: Pool, requests: list[Any], *, rate: int, seconds: int = WINDOW_S) -> None:
    """Let time pass in which each of `requests` sends `rate` bytes a second."""
    for second in range(seconds):
        pool.sweep(1_000.0 + second)
        for request in requests:
            request.received += rate


@pytest.mark.parametrize("connections, streams", [(2, 1), (1, 2)])
async def test_slow_uploads_give_their_places_to_as_many_as_wait(
    connections: int, streams: int
) -> None:
    pool, _ = pool_of(connections, streams)
    slower, slow = await placed(pool, "1", 2, upload=True)
    await watched(pool, [slow], rate=1_023)
    pool.sweep(1_020.0)
    assert (slower.refusal, slow.refusal) == ("", ""), "nobody waits"
    (waits,) = ask(pool, "2")
    pool.sweep(1_021.0)
    assert (slower.refusal, slow.refusal) == ("UPLOAD_TOO_SLOW", "")
    await until(lambda: waits.upstream is not None)
    assert displaced(pool, "slow_upload") == 1
    await pool.close()


@pytest.mark.parametrize(
    "rate, least, change",
    [
        (1_024, 1_024, {}),
        (0, 0, {}),
        (0, 1_024, {"is_held_up": True}),
        (0, 1_024, {"is_upload": False}),
    ],
)
async def test_others_keep_their_place(rate: int, least: int, change: dict[str, bool]) -> None:
    pool, _ = pool_of(1, min_upload_rate=least)
    (request,) = await placed(pool, "1", 1, upload=True)
    for name, value in change.items():
        setattr(request, name, value)
    ask(pool, "2")
    await watched(pool, [request], rate=rate, seconds=60)
    assert request.refusal == ""
    await pool.close()


async def test_nobody_is_watched_while_there_are_free_places() -> None:
    pool, connector = pool_of(2, min_connections=2)
    pool.maintain()
    pool.sweep(0.0)
    await until(lambda: len(connector.connections) == 2)
    first, _ = await placed(pool, "1", 2, upload=True)
    pool.sweep(0.0)
    assert len(pool._rates._windows) == 2
    first.upstream.cancel()
    pool.sweep(1.0)
    assert not pool._rates._windows
    await pool.close()
