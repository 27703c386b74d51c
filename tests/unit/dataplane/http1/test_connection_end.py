"""The end of a client's HTTP/1.1 connection: it is announced in an answer before it comes."""

from __future__ import annotations

import pytest

from gateway.dataplane.core.context import IDLE_GRACE_S
from gateway.dataplane.core.heads import FieldSection
from gateway.dataplane.exchange.answer import HELD_ANSWER_BYTES
from gateway.settings import LimitsSettings
from tests.support.in_memory import Core, MemoryTransport, MemoryUpstream
from tests.support.plane import KEY, LIMITS, entry, limits

pytestmark = pytest.mark.asyncio

POST = (
    b"POST /v1/traces HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"Authorization: StackState " + KEY.encode() + b"\r\nContent-Length: 2\r\n\r\n{}"
)
KEYLESS = b"POST /v1/traces HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"


class Client:
    """A client on an in-memory transport, and the worker's part in its connection's end."""

    def __init__(self, limits: LimitsSettings = LIMITS) -> None:
        self.core = Core(entry(KEY), limits=limits)
        self.transport = MemoryTransport()
        self.server = self.core.http1_client(self.transport)

    async def ask(self) -> MemoryUpstream:
        """Send a request; return its backend's end."""
        self.transport.give(POST)
        await self.core.connected()
        return self.core.connector.requests[-1]

    async def answered(self) -> bytes:
        """Send a request, have it answered; return the answer."""
        upstream = await self.ask()
        upstream.answer()
        return self.taken()

    def refused(self) -> bytes:
        """Send a request that the gateway answers by itself; return the answer."""
        self.transport.give(KEYLESS)
        return self.taken()

    def taken(self) -> bytes:
        """Return what has come since the last call."""
        sent = bytes(self.transport.sent)
        self.transport.sent.clear()
        return sent

    def sweep(self, in_s: float = 0.0) -> None:
        context = self.core.context
        context.tick = context.now() + in_s
        self.server.sweep(context.tick)

    def drain(self) -> None:
        """Do what a worker does."""
        self.core.context.is_draining = self.core.context.is_leaving = True
        self.server.start_drain()


def announces(answer: bytes) -> bool:
    """Whether a whole answer, that has come, says that the connection ends with it."""
    assert answer.startswith(b"HTTP/1.1 ")
    return b"\r\nconnection: close\r\n" in answer


@pytest.mark.parametrize("is_forwarded", [True, False])
async def test_past_its_age_a_connection_ends_with_the_next_answer(*, is_forwarded: bool) -> None:
    client = Client(limits(max_connection_age_s=100))
    assert not announces(await client.answered())
    client.sweep(111)
    assert not client.transport.is_over
    assert announces(await client.answered() if is_forwarded else client.refused())
    assert client.transport.has_sent_eof


async def test_past_its_age_an_idle_connection_stays_until_it_was_idle_for_too_long() -> None:
    client = Client(limits(max_connection_age_s=100, idle_timeout_s=300))
    await client.answered()
    client.sweep(299)
    assert not client.transport.is_over
    client.sweep(302)
    assert client.transport.is_over


@pytest.mark.parametrize("how", ["age", "drain", "unready"])
async def test_an_answer_that_began_before_is_followed_by_one_that_announces_the_end(
    how: str,
) -> None:
    """Its head has gone out without saying so: closing after it would surprise the client."""
    client = Client(limits(max_connection_age_s=5))
    upstream = await client.ask()
    upstream.request.answer.head(FieldSection(200, []), False)
    upstream.request.answer.body(bytes(HELD_ANSWER_BYTES + 1), False)
    assert not announces(client.taken())
    if how == "age":
        client.sweep(6)
    elif how == "drain":
        client.drain()
    else:
        client.core.context.is_leaving = True
    upstream.request.answer.body(b"more", True)
    assert client.taken().endswith(b"more\r\n0\r\n\r\n")
    assert not client.transport.has_sent_eof
    assert announces(client.refused())
    assert client.transport.has_sent_eof


async def test_the_small_rest_of_a_refused_body_is_read_and_the_next_answer_announces() -> None:
    client = Client()
    client.transport.give(KEYLESS[:-1])
    assert not announces(client.taken())
    client.drain()
    client.transport.give(KEYLESS[-1:])
    assert not client.transport.is_over
    assert announces(client.refused())


async def test_while_a_drain_is_to_come_each_answer_announces_the_end() -> None:
    client = Client()
    assert not announces(client.refused())
    client.core.context.is_leaving = True
    client.sweep(10)
    assert not client.transport.is_over
    assert announces(await client.answered())
    assert client.transport.has_sent_eof
    newcomer = MemoryTransport()
    client.core.http1_client(newcomer)
    newcomer.give(KEYLESS)
    assert announces(bytes(newcomer.sent))


async def test_at_a_drain_an_idle_connection_is_told_in_its_next_answer() -> None:
    client = Client()
    assert not announces(await client.answered())
    client.server._state.since -= 100  # it has been idle for long
    client.drain()
    client.sweep(IDLE_GRACE_S - 1)
    assert not client.transport.is_over
    assert announces(await client.answered())


@pytest.mark.parametrize("drain_timeout_s, grace_s", [(20, IDLE_GRACE_S), (4, 2), (0, 0)])
async def test_at_a_drain_a_connection_that_stays_idle_is_closed_after_the_grace(
    drain_timeout_s: float, grace_s: float
) -> None:
    client = Client(limits(drain_timeout_s=drain_timeout_s))
    client.refused()
    client.drain()
    if grace_s:
        client.sweep(grace_s - 1)
        assert not client.transport.is_over
    client.sweep(grace_s + 1)
    assert client.transport.is_over


async def test_at_a_drain_a_head_that_has_begun_has_its_time() -> None:
    client = Client(limits(drain_timeout_s=2, header_timeout_s=5))
    client.transport.give(KEYLESS[:20])
    client.drain()
    client.sweep(4)
    assert not client.transport.is_over
    client.transport.give(KEYLESS[20:])
    assert announces(client.taken())
