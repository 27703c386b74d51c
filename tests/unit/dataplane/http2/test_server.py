"""A client's HTTP/2 connection on an in-memory transport: answers, counts, ends."""

from __future__ import annotations

import asyncio
import json

import hpack as library
import pytest
import structlog.testing
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
)

from gateway import metrics
from gateway.dataplane.core.heads import FieldKinds
from gateway.dataplane.http2.request_head import KnownFields
from gateway.dataplane.http2.server import Http2Server
from gateway.wire import hpack, http2
from gateway.wire.http2 import ErrorCode, frame
from tests.support.in_memory import GRPC_PATH, HTTP_PATH, Core
from tests.support.memory_transport import MemoryTransport
from tests.support.plane import KEY, entry
from tests.support.raw_http2 import START, Fields, head_frame, stream_id

pytestmark = pytest.mark.asyncio
CREDENTIAL = (b"authorization", b"StackState " + KEY.encode())
GRPC = (b"content-type", b"application/grpc")
PROTOBUF = (b"content-type", b"application/x-protobuf")


def pseudo(path: bytes = GRPC_PATH, method: bytes = b"POST") -> Fields:
    return (
        (b":method", method),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"gateway"),
    )


class Client:
    """A client whose frames a test writes; it reads with the `hyperframe` and `hpack` libraries."""

    def __init__(self, *, is_stuck: bool = False, reads_settings: bool = False) -> None:
        self.core = Core(entry(KEY))
        self.server = Http2Server(
            self.core.context,
            self.core.pipeline,
            KnownFields(self.core.credentials, FieldKinds()),
            "192.0.2.7:1",
        )
        self.transport = MemoryTransport(self.server.protocol, is_stuck=is_stuck)
        self._decoder = library.Decoder()
        self.send(START)
        if reads_settings:  # from now on header blocks are stateless
            self.send(frame(http2.SETTINGS, http2.ACK, http2.NO_STREAM, b""))
            self.request(99_999, *pseudo(b"/nowhere"), ended=True, before=b"\x20")
            self._first = 100_001
        else:
            self._first = 1
        self.frames()

    def send(self, data: bytes) -> None:
        self.transport.receive(data)

    async def worked_off(self) -> None:
        """Wait until everything that was sent has had its turn."""
        while self.core.context.backlog:
            await asyncio.sleep(0)

    def request(
        self, number: int, *fields: tuple[bytes, bytes], ended: bool, before: bytes = b""
    ) -> None:
        flags = http2.END_HEADERS | ended
        self.send(
            frame(http2.HEADERS, flags, stream_id(number), before + hpack.encode(list(fields)))
        )

    @property
    def first(self) -> int:
        """The first stream that a test may open."""
        return self._first

    def frames(self) -> list[Frame]:
        """Return what has come since the last call."""
        self.server._transport.flush()
        data, self.transport.written = self.transport.written, b""
        frames = []
        while data:
            one, length = Frame.parse_frame_header(memoryview(data[:9]))
            one.parse_body(memoryview(data[9 : 9 + length]))
            frames.append(one)
            data = data[9 + length :]
        return frames

    def fields(self, head: HeadersFrame) -> dict[str, str]:
        return {str(name): str(value) for name, value in self._decoder.decode(head.data)}

    def counted(self) -> dict[tuple[str, ...], float]:
        """Return all counters of requests and abuse that are not 0."""
        names = {metrics.REQUESTS.name, metrics.ABUSE.name}
        deltas = self.core.context.counters.take_deltas()
        return {one.labels: one.value for one in deltas if one.metric in names}  # type: ignore[misc]  # counters

    def results(self) -> list[tuple[str, str, str]]:
        """Return protocol, code and result of the requests that have ended."""
        records = self.core.records.all
        return [(one.route.counters.protocol, one.code, one.result) for one in records]

    def sweep(self, in_s: float = 0.0) -> None:
        context = self.core.context
        context.tick = context.now() + in_s
        self.server.sweep(context.tick)


MALFORMED: dict[str, Fields] = {
    "upper case": ((b"X-Upper", b"1"),),
    "no token": ((b"a b", b"1"),),
    "no name": ((b"", b"1"),),
    "a line break": ((b"x", b"a\r\nb: c"),),
    "a null": ((b"x", b"\0"),),
    "a connection field": ((b"connection", b"close"),),
    "a transfer coding": ((b"transfer-encoding", b"chunked"),),
    "te": ((b"te", b"gzip"),),
    "a late pseudo-field": ((b"x", b"1"), (b":path", b"/")),
    "a pseudo-field twice": ((b":path", b"/"),),
    "an unknown pseudo-field": ((b":status", b"200"),),
    "a length that is no number": ((b"content-length", b"-1"),),
    "two lengths": ((b"content-length", b"5"), (b"content-length", b"5")),
    "two types": ((b"content-type", b"a/b"), (b"content-type", b"a/b")),
    "a length above 64 bits": ((b"content-length", b"1" * 30),),
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=list(MALFORMED))
@pytest.mark.parametrize("reads_settings", [False, True], ids=["with a table", "stateless"])
@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize(
    "path, kind", [(GRPC_PATH, GRPC), (HTTP_PATH, PROTOBUF), (HTTP_PATH, (b"x", b"y"))]
)
async def test_a_malformed_head_is_answered_counted_and_logged_once(
    fields: Fields, path: bytes, kind: tuple[bytes, bytes], *, reads_settings: bool, ended: bool
) -> None:
    client = Client(reads_settings=reads_settings)
    client.core.records.all.clear()
    first = client.first
    with structlog.testing.capture_logs() as events:
        for number in (first, first + 2):
            if fields[0][0] == b":path":
                whole: Fields = (*pseudo(path), *fields, kind)
            else:
                whole = (*pseudo(path), kind, *fields)
            client.request(number, *whole, CREDENTIAL, ended=ended)
            head, *body, reset = client.frames()
            assert isinstance(head, HeadersFrame)
            assert isinstance(reset, RstStreamFrame)
            assert reset.error_code == ErrorCode.PROTOCOL_ERROR
            answer = client.fields(head)
            if kind is GRPC:
                assert (answer[":status"], answer["grpc-status"]) == ("200", "3")
                assert "END_STREAM" in head.flags
            else:
                (data,) = body
                assert isinstance(data, DataFrame)
                assert answer[":status"] == "400"
                assert "END_STREAM" in data.flags
                if kind is not PROTOBUF:
                    assert json.loads(data.data)["code"] == 3
    protocol, code = ("grpc", "INVALID_ARGUMENT") if kind is GRPC else ("http", "400")
    assert client.results() == [(protocol, code, "malformed")] * 2
    (event,) = events
    assert event["peer"] == "192.0.2.7:1"
    assert event["detail"]
    assert not client.core.connector.requests
    assert not client.transport.is_closed


@pytest.mark.parametrize("missing", range(3))
async def test_a_head_without_a_pseudo_field_is_answered(missing: int) -> None:
    client = Client()
    fields = [pair for index, pair in enumerate(pseudo()) if index != missing]
    client.request(1, *fields, GRPC, ended=True)
    head, reset = client.frames()
    assert isinstance(head, HeadersFrame)
    assert client.fields(head)["grpc-status"] == "3"
    assert isinstance(reset, RstStreamFrame)


async def test_a_declared_body_that_never_comes_is_answered() -> None:
    client = Client()
    client.request(1, *pseudo(), GRPC, CREDENTIAL, (b"content-length", b"5"), ended=True)
    head, reset = client.frames()
    assert isinstance(head, HeadersFrame)
    assert client.fields(head)["grpc-status"] == "3"
    assert isinstance(reset, RstStreamFrame)
    assert client.results() == [("grpc", "INVALID_ARGUMENT", "malformed")]


@pytest.mark.parametrize("reads_settings", [False, True], ids=["with a table", "stateless"])
async def test_outer_blanks_of_values_are_forwarded_to_nobody(*, reads_settings: bool) -> None:
    client = Client(reads_settings=reads_settings)
    fields = [
        (b"te", b" trailers"),
        (b"content-length", b" 2\t"),
        (b"content-type", b"application/x-protobuf "),
        (b"x-tenant", b" \t blue sky  "),
        (b"x-empty", b"  "),
    ]
    client.request(client.first, *pseudo(HTTP_PATH), *fields, CREDENTIAL, ended=False)
    await client.core.connected()
    (backend,) = client.core.connector.requests
    assert backend.fields == (
        b"content-type: application/x-protobuf\r\nx-tenant: blue sky\r\nx-empty: \r\n"
        b"authorization: StackState " + KEY.encode() + b"\r\n"
    )
    sent = dict(
        library.Decoder().decode(
            backend.request.fields.h2(
                backend.request.head, backend.request.principal, "192.0.2.7:1"
            ),
            raw=True,
        )
    )
    assert (sent[b"x-tenant"], sent[b"content-length"]) == (b"blue sky", b"2")
    client.server.abort()


async def test_crumbs_of_a_cookie_are_one_field_over_http_1_1() -> None:
    """RFC 9113 §8.2.3. Over HTTP/2 they go on as they came."""
    client = Client()
    crumbs = [(b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2 "), (b"cookie", b"c=3")]
    client.request(1, *pseudo(HTTP_PATH), PROTOBUF, *crumbs, CREDENTIAL, ended=False)
    await client.core.connected()
    (backend,) = client.core.connector.requests
    assert b"\r\ncookie: a=1; b=2; c=3\r\nx: y\r\n" in backend.fields
    assert backend.fields.count(b"cookie") == 1
    sent = library.Decoder().decode(
        backend.request.fields.h2(backend.request.head, backend.request.principal, "192.0.2.7:1"),
        raw=True,
    )
    assert [value for name, value in sent if name == b"cookie"] == [b"a=1", b"b=2", b"c=3"]
    client.server.abort()


RESET = ErrorCode.CANCEL.to_bytes(4, "big")


def ended_with(client: Client, kind: str) -> bool:
    """Whether the connection ended with ENHANCE_YOUR_CALM, counted under this kind."""
    goaways = [one for one in client.frames() if isinstance(one, GoAwayFrame)]
    return (
        [one.error_code for one in goaways] == [ErrorCode.ENHANCE_YOUR_CALM]
        and client.counted().get((kind,)) == 1
        and client.transport.is_closed
    )


async def test_streams_that_are_opened_to_be_reset_end_the_connection() -> None:
    """CVE-2023-44487."""
    client = Client()
    for number in range(1, 6_001, 2):
        client.request(number, *pseudo(), GRPC, CREDENTIAL, ended=False)
        client.send(frame(http2.RST_STREAM, 0, stream_id(number), RESET))
    assert ended_with(client, "rst_stream")
    assert len(client.core.records.all) < 1_100


async def test_a_client_may_give_up_all_that_has_waited_for_a_second() -> None:
    client = Client()
    numbers = iter(range(1, 40_001, 2))
    for _ in range(20):
        some = [next(numbers) for _ in range(900)]
        for number in some:
            client.request(number, *pseudo(), GRPC, CREDENTIAL, ended=False)
        client.core.context.tick = client.core.context.now()
        client.send(
            b"".join(frame(http2.RST_STREAM, 0, stream_id(number), RESET) for number in some)
        )
        await client.worked_off()
    assert not client.transport.is_closed
    assert len(client.core.records.all) == 20 * 900


async def test_a_stream_that_no_client_may_open_is_not_reset() -> None:
    """An even stream stays idle: RST_STREAM must not be sent on it (RFC 9113 §6.4)."""
    client = Client()
    client.send(frame(http2.DATA, 0, stream_id(2), b"x"))
    (goaway,) = client.frames()
    assert isinstance(goaway, GoAwayFrame)
    assert goaway.error_code == ErrorCode.PROTOCOL_ERROR


PROVOKED = {
    "a window update of 0": frame(http2.WINDOW_UPDATE, 0, b"%b", bytes(4)),
    "a window that overflows": frame(http2.WINDOW_UPDATE, 0, b"%b", b"\x7f\xff\xff\xff"),
    "a priority of a wrong length": frame(http2.PRIORITY, 0, b"%b", bytes(4)),
    "more than was declared": frame(http2.DATA, 0, b"%b", b"12"),
    "trailers that do not end": frame(http2.HEADERS, http2.END_HEADERS, b"%b", b""),
}


@pytest.mark.parametrize("what", PROVOKED)
async def test_streams_that_are_opened_to_have_them_reset_end_the_connection(what: str) -> None:
    """CVE-2025-8671: what the client causes us to reset counts like what it resets."""
    client = Client()
    for number in range(1, 6_001, 2):
        client.request(number, *pseudo(), GRPC, CREDENTIAL, (b"content-length", b"1"), ended=False)
        client.send(PROVOKED[what].replace(b"%b", stream_id(number)))
    kinds = ("stream_error", "window_update", "priority")
    assert sum(client.counted().get((kind,), 0) for kind in kinds) == 1
    assert client.transport.is_closed
    assert len(client.core.records.all) < 1_100


async def test_streams_beyond_the_announced_number_end_the_connection() -> None:
    client = Client()
    for number in range(1, 10_001, 2):
        client.request(number, *pseudo(), GRPC, CREDENTIAL, ended=False)
    assert ended_with(client, "stream_error")


async def test_lists_that_are_too_large_are_answered_and_end_the_connection_in_time() -> None:
    client = Client()
    fields = [(b"x", b"y" * 16_000)] * 5
    for number in range(1, 11, 2):
        block = hpack.encode([*pseudo(), *fields])
        parts = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
        client.send(frame(http2.HEADERS, 1, stream_id(number), parts[0]))
        for part in parts[1:-1]:
            client.send(frame(http2.CONTINUATION, 0, stream_id(number), part))
        client.send(frame(http2.CONTINUATION, http2.END_HEADERS, stream_id(number), parts[-1]))
        head, body = client.frames()
        assert isinstance(head, HeadersFrame)
        assert client.fields(head)[":status"] == "431"
        assert isinstance(body, DataFrame)
        assert b"HEAD_TOO_LARGE" in body.data
    for number in range(11, 31, 2):
        client.send(frame(http2.HEADERS, 1, stream_id(number), parts[0]))
        for part in parts[1:-1]:
            client.send(frame(http2.CONTINUATION, 0, stream_id(number), part))
        client.send(frame(http2.CONTINUATION, http2.END_HEADERS, stream_id(number), parts[-1]))
    assert ended_with(client, "header_list")


async def test_heads_of_very_many_fields_end_the_connection_soon() -> None:
    client = Client()
    block = hpack.encode([*pseudo(), GRPC]) + b"\x00\x01a\x00" * 1_900  # 7.6 kB, 2 ms to read
    for number in range(1, 19, 2):
        client.send(frame(http2.HEADERS, 5, stream_id(number), block))
    assert ended_with(client, "header_list")


async def test_a_block_that_cannot_be_decoded_ends_the_connection_and_is_counted() -> None:
    client = Client()
    client.send(frame(http2.HEADERS, 5, stream_id(1), b"\x20" * 16_000))
    assert client.counted() == {("header_block",): 1}
    assert client.transport.is_closed


async def test_a_client_that_does_not_read_why_it_ends_is_cut_off() -> None:
    client = Client(is_stuck=True)
    client.send(frame(http2.PING, 0, http2.NO_STREAM, bytes(8)) * 10_000)
    await client.worked_off()
    client.sweep(1)
    aborted = [client.transport.is_aborted]
    client.sweep(4)
    aborted.append(client.transport.is_aborted)
    assert aborted == [False, True]
    assert not len(client.core.context.connections)


def late(number: int, body: bytes, *, ended: bool) -> bytes:
    return frame(http2.DATA, int(ended), stream_id(number), body)


async def test_a_body_behind_its_refusal_must_be_as_long_as_declared() -> None:
    client = Client()
    length = (b"content-length", b"4")
    refused: dict[int, list[tuple[bytes, bool]]] = {
        1: [(b"12345", True)],
        3: [(b"123", True)],
        5: [(b"12", False), (b"123", False)],
        7: [(b"12", False), (b"34", True)],
    }
    resets = {}
    for number, parts in refused.items():
        client.request(number, *pseudo(), GRPC, length, ended=False)
        for part, ended in parts:
            client.send(late(number, part, ended=ended))
        resets[number] = [
            one.error_code for one in client.frames() if isinstance(one, RstStreamFrame)
        ]
    wrong = [ErrorCode.NO_ERROR, ErrorCode.PROTOCOL_ERROR]
    assert resets == {1: wrong, 3: wrong, 5: wrong, 7: [ErrorCode.NO_ERROR]}


GET = pseudo(HTTP_PATH, b"GET")  # answered with 405 from its head


async def test_a_request_that_has_no_body_by_its_method_may_end_after_its_answer() -> None:
    client = Client()
    client.request(1, *GET, ended=False)
    client.send(late(1, b"", ended=True))
    assert [type(one).__name__ for one in client.frames()] == ["HeadersFrame", "DataFrame"]


@pytest.mark.parametrize(
    "then, code",
    [
        (late(1, b"x", ended=False), ErrorCode.NO_ERROR),
        (frame(http2.WINDOW_UPDATE, 0, stream_id(1), b"\x7f\xff\xff\xff"), 3),
    ],
    ids=["a body comes after all", "its window overflows"],
)
async def test_what_comes_instead_of_the_end_resets_its_stream(then: bytes, code: int) -> None:
    client = Client()
    client.request(1, *GET, ended=False)
    client.send(then)
    (reset,) = [one for one in client.frames() if isinstance(one, RstStreamFrame)]
    assert reset.error_code == code


async def test_a_request_that_never_ends_is_reset_at_the_second_sweep() -> None:
    client = Client()
    client.request(1, *GET, ended=False)
    client.frames()
    client.sweep()
    assert client.frames() == []
    client.sweep()
    (reset,) = client.frames()
    assert isinstance(reset, RstStreamFrame)
    assert reset.error_code == ErrorCode.NO_ERROR


async def test_requests_that_never_end_are_remembered_within_bounds() -> None:
    client = Client()
    client.send(frame(http2.WINDOW_UPDATE, 0, http2.NO_STREAM, (1_000_000).to_bytes(4, "big")))
    for number in range(1, 4_001, 2):
        client.request(number, *GET, ended=False)
    sender = client.server._sender
    assert len(sender.unended) <= 100
    assert len(sender.resets) <= 1_000
    assert not sender.streams


def _head_bytes() -> bytes:
    return head_frame(1, (*pseudo(), GRPC, (b"x", b"y" * 200)), ended=True)


async def test_the_time_for_a_head_counts_from_the_first_byte_of_its_frame() -> None:
    """A byte now and then buys none."""
    client = Client()
    client.core.context.tick = client.core.context.now()
    data = _head_bytes()
    for second, byte in enumerate(data[:5]):
        client.send(bytes((byte,)))
        client.sweep(second)
        assert not client.transport.is_closed
    client.send(data[5:20])
    client.sweep(6)
    assert client.transport.is_closed


async def test_the_frames_of_one_block_share_their_time() -> None:
    client = Client()
    block = hpack.encode([*pseudo(), GRPC])
    first = frame(http2.HEADERS, http2.END_STREAM, stream_id(1), block[:9])
    client.send(first[:12])
    client.sweep(0)
    client.send(first[12:])
    client.sweep(4)
    client.send(frame(http2.CONTINUATION, 0, stream_id(1), block[9:12])[:10])
    client.sweep(4.5)
    assert not client.transport.is_closed
    client.sweep(6)
    assert client.transport.is_closed


async def test_heads_that_come_one_after_the_other_have_their_time_each() -> None:
    client = Client()
    for second in range(12):
        data = head_frame(2 * second + 1, (*pseudo(), GRPC), ended=True)
        following = head_frame(2 * second + 3, (*pseudo(), GRPC), ended=True)
        client.send((data[10:] if second else data) + following[:10])
        client.sweep(second)
    assert not client.transport.is_closed
    assert len(client.core.records.all) == 12


async def test_of_data_only_the_next_bytes_must_come_in_time() -> None:
    client = Client()
    client.request(1, *pseudo(), GRPC, CREDENTIAL, ended=False)
    data = late(1, bytes(1_000), ended=False)
    client.core.context.tick = client.core.context.now()
    for at in range(0, 400, 40):
        client.send(data[at : at + 40])
        client.sweep(at / 10)
        client.core.context.tick = client.core.context.now() + at / 10 + 4
    assert not client.transport.is_closed
    client.server.abort()


@pytest.mark.parametrize("how", ["age", "idle", "drain"])
async def test_an_end_is_announced_before_streams_are_refused(how: str) -> None:
    """RFC 9113 §6.8: first a GOAWAY without a limit, then, once the client has seen it, the last
    stream.
    """
    client = Client()
    if how == "drain":
        client.server.start_drain()
    else:
        limits = client.core.context.limits
        age, idle = limits.max_connection_age_s * 1.1, limits.idle_timeout_s
        client.sweep((age if how == "age" else max(age, idle)) + 1)
    ping, first = client.frames()
    assert isinstance(ping, PingFrame)
    assert isinstance(first, GoAwayFrame)
    assert (first.last_stream_id, first.error_code) == (2**31 - 1, ErrorCode.NO_ERROR)
    client.request(1, *pseudo(HTTP_PATH), PROTOBUF, ended=True)  # it was on its way
    head, _ = client.frames()
    assert isinstance(head, HeadersFrame)
    assert not client.transport.is_closed
    client.send(frame(http2.PING, http2.ACK, http2.NO_STREAM, ping.opaque_data))
    (last,) = client.frames()
    assert isinstance(last, GoAwayFrame)
    assert (last.last_stream_id, last.error_code) == (1, ErrorCode.NO_ERROR)
    assert client.transport.is_closed


async def test_many_open_streams_end_in_several_turns_when_their_connection_is_gone() -> None:
    client = Client()
    for number in range(1, 201, 2):
        client.request(number, *pseudo(), GRPC, CREDENTIAL, ended=False)
        client.send(frame(http2.DATA, 0, stream_id(number), b"12345"))
    await client.worked_off()
    client.transport.abort()
    ended = len(client.results())
    assert 0 < ended < 50
    assert client.core.context.budget.used > 0
    while client.core.context.backlog:
        before = len(client.results())
        await asyncio.sleep(0)
        assert 0 < len(client.results()) - before < 50
    assert set(client.results()) == {("grpc", "CANCELLED", "canceled")}
    assert len(client.results()) == 100
    assert client.core.context.budget.used == 0


async def test_an_answer_to_a_connection_that_is_gone_is_let_go() -> None:
    client = Client()
    for number in range(1, 101, 2):
        client.request(number, *pseudo(), GRPC, CREDENTIAL, ended=True)
    await client.worked_off()
    await client.core.connected()
    requests = client.core.connector.requests
    client.transport.abort()
    written = len(client.transport.written)
    assert 0 < len(client.results()) < 50
    requests[0].answer()
    while client.core.context.backlog:
        await asyncio.sleep(0)
    assert len(client.results()) == 50
    assert len(client.transport.written) == written
    assert client.core.context.budget.used == 0
    assert set(client.core.context.counters.in_flight.values()) == {0}
