"""Which request goes where, on in-memory connections."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dataplane.upstream.pool import Pool
from gateway.model import BackendName
from tests.support.in_memory import MemoryConnector, MemoryUpstream, PooledRequest, context
from tests.support.plane import backend
from tests.support.polling import until

TWO = ("http://a.test:1", "http://b.test:2")


def pool_of(connector: MemoryConnector, *urls: str, **changes: Any) -> Pool:
    settings = backend(BackendName.OTLP_GRPC, *(urls or TWO[:1]), **changes)
    return Pool(context(), settings, connector)


@pytest.fixture(name="connector")
def _connector() -> MemoryConnector:
    return MemoryConnector()


async def opened(pool: Pool, count: int = 1) -> list[PooledRequest]:
    requests = [PooledRequest() for _ in range(count)]
    for request in requests:
        pool.open(request)
    return requests


async def attached(*requests: PooledRequest) -> None:
    await until(lambda: all(request.upstream is not None for request in requests))


async def test_requests_wait_for_one_connection_that_serves_them_all(
    connector: MemoryConnector,
) -> None:
    pool = pool_of(connector)
    await attached(*await opened(pool, 10))
    assert connector.attempts == 1
    await pool.close()


async def test_over_http1_each_request_that_waits_gets_a_connection_up_to_the_most() -> None:
    connector = MemoryConnector(streams=1)
    pool = pool_of(connector, max_connections=3)
    requests = await opened(pool, 5)
    await until(lambda: sum(request.upstream is not None for request in requests) == 3)
    assert connector.attempts == 3
    first = requests[0].upstream
    assert isinstance(first, MemoryUpstream)
    first.cancel()
    await until(lambda: sum(request.upstream is not None for request in requests) == 4)
    await pool.close()
    assert requests[-1].refusal == "BACKEND_UNREACHABLE"


async def test_more_requests_than_may_wait_are_refused(connector: MemoryConnector) -> None:
    pool = pool_of(connector, max_waiting=2)
    requests = await opened(pool, 3)
    assert [request.refusal for request in requests] == ["", "", "OVERLOADED"]
    await attached(*requests[:2])
    await pool.close()


async def test_a_backend_that_cannot_be_reached_refuses_those_that_wait(
    connector: MemoryConnector,
) -> None:
    connector.refuse()
    pool = pool_of(connector)
    (request,) = await opened(pool)
    await until(lambda: request.refusal == "BACKEND_UNREACHABLE")
    (next_one,) = await opened(pool)
    assert next_one.refusal == "BACKEND_UNREACHABLE", "nothing is tried again at once"
    assert connector.attempts == 1


async def test_a_request_that_gave_up_waiting_is_never_opened(connector: MemoryConnector) -> None:
    pool = pool_of(connector)
    gone, stays = await opened(pool, 2)
    pool.forget(gone)
    await attached(stays)
    assert gone.upstream is None
    await pool.close()


async def test_requests_are_spread_over_the_addresses(connector: MemoryConnector) -> None:
    pool = pool_of(connector, *TWO)
    pool.maintain()
    await until(lambda: len(connector.connections) == 2)
    await attached(*await opened(pool, 10))
    assert [connection.busy for connection in connector.connections] == [5, 5]
    await pool.close()


async def test_a_connection_that_leaves_gets_no_further_request(
    connector: MemoryConnector,
) -> None:
    pool = pool_of(connector)
    await attached(*await opened(pool))
    (first,) = connector.connections
    first.close()
    await attached(*await opened(pool))
    assert [len(connection.opened) for connection in connector.connections] == [1, 1]
    await pool.close()


async def test_the_least_connections_are_kept(connector: MemoryConnector) -> None:
    pool = pool_of(connector, min_connections=2)
    pool.maintain()
    await until(lambda: len(connector.connections) == 1)
    pool.sweep(0.0)
    await until(lambda: len(connector.connections) == 2)
    connector.connections[0].close()
    pool.sweep(0.0)
    await until(lambda: len(connector.connections) == 3)
    await pool.close()
