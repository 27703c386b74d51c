"""Both server sides and both client sides, on transports in memory."""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

import h11
import hpack

from tests.fuzz.worlds import Reader, Requested, ServerWorld, UpstreamWorld, pieces, run
from tests.support.in_memory import MemoryUpstream

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
SETTINGS_ACK = b"\0\0\0\4\1\0\0\0\0"
_FRAME_HEAD = 9
_REFUSED_FRAMING = re.compile("(Only|multiple) Transfer-Encoding|(bad|conflicting) Content-Length")
"""How h11's errors of framing fields begin."""
_KINDS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one HTTP/2 frame."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags))
    return head + stream.to_bytes(4, "big") + payload


def frames(reader: Reader) -> bytes:
    """Make frames of an input, so that it need not get lengths right; 255: raw bytes follow."""
    made = bytearray()
    while not reader.is_empty:
        kind = reader.byte()
        if kind == 0xFF:
            made += reader.take(reader.byte())
            continue
        flags, stream = reader.byte(), reader.byte()
        payload = reader.take(reader.byte())
        made += frame(_KINDS[kind % len(_KINDS)], flags, stream, payload)
    return bytes(made)


def http1_server(data: bytes) -> None:
    """A client's bytes: requests that are forwarded are those that h11 reads, answers are whole."""
    run(_http1_server(Reader(data)))


async def _http1_server(reader: Reader) -> None:
    options, size = reader.byte(), reader.byte()
    stream = reader.rest()
    world = ServerWorld(is_http2=False, may_send=10 if options & 1 else 1 << 30)
    world.wire.transport.takes = not options & 2
    for number, piece in enumerate(pieces(stream, size)):
        await world.send(piece)
        if number == 4:
            world.wire.transport.take()
    await world.end()
    check_whole_answers(stream, bytes(world.wire.transport.written))
    check_requests(stream, world.forwarded)


def check_whole_answers(stream: bytes, data: bytes) -> None:
    """Check that these are answers to those requests as h11 reads them; the last one may be cut
    off.

    Where an answer ends depends on its request's method (RFC 9112 §6.3). For a request that h11
    refuses, and those behind it, either reading will do.
    """
    methods = [request.method for request in requests_read_by_h11(stream)]
    rests = {data}
    for number in itertools.count():
        if b"" in rests:
            return
        possible = methods[number : number + 1] or [b"POST", b"HEAD"]
        behind = {_behind_answer(method, rest) for method in possible for rest in rests}
        rests = {rest for rest in behind if rest is not None}
        assert rests, ("no answer in HTTP/1.1", number, possible, data)


def _behind_answer(method: bytes, data: bytes) -> bytes | None:
    """Return what follows the first answer, nothing if it is cut off; None: it is no answer."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
    http.send(h11.EndOfMessage())
    http.receive_data(data)
    try:
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                return b""
    except h11.RemoteProtocolError:
        return None
    return http.trailing_data[0]


class ReadRequest(NamedTuple):
    """A request as h11 reads it."""

    method: bytes
    target: bytes
    body: bytes
    is_whole: bool
    is_last: bool
    """Whether the connection ends with it."""


def requests_read_by_h11(stream: bytes) -> list[ReadRequest]:
    """Read pipelined requests until h11 has enough.

    Empty lines before a request line are taken off: h11 does not ignore them as RFC 9112 §2.2 has
    it.
    """
    requests: list[ReadRequest] = []
    while not requests or (requests[-1].is_whole and not requests[-1].is_last):
        while stream.startswith(b"\r\n"):
            stream = stream[2:]
        request, stream = _read_request(stream)
        if request is None:
            break
        requests.append(request)
    return requests


def _read_request(stream: bytes) -> tuple[ReadRequest | None, bytes]:
    """Read one request, None if h11 refuses its head; return what follows it, too.

    h11 refuses framing fields in trailers that it does not understand. A recipient that drops
    trailers need not look at them (RFC 9110 §6.5.1), so such a request is whole.
    """
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    http.receive_data(stream)
    http.receive_data(b"")
    head, body, is_whole = None, b"", False
    try:
        while not is_whole:
            event = http.next_event()
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                is_whole = True
            else:
                break
    except h11.RemoteProtocolError as error:
        is_whole = bool(_REFUSED_FRAMING.match(str(error)))
    if head is None:
        return None, b""
    is_last = head.http_version == b"1.0" or any(
        name == b"connection" and b"close" in value.lower() for name, value in head.headers
    )
    return ReadRequest(head.method, head.target, body, is_whole, is_last), http.trailing_data[0]


def check_requests(stream: bytes, forwarded: list[MemoryUpstream]) -> None:
    """Check that each forwarded request is one that h11 reads too, with the same body."""
    known = requests_read_by_h11(stream)
    for upstream in forwarded:
        path, query = upstream.target
        target = path if query is None else path + b"?" + query
        if not upstream.ended:
            continue
        assert any(
            theirs.is_whole and theirs.target.endswith(target) and theirs.body == upstream.body
            for theirs in known
        ), (upstream.target, upstream.body, known)


def http2_server(data: bytes) -> None:
    """A client's frames: whatever comes, what is written are frames, and nothing is left over."""
    run(_http2_server(Reader(data)))


async def _http2_server(reader: Reader) -> None:
    options, size = reader.byte(), reader.byte()
    opening = PREFACE + EMPTY_SETTINGS + (SETTINGS_ACK if options & 4 else b"")
    stream = (b"" if options & 8 else opening) + frames(reader)
    world = ServerWorld(is_http2=True, may_send=10 if options & 1 else 1 << 30)
    world.wire.transport.takes = not options & 2
    for number, piece in enumerate(pieces(stream, size)):
        await world.send(piece)
        if number == 4:
            world.wire.transport.take()
    await world.end()
    check_frames(bytes(world.wire.transport.written))


def check_frames(data: bytes) -> None:
    """Check that these are whole frames whose header blocks can be read, in order, and that
    nothing follows the end of a stream (RFC 9113 §5.1).
    """
    decoder = hpack.Decoder()
    ended: set[int] = set()
    reset: set[int] = set()
    at = 0
    while at < len(data):
        assert len(data) - at >= _FRAME_HEAD
        length = int.from_bytes(data[at : at + 3], "big")
        kind, flags = data[at + 3], data[at + 4]
        stream = int.from_bytes(data[at + 5 : at + 9], "big")
        payload = data[at + 9 : at + 9 + length]
        assert len(payload) == length <= 16_384
        if kind in {0, 1}:
            assert stream not in ended | reset, "more on a stream after its end"
        if kind == 8:
            assert stream not in reset, "a window of a stream that was reset"
        if kind in {0, 1, 3}:
            assert stream & 1, "a frame on a stream that no client can have opened"
        if kind == 1:
            assert flags & 4
            assert decoder.decode(payload, raw=True)
        if kind in {0, 1} and flags & 1:
            ended.add(stream)
        if kind == 3:
            reset.add(stream)
        at += 9 + length


def http1_upstream(data: bytes) -> None:
    """A backend's bytes: an answer that is whole is the one that h11 reads."""
    run(_http1_upstream(Reader(data)))


async def _http1_upstream(reader: Reader) -> None:
    options, size = reader.byte(), reader.byte()
    answers = reader.rest()
    world = UpstreamWorld(is_http2=False)
    world.wire.transport.takes = not options & 2
    first = world.request(b"x" * 100, ended=bool(not options & 1))
    assert first is not None
    for piece in pieces(answers, size):
        await world.send(piece)
        if options & 4:
            world.request(b"again")
    if options & 8:
        world.upstreams[-1].cancel()
        world.requests[-1].losses.append(False)
    await world.end()
    if not options & 12:
        check_answer(answers, first)


def check_answer(data: bytes, request: Requested) -> None:
    """Check that the answer passed on as whole is what h11 reads."""
    notes = request.notes
    if not notes.ended:
        return
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    http.send(h11.Request(method="POST", target="/", headers=[("host", "a")]))
    http.send(h11.EndOfMessage())
    http.receive_data(data)
    http.receive_data(b"")
    body, status = b"", 0
    try:
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            assert not isinstance(event, h11.ConnectionClosed)
    except h11.RemoteProtocolError:
        return  # it is stricter than llhttp in what a value may hold
    assert (notes.sections[0].status, notes.body) == (status, body)


def http2_upstream(data: bytes) -> None:
    """A backend's frames: each request has one end, whatever comes."""
    run(_http2_upstream(Reader(data)))


async def _http2_upstream(reader: Reader) -> None:
    options, size = reader.byte(), reader.byte()
    stream = (b"" if options & 8 else EMPTY_SETTINGS + SETTINGS_ACK) + frames(reader)
    world = UpstreamWorld(is_http2=True)
    world.wire.transport.takes = not options & 2
    for number, piece in enumerate(pieces(stream, size)):
        if number < 3:
            world.request(b"\0\0\0\0\1x", ended=not options & 1)
        await world.send(piece)
    if options & 4 and world.upstreams:
        last = world.requests[-1]
        if not last.notes.ended and not last.losses:
            world.upstreams[-1].cancel()
            last.losses.append(False)
    await world.end()
    written = bytes(world.wire.transport.written)
    assert written.startswith(PREFACE) or not written
    check_frames(written[len(PREFACE) :])
