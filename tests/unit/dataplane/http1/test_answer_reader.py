from __future__ import annotations

import itertools
from dataclasses import dataclass

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane.http1.answer_reader import AnswerReader, KnownAnswers
from gateway.wire.http1 import MAX_HEAD_BYTES, Http1Error

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/json\r\nContent-Length: 2\r\n\r\n{}"


@dataclass(frozen=True)
class Answer:
    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    lines: bytes
    body: bytes
    has_ended: bool
    keeps: bool


def read(
    data: bytes, *cuts: int, method: bytes = b"POST", reader: AnswerReader | None = None
) -> Answer:
    """Read an answer that arrives cut into pieces."""
    reader = reader or AnswerReader(KnownAnswers())
    reader.begin(method)
    buffer = bytearray(len(data))
    view = memoryview(buffer)
    edges = [0, *sorted(cut for cut in set(cuts) if 0 < cut < len(data)), len(data)]
    head = None
    body = b""
    for start, stop in itertools.pairwise(edges):
        view[: stop - start] = data[start:stop]
        reader.feed(view, stop - start)
        head = reader.head or head
        reader.head = None
        body += b"".join(reader.chunks)
        reader.chunks = []
    assert head is not None
    return Answer(head.status, tuple(head.fields), head.h1, body, reader.has_ended, reader.keeps)


def test_an_answer_that_was_met_before_is_read_the_same() -> None:
    known = KnownAnswers()
    reader = AnswerReader(known)
    seen = [read(OK, reader=reader) for _ in range(3)]
    assert len(known.heads) == 1
    assert seen[0].lines == b"Content-Type: text/json\r\n"
    assert seen == [seen[0]] * 3
    assert read(OK, 60, reader=reader) == seen[0]
    assert read(OK, reader=reader) == seen[0]


def test_a_known_head_with_a_body_that_is_still_to_come_is_read_by_llhttp() -> None:
    reader = AnswerReader(KnownAnswers())
    read(OK, reader=reader)
    reader.begin(b"POST")
    buffer = bytearray(OK)
    reader.feed(memoryview(buffer), len(OK) - 1)
    assert (reader.has_head, reader.has_ended, reader.chunks) == (True, False, [b"{"])


def test_a_known_head_answers_a_head_request_without_a_body() -> None:
    reader = AnswerReader(KnownAnswers())
    read(OK, reader=reader)
    answer = read(OK[:-2], method=b"HEAD", reader=reader)
    assert (answer.has_ended, answer.body, answer.keeps) == (True, b"", False)


@pytest.mark.parametrize(
    "data",
    [
        OK.replace(b"Content-Type", b"Set-Cookie"),
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nDate: x\r\n\r\n" + OK,
        OK.replace(b"Content-Type: text", b"Content-Type: " + b"x" * 600),
    ],
)
def test_heads_that_do_not_stand_for_themselves_are_not_kept(data: bytes) -> None:
    known = KnownAnswers()
    assert read(data, reader=AnswerReader(known)).has_ended
    assert known.heads == {}


def test_known_heads_are_bounded() -> None:
    known = KnownAnswers()
    reader = AnswerReader(known)
    for number in range(1_200):
        read(b"HTTP/1.1 200 OK\r\nDate: %d\r\nContent-Length: 0\r\n\r\n" % number, reader=reader)
    assert len(known.heads) <= 500


def test_fields_of_one_hop_are_left_out() -> None:
    answer = read(
        b"HTTP/1.1 200 OK\r\nKeep-Alive: 5\r\nConnection: x-hop, keep-alive\r\nX-HOP: 1\r\n"
        b"X-End: 2 \r\nContent-Length: 0\r\n\r\n"
    )
    assert answer.fields == ((b"X-End", b"2"), (b"Content-Length", b"0"))
    assert answer.lines == b"X-End: 2\r\n"


def test_the_end_of_the_stream_ends_only_an_answer_that_is_delimited_by_it() -> None:
    for data, ends in (
        (b"HTTP/1.1 200 OK\r\n\r\nabc", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", False),
    ):
        reader = AnswerReader(KnownAnswers())
        assert not read(data, reader=reader).has_ended
        assert reader.end_of_stream() is ends


def test_nothing_may_follow_an_answer() -> None:
    for data in (OK + b"x", OK + OK, b"HTTP/1.1 204 No Content\r\n\r\nbody"):
        with pytest.raises(Http1Error):
            read(data)
    with pytest.raises(Http1Error):
        read(OK, method=b"HEAD")


def test_interim_heads_without_end_are_refused() -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000
    with pytest.raises(Http1Error):
        read(data, *range(0, len(data), 1_000))


def judge(data: bytes) -> tuple[int, bytes]:
    """Return status and body by an independent reader."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="POST", target="/", headers=[("host", "a")]))
    http.send(h11.EndOfMessage())
    http.receive_data(data)
    status, body = 0, b""
    while not isinstance(event := http.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        assert event is not h11.NEED_DATA
    return status, body


@given(
    status=st.sampled_from([200, 400, 503]),
    chunks=st.lists(st.binary(min_size=1, max_size=20), max_size=4),
    is_chunked=st.booleans(),
    cuts=st.lists(st.integers(1, 200), max_size=10),
    times=st.integers(1, 3),
)
def test_an_answer_is_the_same_however_it_arrives(
    status: int, chunks: list[bytes], is_chunked: bool, cuts: list[int], times: int
) -> None:
    body = b"".join(chunks)
    head = b"HTTP/1.1 %d X\r\nServer: x\r\n" % status
    if is_chunked:
        framed = b"".join([b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks])
        data = head + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"
    else:
        data = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    reader = AnswerReader(KnownAnswers())
    for _ in range(times):
        answer = read(data, *cuts, reader=reader)
        assert (answer.status, answer.body) == judge(data) == (status, body)
        assert (answer.has_ended, answer.keeps) == (True, True)
        assert answer.lines == b"Server: x\r\n"
    assert read(data, reader=reader).body == body


LARGE_HEAD = b"HTTP/1.1 200 OK\r\nX-Large: "


@pytest.mark.parametrize("cuts", [(), (20,), (65_000,), (65_536,)])
@pytest.mark.parametrize("body", [b"ok", b"ok" + bytes(100_000)])
@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_head_is_limited_however_it_arrives(
    cuts: tuple[int, ...], body: bytes, interim: bytes
) -> None:
    """Also where all of it, and more, comes with one read."""
    end = b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    room = MAX_HEAD_BYTES - len(interim + LARGE_HEAD + end)
    fits = interim + LARGE_HEAD + b"x" * room + end
    answer = read(fits + body, *cuts)
    assert (answer.body, answer.has_ended) == (body, True)
    with pytest.raises(Http1Error):
        read(interim + LARGE_HEAD + b"x" * (room + 1) + end + body, *cuts)
