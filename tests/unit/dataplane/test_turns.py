"""However much one connection has to read, it gets a bounded amount of work in a turn."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Iterator

import pytest

from gateway.dataplane.core.backlog import LARGE_READ_BYTES, READ_COST, TURN_BYTES, Backlog
from gateway.dataplane.core.read_gate import ReadGate
from gateway.dataplane.http1.server import REQUESTS_PER_PIECE
from gateway.dataplane.http2.transport import FRAMES_OF_A_PIECE, FRAMES_OF_A_READ
from gateway.dataplane.worker import MOST_STEPS, STEPS_S, take_steps
from gateway.wire import hpack, http2
from gateway.wire.http2_receiver import FRAMES_FROM_CLIENT
from tests.support.in_memory import Core, MemoryTransport
from tests.support.plane import entry, running_worker

CLIENT = "192.0.2.1"
GET = b"GET /%d HTTP/1.1\r\nHost: gateway\r\n\r\n"
TINY_CHUNKS = 20_000


def gets(count: int) -> bytes:
    """Return requests that are refused at once, each with a path of its own."""
    return b"".join([GET % number for number in range(count)])


def heads(count: int, first: int = 1) -> bytes:
    """Return the same over HTTP/2."""
    block = hpack.encode([(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")])
    ids = range(first, first + 2 * count, 2)
    return b"".join([http2.frame(http2.HEADERS, 5, each.to_bytes(4, "big"), block) for each in ids])


def upload_head(length: int) -> bytes:
    """Return the head of an upload with a key."""
    head = b"POST /v1/traces HTTP/1.1\r\nHost: g\r\nContent-Type: application/x-protobuf\r\n"
    return head + b"Authorization: StackState x\r\nContent-Length: %d\r\n\r\n" % length


async def turns_until_done(core: Core, total: int, most: int) -> None:
    """Run the loop until `total` requests have been answered; none of its turns does more."""
    while len(core.records.all) < total:
        before = len(core.records.all)
        await asyncio.sleep(0)
        assert len(core.records.all) - before <= most
        assert len(core.context.backlog) or len(core.records.all) == total


def is_sated(backlog: Backlog) -> bool:
    """Return whether a turn has read enough; it changes while the test goes on."""
    return backlog.is_sated


def is_read(client: MemoryTransport) -> bool:
    """Return whether the gateway reads from a client; it changes while the test goes on."""
    return client.reads


async def test_a_read_begins_one_request_and_a_later_turn_a_few_more_in_order() -> None:
    core = Core()
    client = MemoryTransport()
    core.http1_client(client)
    data = gets(200)
    assert client.give(data) == b""
    assert len(core.records.all) == 1
    assert not is_read(client)
    assert core.context.budget.used == len(data) - len(GET % 0)
    await turns_until_done(core, 200, REQUESTS_PER_PIECE)
    assert [record.head.path for record in core.records.all] == [b"/%d" % n for n in range(200)]
    assert client.sent.count(b"HTTP/1.1 404 ") == 200
    assert is_read(client)
    assert core.context.budget.used == 0


async def test_frames_beyond_a_number_wait_for_later_turns() -> None:
    core = Core()
    client = MemoryTransport()
    core.http2_client(client)
    assert client.give(heads(150)) == b""
    assert len(core.records.all) == FRAMES_FROM_CLIENT
    assert not is_read(client)
    assert core.context.budget.used == len(heads(150)) - len(heads(FRAMES_FROM_CLIENT))
    await turns_until_done(core, 150, FRAMES_FROM_CLIENT)
    assert is_read(client)
    assert core.context.budget.used == 0


async def test_frames_that_are_errors_of_a_stream_count_too() -> None:
    core = Core()
    client = MemoryTransport()
    core.http2_client(client)
    sent = len(client.sent)
    wrong = http2.frame(http2.HEADERS, 5, b"\0\0\0\1", hpack.encode([(b"a", b"b")]))
    ids = range(1, 401, 2)
    client.give(b"".join([wrong[:5] + each.to_bytes(4, "big") + wrong[9:] for each in ids]))
    assert client.sent[sent:] == b""  # written at the end of the turn
    assert not is_read(client)
    assert core.context.budget.used > 200 * len(wrong) - 2 * FRAMES_FROM_CLIENT * len(wrong)
    while not is_read(client):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert client.sent[sent:].count(b"\0\0\4\3\0") == 200  # RST_STREAM


async def test_many_busy_connections_together_get_no_more_of_a_turn_than_one() -> None:
    core = Core()
    clients = [MemoryTransport() for _ in range(10)]
    for client in clients:
        core.http1_client(client)
        client.give(gets(50))
    assert len(core.records.all) == 10
    bystander = MemoryTransport()
    core.http1_client(bystander)
    for asked in range(1, 11):
        before = len(core.records.all)
        bystander.give(GET % 7)
        assert bystander.sent.count(b"HTTP/1.1 404 ") == asked  # at once, not behind the others
        await asyncio.sleep(0)
        assert len(core.records.all) - before <= 1 + REQUESTS_PER_PIECE
    await turns_until_done(core, 10 * 50 + 10, REQUESTS_PER_PIECE)
    assert all(client.reads for client in clients)


async def test_a_turn_reads_only_so_much_of_an_upload() -> None:
    core = Core(entry("x"))
    client = MemoryTransport()
    core.http1_client(client)
    rest = client.give(upload_head(8_000_000) + bytes(8_000_000))
    turns = 0
    while rest:
        assert not is_read(client)
        await asyncio.sleep(0)
        await core.connected()
        before = len(rest)
        rest = client.give(rest)
        assert before - len(rest) <= TURN_BYTES
        turns += 1
    assert turns >= 8_000_000 // TURN_BYTES - 1


@pytest.mark.parametrize("is_refused", [False, True])
async def test_a_body_of_tiny_chunks_is_read_over_many_turns(is_refused: bool) -> None:
    core = Core(entry("x"))
    client = MemoryTransport()
    core.http1_client(client)
    key = b"y" if is_refused else b"x"
    head = b"POST /v1/traces HTTP/1.1\r\nHost: g\r\nContent-Type: application/x-protobuf\r\n"
    head += b"Authorization: StackState " + key + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    rest = client.give(head + b"1\r\na\r\n" * TINY_CHUNKS + b"0\r\n\r\n")
    turns = 0
    while rest or not client.reads:
        await asyncio.sleep(0)
        rest = client.give(rest)
        turns += 1
    if is_refused:
        assert b"connection: close" in client.sent
        assert client.has_sent_eof
    else:
        await core.connected()
        assert turns > TINY_CHUNKS // 1_000
        (request,) = core.connector.requests
        assert request.body == b"a" * TINY_CHUNKS
        assert request.ended
        request.answer()
        assert client.sent.startswith(b"HTTP/1.1 200 ")
    client.lose()
    assert core.context.budget.used == 0


async def test_what_waits_of_a_connection_that_is_gone_is_let_go() -> None:
    core = Core()
    first, second = MemoryTransport(), MemoryTransport()
    core.http1_client(first)
    core.http2_client(second)
    first.give(gets(100))
    second.give(heads(500))
    assert core.context.budget.used > 0
    first.lose()
    second.lose()
    assert core.context.budget.used == 0
    answered = len(core.records.all)
    while core.context.backlog:
        await asyncio.sleep(0)
    assert len(core.records.all) == answered


async def test_a_backlog_does_one_piece_a_turn_in_order() -> None:
    backlog = Backlog(asyncio.get_running_loop())
    done: list[int] = []

    def add_another() -> None:
        done.append(2)
        backlog.add(CLIENT, lambda: done.append(4))

    backlog.add(CLIENT, lambda: done.append(1))
    backlog.add(CLIENT, add_another)
    backlog.add(CLIENT, lambda: done.append(3))
    for expected in ([1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4]):
        await asyncio.sleep(0)
        assert done == expected
    assert not backlog


async def test_clients_take_turns_however_many_pieces_of_one_wait() -> None:
    backlog = Backlog(asyncio.get_running_loop())
    done: list[str] = []
    for client in ["flood"] * 9 + [CLIENT]:
        backlog.add(client, functools.partial(done.append, client))
    for _ in range(3):
        await asyncio.sleep(0)
    assert done == ["flood", CLIENT, "flood"]
    backlog.finish()


async def test_however_many_uploads_come_in_a_turn_it_reads_only_so_much_of_them() -> None:
    core = Core(entry("x"))
    clients = [MemoryTransport() for _ in range(30)]
    for client in clients:
        core.http1_client(client)
        client.give(upload_head(10_000_000))
        await core.connected()
    await asyncio.sleep(0)
    piece = bytes(40_000)
    lengths = [len(piece) - len(client.give(piece)) for client in clients]
    in_full = -(-TURN_BYTES // (len(piece) + READ_COST))
    assert lengths == [len(piece)] * in_full + [LARGE_READ_BYTES] * (len(clients) - in_full)
    bystander = MemoryTransport()
    core.http1_client(bystander)
    bystander.give(GET % 7)
    assert bystander.sent.startswith(b"HTTP/1.1 404 ")
    for waiting in range(len(core.context.backlog), 0, -1):
        assert sum(client.reads for client in clients) == len(clients) - waiting
        await asyncio.sleep(0)
    assert all(client.reads for client in clients)


async def test_those_that_read_much_wait_for_each_other_while_turns_have_enough() -> None:
    backlog = Backlog(asyncio.get_running_loop())
    for _ in range(TURN_BYTES // (2 * READ_COST) - 1):
        assert backlog.note_read(READ_COST)
    assert not is_sated(backlog)
    assert not backlog.note_read(READ_COST)
    assert is_sated(backlog)
    await asyncio.sleep(0)
    assert not is_sated(backlog)
    assert not backlog.note_read(1)
    await asyncio.sleep(0)
    assert backlog.note_read(1)


async def test_not_all_who_wait_for_room_are_read_on_in_one_turn() -> None:
    core = Core()
    context = core.context
    transports = [MemoryTransport() for _ in range(5)]
    for transport in transports:
        gate = ReadGate(context.budget, context.backlog, CLIENT)
        gate.begin(transport)
        context.budget.charge(context.budget.limit)
        gate.wait_for_room(holds=False)
        context.budget.used = 0
    context.budget.release(0)
    for read_on in range(5):
        assert sum(transport.reads for transport in transports) == read_on
        await asyncio.sleep(0)
    assert all(transport.reads for transport in transports)


async def test_many_http2_connections_that_have_much_to_read_share_a_turn() -> None:
    core = Core()
    clients = [MemoryTransport() for _ in range(10)]
    for client in clients:
        core.http2_client(client)
        client.give(heads(100))
    most = FRAMES_FROM_CLIENT + 9 * FRAMES_OF_A_READ
    assert len(core.records.all) == most
    await turns_until_done(core, 10 * 100, FRAMES_FROM_CLIENT)
    assert all(client.reads for client in clients)


async def test_a_piece_is_shorter_while_others_wait() -> None:
    core = Core()
    for _ in range(2):
        client = MemoryTransport()
        core.http2_client(client)
        client.give(heads(500))
    for _ in range(20):
        before = len(core.records.all)
        await asyncio.sleep(0)
        assert len(core.records.all) - before == FRAMES_OF_A_PIECE


async def test_what_comes_on_a_connection_that_waits_for_its_turn_waits_too() -> None:
    core = Core()
    client = MemoryTransport()
    core.http2_client(client)
    client.give(heads(FRAMES_FROM_CLIENT + 10))
    client.reads = True  # an event loop may have read it already
    client.give(heads(5, 1_001))
    assert len(core.records.all) == FRAMES_FROM_CLIENT
    assert len(core.context.backlog) == 1
    await asyncio.sleep(0)
    assert len(core.records.all) == FRAMES_FROM_CLIENT + 15
    assert not core.context.backlog


@pytest.mark.parametrize("fields, most", [(2, FRAMES_FROM_CLIENT), (100, 4), (190, 2)])
async def test_large_heads_count_as_many_frames(fields: int, most: int) -> None:
    core = Core()
    client = MemoryTransport()
    core.http2_client(client)
    block = hpack.encode([(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")])
    block += hpack.encode([(b"a%d" % number, b"12345") for number in range(fields)])
    ids = range(1, 201, 2)
    client.give(b"".join([http2.frame(http2.HEADERS, 5, n.to_bytes(4, "big"), block) for n in ids]))
    assert len(core.records.all) == most
    await turns_until_done(core, 100, most)


async def test_the_end_of_a_turn_comes_before_the_next_piece() -> None:
    backlog = Backlog(asyncio.get_running_loop())
    done: list[str] = []
    backlog.call_soon(lambda: done.append("nothing waits"))
    await asyncio.sleep(0)
    for number in range(3):
        backlog.add(CLIENT, lambda number=number: done.append(f"piece {number}"))  # type: ignore[misc]  # a default binds it
    backlog.call_soon(lambda: done.append("end of a turn"))
    await asyncio.sleep(0)
    backlog.call_soon(lambda: done.append("end of the next"))
    while backlog:
        await asyncio.sleep(0)
    assert done == [
        "nothing waits",
        "end of a turn",
        "piece 0",
        "end of the next",
        "piece 1",
        "piece 2",
    ]


async def test_a_backlog_is_finished_at_once_when_no_turns_follow() -> None:
    backlog = Backlog(asyncio.get_running_loop())
    done: list[int] = []

    def add_another() -> None:
        done.append(1)
        backlog.add(CLIENT, lambda: done.append(2))

    backlog.add(CLIENT, add_another)
    backlog.finish()
    assert done == [1, 2]
    await asyncio.sleep(0)
    assert not backlog.is_busy
    backlog.add(CLIENT, lambda: done.append(3))
    await asyncio.sleep(0)
    assert done == [1, 2, 3]


def test_a_turn_takes_steps_only_for_so_long() -> None:
    steps = iter([None] * 10)
    seconds = itertools.count(0, STEPS_S / 3)
    assert take_steps(steps, lambda: next(seconds))
    assert len(list(steps)) == 7
    assert not take_steps(iter([None] * 10), lambda: 0.0)
    assert not take_steps(iter([]), lambda: next(seconds))
    steps = iter([None] * (MOST_STEPS + 3))
    assert take_steps(steps, lambda: 0.0)
    assert len(list(steps)) == 3


class Swept:
    """A connection that notes when it is swept."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def sweep(self, now: float) -> None:
        self.times.append(now)

    def holdings(self) -> Iterator[tuple[str, int]]:
        return iter(())

    def start_drain(self) -> None:
        """There is nothing to finish."""

    def abort(self) -> None:
        """There is no transport."""


async def test_a_sweep_can_be_done_over_several_turns_without_those_that_close_meanwhile() -> None:
    async with running_worker(sweeping=False) as gateway:
        connections = [Swept() for _ in range(4)]
        for connection in connections:
            gateway.context.connections.add(connection)
        steps = gateway.worker.sweeping(7.0)
        next(steps)
        gateway.context.connections.discard(connections[2])
        next(steps)
        assert [connection.times for connection in connections] == [[7.0], [7.0], [], []]
        assert len(list(steps)) == 1
        assert [connection.times for connection in connections] == [[7.0], [7.0], [], [7.0]]
        gateway.sweep()
        assert [len(connection.times) for connection in connections] == [2, 2, 0, 2]
        for connection in connections:
            gateway.context.connections.discard(connection)
