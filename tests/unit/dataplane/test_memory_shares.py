"""Near the memory's limit the rest is for senders that hold little."""

from __future__ import annotations

import pytest

from tests.support.in_memory import Core, MemoryTransport
from tests.support.plane import entry, limits

MIB = 1024 * 1024
LIMIT = 16 * MIB


def _head(key: str, length: int) -> bytes:
    return (
        f"POST /v1/traces HTTP/1.1\r\nHost: g\r\nAuthorization: StackState {key}\r\n"
        f"Content-Type: application/x-protobuf\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def _core() -> Core:
    return Core(
        entry("greedy", "1"),
        entry("modest", "2"),
        limits=limits(buffer_memory_bytes=LIMIT),
    )


def _client(core: Core) -> MemoryTransport:
    client = MemoryTransport()
    core.http1_client(client)
    return client


def _stuck_uploads(core: Core) -> list[MemoryTransport]:
    """Upload with one key, while the backend has no connection yet, until much is held."""
    clients: list[MemoryTransport] = []
    while core.context.budget.used < core.context.budget.near:
        client = _client(core)
        client.give(_head("greedy", 10 * MIB) + bytes(MIB))
        clients.append(client)
        core.context.backlog._next_turn()  # one reads only so much
        assert len(clients) < 200
    return clients


async def test_the_key_that_holds_much_is_refused_and_another_one_is_not() -> None:
    core = _core()
    _stuck_uploads(core)
    refused, served = _client(core), _client(core)
    refused.give(_head("greedy", 2) + b"hi")
    assert refused.sent.startswith(b"HTTP/1.1 503 ")
    served.give(_head("modest", 2) + b"hi")
    await core.connected()
    mine = [each for each in core.connector.requests if each.request.sender == "2"]
    mine[0].answer()
    assert served.sent.startswith(b"HTTP/1.1 200 ")


async def test_at_the_limit_nobody_begins() -> None:
    core = _core()
    _stuck_uploads(core)
    core.context.budget.charge(LIMIT - core.context.budget.used)
    client = _client(core)
    client.give(_head("modest", 2) + b"hi")
    assert client.sent.startswith(b"HTTP/1.1 503 ")


async def test_connections_whose_bodies_wait_are_read_again_when_they_have_left() -> None:
    core = _core()
    clients = _stuck_uploads(core)
    assert not any(client.reads for client in clients)
    assert core.context.budget.holding
    await core.connected()  # everything goes to the backend
    assert all(client.reads for client in clients)
    assert not core.context.budget.holding
    assert core.context.budget.used == 0


@pytest.mark.parametrize("is_http2", [False, True])
async def test_a_head_that_is_too_slow_is_counted(is_http2: bool) -> None:
    core = _core()
    client = MemoryTransport()
    server = core.http2_client(client) if is_http2 else core.http1_client(client)
    client.give(b"\0\0\x09\x01\x04" if is_http2 else b"POST /v1")
    core.context.tick += core.context.limits.header_timeout_s + 1
    server.sweep(core.context.tick)
    counted = core.context.counters.plain["gateway_connections_refused_total", ("slow_head",)]
    assert counted == 1
