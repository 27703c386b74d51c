"""What is held is charged by what it costs, and near the bound no more of it is taken."""

from __future__ import annotations

import asyncio
import sys

import pytest

from gateway.dataplane.core import chunks
from gateway.dataplane.core.budget import Budget
from gateway.dataplane.exchange.request_body import REPLAY_BYTES, RequestBody
from gateway.dataplane.http1.output import Output
from gateway.dataplane.http2.server_stream import STREAM_BYTES, WAITING_REPLIES
from gateway.wire import hpack, http2
from gateway.wire.http2 import ErrorCode, Setting
from tests.support.in_memory import GRPC_PATH, Core, MemoryTransport
from tests.support.plane import KEY, entry, limits

LIMIT = 1024 * 1024
NO_WINDOW = http2.settings_frame({Setting.INITIAL_WINDOW_SIZE: 0})


def size_of(held: list[bytes]) -> int:
    """Return what a list of chunks takes of memory."""
    return sys.getsizeof(held) + sum(map(sys.getsizeof, held))


def full(core: Core) -> Core:
    """Have nearly as much held as may be."""
    core.context.budget.charge(core.context.budget.near)
    return core


@pytest.mark.parametrize("length", [1, 2, 100, 511, 600, 5_000])
def test_chunks_of_any_size_take_hardly_more_than_they_hold(length: int) -> None:
    held: list[bytes] = []
    chunk = bytes(range(256)) * 20
    for _ in range(64 * 1024 // length):
        chunks.append(held, chunk[:length])
    assert b"".join(held) == chunk[:length] * (64 * 1024 // length)
    assert size_of(held) < 1.15 * 64 * 1024


def test_a_body_that_comes_in_two_bytes_at_a_time_takes_what_is_charged() -> None:
    budget = Budget(LIMIT)
    body = RequestBody(budget)
    body.replay = []
    for _ in range(REPLAY_BYTES // 4):
        body.wait(b"ab")
    assert body.waiting is not None
    assert size_of(body.waiting) < 1.15 * budget.used
    assert body.take_waiting() == b"ab" * (REPLAY_BYTES // 4)
    for _ in range(REPLAY_BYTES // 4):
        body.keep(b"ab")
    assert budget.used == REPLAY_BYTES
    assert size_of(body.replay) < 1.15 * budget.used
    assert body.rewind()
    assert budget.used == REPLAY_BYTES, "what is kept waits once more, and is charged once"
    assert body.take_waiting() == b"ab" * (REPLAY_BYTES // 2)
    assert budget.used == body.held == 0


def test_an_output_that_waits_in_tiny_parts_takes_what_is_charged() -> None:
    budget = Budget(LIMIT)
    out = Output(budget)
    out.begin(MemoryTransport())
    out.pause()
    for _ in range(30_000):
        out.write(b"ab", 2)
    assert budget.used == 60_000
    assert size_of(out._queue) < 1.15 * 60_000
    assert out.drop() == 60_000
    assert budget.used == 0


# Heads that have not come whole


async def test_a_partial_head_is_charged_and_let_go() -> None:
    core = Core()
    client = MemoryTransport()
    core.http1_client(client)
    part = b"GET / HTTP/1.1\r\nX: " + b"x" * 5_000
    client.give(part)
    client.give(part[:10])
    assert core.context.budget.used == len(part) + 10
    client.lose()
    assert core.context.budget.used == 0


async def test_near_the_bound_a_partial_head_is_answered_and_not_held() -> None:
    core = full(Core())
    client = MemoryTransport()
    core.http1_client(client)
    used = core.context.budget.used
    client.give(b"GET / HTTP/1.1\r\nX: " + b"x" * 5_000)
    assert client.sent.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: " in client.sent.lower()
    assert client.has_sent_eof
    assert core.context.budget.used == used


async def test_near_the_bound_pipelined_requests_are_not_held_but_told_to_come_again() -> None:
    core = full(Core())
    used = core.context.budget.used
    refused = MemoryTransport()
    core.http1_client(refused)
    refused.give(b"GET /nowhere HTTP/1.1\r\nHost: g\r\n\r\n" * 100)
    assert [refused.sent.count(b"HTTP/1.1 %d " % status) for status in (404, 503)] == [1, 1]
    assert refused.has_sent_eof
    assert core.context.budget.used == used


async def test_near_the_bound_what_follows_a_request_under_way_is_not_held() -> None:
    core = Core(entry(KEY))
    client = MemoryTransport()
    core.http1_client(client)
    head = f"POST /v1/traces HTTP/1.1\r\nHost: g\r\nAuthorization: StackState {KEY}\r\n"
    head += "Content-Type: application/x-protobuf\r\nContent-Length: 2\r\n\r\n"
    client.give(head.encode() + b"hi")
    await core.connected()
    full(core)
    used = core.context.budget.used
    client.give(head.encode() + b"hi")
    assert core.context.budget.used == used
    core.connector.requests[0].answer()
    assert client.sent.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in client.sent
    assert len(core.records.all) == 1


async def test_the_head_of_a_request_is_charged_while_it_lasts_when_it_is_long() -> None:
    core = Core(entry(KEY))
    client = MemoryTransport()
    core.http1_client(client)
    head = f"POST /v1/traces HTTP/1.1\r\nHost: g\r\nAuthorization: StackState {KEY}\r\n"
    head += "Content-Type: application/x-protobuf\r\nContent-Length: 0\r\nX: " + "x" * 20_000
    client.give(head.encode() + b"\r\n\r\n")
    await core.connected()
    assert core.context.budget.used > 3 * len(head)
    core.connector.requests[0].answer()
    assert core.context.budget.used == 0


@pytest.mark.parametrize("is_near", [False, True])
async def test_a_header_block_that_comes_in_parts_is_charged_or_ends_the_connection(
    is_near: bool,
) -> None:
    core = Core()
    client = MemoryTransport()
    core.http2_client(client)
    if is_near:
        full(core)
    used = core.context.budget.used
    part = bytes(10_000)
    client.give(http2.frame(http2.HEADERS, 0, b"\0\0\0\1", part))
    client.give(http2.frame(http2.CONTINUATION, 0, b"\0\0\0\1", part) + b"\0\0\1")
    await asyncio.sleep(0)
    if is_near:
        assert core.context.budget.used == used
        assert client.is_over
        assert ErrorCode.ENHANCE_YOUR_CALM.to_bytes(4, "big") in client.sent
    else:
        assert core.context.budget.used == used + 20_003
        client.lose()
        assert core.context.budget.used == used


async def test_near_the_bound_less_is_read_at_a_time() -> None:
    core = Core()
    server = core.http2_client(MemoryTransport())
    assert len(memoryview(server.protocol.get_buffer(-1))) == len(core.context.receive_view)
    full(core)
    assert len(memoryview(server.protocol.get_buffer(-1))) == len(core.context.tiny_view)


# Requests and answers over HTTP/2


def request(stream: int, *fields: tuple[bytes, bytes], path: bytes = b"/nowhere") -> bytes:
    """Return a request without a body's end."""
    start = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", path))
    return http2.frame(
        http2.HEADERS, http2.END_HEADERS, stream.to_bytes(4, "big"), hpack.encode([*start, *fields])
    )


async def test_an_open_request_is_charged_until_it_is_over() -> None:
    core = Core(entry(KEY))
    client = MemoryTransport()
    core.http2_client(client)
    key = (b"authorization", b"StackState " + KEY.encode())
    kind = (b"content-type", b"application/grpc")
    client.give(request(1, key, kind, path=GRPC_PATH))
    assert core.context.budget.used == STREAM_BYTES
    many = [(b"a%d" % number, b"") for number in range(100)]
    client.give(request(3, key, kind, *many, path=GRPC_PATH))
    assert core.context.budget.used > 2 * STREAM_BYTES + 100 * 100
    await core.connected()
    for upstream in core.connector.requests:
        upstream.answer_grpc()
    await asyncio.sleep(0)
    assert core.context.budget.used == 0


async def test_refusals_that_wait_for_a_window_are_charged_and_few() -> None:
    core = Core(limits=limits(buffer_memory_bytes=LIMIT * 10))
    client = MemoryTransport()
    core.http2_client(client, NO_WINDOW)
    for stream in range(1, 1_001, 2):
        client.give(request(stream))
        await asyncio.sleep(0)
    refused = http2.frame(http2.RST_STREAM, 0, b"\0\0\0\0", b"\0\0\0\7")
    assert client.sent.count(refused[-4:]) >= 500 - WAITING_REPLIES
    used = core.context.budget.used
    assert WAITING_REPLIES * STREAM_BYTES < used < WAITING_REPLIES * (STREAM_BYTES + 1_000)
    room = http2.settings_frame({Setting.INITIAL_WINDOW_SIZE: 65_535})
    client.give(room)
    await asyncio.sleep(0)
    assert core.context.budget.used == 0
    client.give(request(1_001))
    await asyncio.sleep(0)
    assert core.context.budget.used == 0
