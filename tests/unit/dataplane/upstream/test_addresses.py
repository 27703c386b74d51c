"""The addresses of one name: each gets its share, new ones are used, old ones drained."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from gateway import metrics
from gateway.dataplane.upstream.pool import Pool
from gateway.model import BackendName
from tests.support.in_memory import (
    MemoryConnection,
    MemoryConnector,
    MemoryUpstream,
    PooledRequest,
    context,
)
from tests.support.plane import backend
from tests.support.polling import until

HTTP = pytest.mark.parametrize("streams", [1, 100], ids=["HTTP/1.1", "HTTP/2"])
URL = "http://backends.test:4317"


def pool_of(connector: MemoryConnector, *hosts: str, **changes: Any) -> Pool:
    connector.names["backends.test"] = list(hosts)
    settings = backend(BackendName.OTLP_GRPC, URL, **changes)
    return Pool(context(), settings, connector)


async def connected(pool: Pool, connector: MemoryConnector, *hosts: str) -> None:
    """Wait for connections to these addresses, and to no others."""
    pool.sweep(time.monotonic())
    await until(lambda: sorted({each.host for each in live(connector)}) == sorted(hosts))


def live(connector: MemoryConnector) -> list[MemoryConnection]:
    return [connection for connection in connector.connections if not connection.is_closed]


async def asked(pool: Pool, count: int) -> Counter[str]:
    """Send requests one after the other; return how many each address got."""
    found: Counter[str] = Counter()
    for _ in range(count):
        upstream = await placed(pool)
        found[upstream._connection.host] += 1
        release(upstream)
    return found


def release(upstream: MemoryUpstream) -> None:
    upstream._connection.release(upstream)


async def placed(pool: Pool) -> MemoryUpstream:
    request = PooledRequest()
    pool.open(request)
    await until(lambda: request.upstream is not None)
    assert isinstance(request.upstream, MemoryUpstream)
    return request.upstream


def gauge(pool: Pool, name: str) -> float | None:
    return pool._context.counters.gauges.get((name, ("otlp_grpc", "backends.test:4317")))


@HTTP
async def test_each_address_gets_its_share(streams: int) -> None:
    connector = MemoryConnector(streams)
    pool = pool_of(connector, "a", "b", "c", "d")
    await connected(pool, connector, "a", "b", "c", "d")
    assert await asked(pool, 400) == {"a": 100, "b": 100, "c": 100, "d": 100}
    await pool.close()


@HTTP
async def test_each_address_gets_its_share_of_what_comes_at_once(streams: int) -> None:
    connector = MemoryConnector(streams)
    pool = pool_of(connector, "a", "b", max_connections=40)
    await connected(pool, connector, "a", "b")
    requests = [PooledRequest() for _ in range(40)]
    for request in requests:
        pool.open(request)
    await until(lambda: all(request.upstream is not None for request in requests))
    busy = Counter[str]()
    for connection in connector.connections:
        busy[connection.host] += connection.busy
    assert busy == {"a": 20, "b": 20}
    await pool.close()


async def test_every_address_is_used_even_where_no_connection_is_kept() -> None:
    connector = MemoryConnector()
    pool = pool_of(connector, "a", "b", "c", min_connections=0)
    await asked(pool, 1)
    await connected(pool, connector, "a", "b", "c")
    assert await asked(pool, 30) == {"a": 10, "b": 10, "c": 10}
    await pool.close()


async def test_there_may_be_more_addresses_than_connections() -> None:
    connector = MemoryConnector()
    hosts = [f"10.0.0.{number}" for number in range(12)]
    pool = pool_of(connector, *hosts, max_connections=2)
    await connected(pool, connector, *hosts)
    assert set((await asked(pool, 120)).values()) == {10}
    await pool.close()


async def test_an_address_that_refuses_gets_nothing_and_the_others_equal_shares() -> None:
    connector = MemoryConnector()
    connector.refused.add("b")
    pool = pool_of(connector, "a", "b", "c")
    await connected(pool, connector, "a", "c")
    assert await asked(pool, 100) == {"a": 50, "c": 50}
    assert gauge(pool, metrics.BACKEND_UP.name) == 1
    connector.refused.clear()
    pool.sweep(time.monotonic() + 20)
    await connected(pool, connector, "a", "b", "c")
    assert await asked(pool, 99) == {"a": 33, "b": 33, "c": 33}
    await pool.close()


@HTTP
async def test_a_new_address_is_used_and_one_that_is_gone_is_drained(streams: int) -> None:
    connector = MemoryConnector(streams)
    pool = pool_of(connector, "a", "b")
    await connected(pool, connector, "a", "b")
    open_at: dict[str, MemoryUpstream] = {}
    while set(open_at) != {"a", "b"}:
        upstream = await placed(pool)
        open_at.setdefault(upstream._connection.host, upstream)
    release(open_at["b"])
    connector.names["backends.test"] = ["b", "c"]
    pool.sweep(time.monotonic() + 31)
    await connected(pool, connector, "b", "c")
    assert set(await asked(pool, 20)) == {"b", "c"}
    gone = open_at["a"]
    assert gone._connection.open_now, "what was open there goes on"
    release(gone)
    pool.sweep(time.monotonic())
    assert not pool._connections._drained
    await pool.close()


async def test_addresses_that_are_gone_serve_until_the_new_ones_can() -> None:
    connector = MemoryConnector()
    pool = pool_of(connector, "a")
    await connected(pool, connector, "a")
    connector.refused.add("b")
    connector.names["backends.test"] = ["b"]
    pool.sweep(time.monotonic() + 31)
    await until(lambda: pool._connections._urls[pool._addresses[0].target].departed != [])
    assert await asked(pool, 3) == {"a": 3}
    connector.refused.clear()
    pool.sweep(time.monotonic() + 60)
    await connected(pool, connector, "b")
    assert await asked(pool, 3) == {"b": 3}
    await pool.close()


async def test_a_name_that_cannot_be_resolved_any_more_keeps_its_addresses() -> None:
    connector = MemoryConnector()
    pool = pool_of(connector, "a", "b")
    await connected(pool, connector, "a", "b")
    del connector.names["backends.test"]
    connector.unknown.add("backends.test")
    pool.sweep(time.monotonic() + 31)
    await until(lambda: connector.lookups == 2)
    await connected(pool, connector, "a", "b")
    assert await asked(pool, 4) == {"a": 2, "b": 2}
    assert gauge(pool, metrics.BACKEND_UP.name) == 1
    await pool.close()


async def test_requests_are_refused_while_a_name_leads_nowhere() -> None:
    connector = MemoryConnector()
    connector.unknown.add("backends.test")
    pool = pool_of(connector)
    request = PooledRequest()
    pool.open(request)
    await until(lambda: request.refusal == "BACKEND_UNREACHABLE")
    assert gauge(pool, metrics.BACKEND_UP.name) == 0
    connector.unknown.clear()
    connector.names["backends.test"] = ["a"]
    pool.sweep(time.monotonic() + 1)
    await connected(pool, connector, "a")
    assert gauge(pool, metrics.BACKEND_UP.name) == 1
    await pool.close()


async def test_a_slow_resolver_holds_up_no_request_and_is_waited_for() -> None:
    """The first name server may be down, and the second one be asked only after 5 s."""
    connector = MemoryConnector()
    connector.may_resolve.clear()
    pool = pool_of(connector, "a", connect_timeout_s=0.01)
    request = PooledRequest()
    pool.open(request)
    await until(lambda: request.refusal == "BACKEND_UNREACHABLE")
    for later in range(3):
        pool.sweep(time.monotonic() + later)
    connector.may_resolve.set()
    await connected(pool, connector, "a")
    assert connector.lookups == 1
    await pool.close()


async def test_a_backend_that_is_up_again_is_found_though_no_connection_is_kept() -> None:
    connector = MemoryConnector()
    connector.refused.add("a")
    pool = pool_of(connector, "a", min_connections=0)
    request = PooledRequest()
    pool.open(request)
    await until(lambda: request.refusal == "BACKEND_UNREACHABLE")
    connector.refused.clear()
    pool.sweep(time.monotonic() + 1)
    await until(lambda: gauge(pool, metrics.BACKEND_UP.name) == 1)
    await pool.close()


@HTTP
async def test_a_connection_that_is_too_old_is_replaced_before_it_goes(streams: int) -> None:
    connector = MemoryConnector(streams)
    pool = pool_of(connector, "a", max_connection_age_s=600.0)
    await connected(pool, connector, "a")
    (first,) = connector.connections
    held = await placed(pool)
    pool.sweep(time.monotonic() + 539)
    assert live(connector) == [first], "90 % at the earliest"
    connector.refused.add("a")
    pool.sweep(time.monotonic() + 661)
    await until(lambda: connector.attempts == 2)
    assert live(connector) == [first], "no other one can be made"
    connector.refused.clear()
    pool.sweep(time.monotonic() + 670)
    await until(lambda: first.is_closed)
    assert first.open_now == [held], "what was open goes on"
    assert await asked(pool, 3) == {"a": 3}
    assert first.opened == [held]
    await pool.close()
