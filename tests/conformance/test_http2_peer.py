"""The HTTP/2 layer against the `h2` library as an independent peer, in both roles.

No sockets: bytes go from one to the other in pieces that hypothesis cuts.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import hpack, http2
from gateway.wire.http2 import ErrorCode, Http2StreamError, Setting, Stream
from tests.support.http2_connection import Connection

_SETTINGS = {Setting.HEADER_TABLE_SIZE: 0, Setting.MAX_CONCURRENT_STREAMS: 100}
_REQUEST = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/v1/traces"),
    (b":authority", b"gateway"),
]


class _Role(Connection):
    """Records what the layer reports; `held` keeps credit back until `release`."""

    def __init__(self) -> None:
        super().__init__(_SETTINGS)
        self.heads: dict[int, list[hpack.Pair]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.errors: list[Http2StreamError] = []
        self.failure: ErrorCode | None = None
        self.last_goaway: tuple[int, int] | None = None
        self.left = 0
        self.dropped = 0
        self.gives_credit = True

    def headers_received(
        self, stream_id: int, stream: Stream | None, block: bytes, ended: bool
    ) -> None:
        pairs = self.decoder.decode(block)
        if stream is None:
            stream = self.peer_opened(stream_id)
        self.heads.setdefault(stream_id, []).extend(pairs)
        self.bodies.setdefault(stream_id, bytearray())
        if ended:
            stream.remote_ended = True
            self.ended.add(stream_id)

    def data_received(self, stream: Stream, chunk: bytes, ended: bool) -> None:
        self.bodies[stream.id] += chunk
        if ended:
            self.ended.add(stream.id)
        elif self.gives_credit:
            self.receiver.windows.grant(stream, len(chunk), may_grow=True)

    def data_left(self, stream: Stream, length: int) -> None:
        self.left += length

    def data_dropped(self, stream: Stream, length: int) -> None:
        self.dropped += length

    def reset_received(self, stream: Stream, code: int) -> None:
        self.resets[stream.id] = code

    def stream_error(self, error: Http2StreamError) -> None:
        self.errors.append(error)
        super().stream_error(error)

    def goaway_received(self, last_stream: int, code: int) -> None:
        self.last_goaway = (last_stream, code)

    def failed(self, code: ErrorCode, text: str) -> None:
        self.failure = code


class _Server(_Role):
    is_server = True


class _Client(_Role):
    is_server = False
    next_id = 1

    def next_own_stream(self) -> int:
        return self.next_id

    def open(self, body_follows: bool = True) -> Stream:
        stream = self.new_stream(self.next_id)
        self.next_id += 2
        self.sender.send_headers(stream, hpack.encode(_REQUEST), ended=not body_follows)
        return stream


class _Wire:
    """Carries bytes between the layer and an `h2` peer, cut at random places."""

    def __init__(self, role: _Role, peer: h2.connection.H2Connection, cuts: random.Random) -> None:
        self.role = role
        self.peer = peer
        self.cuts = cuts
        self.on_event: Callable[[h2.events.Event], None] = lambda _: None
        self.events: list[h2.events.Event] = []

    def run(self) -> None:
        """Carry until both are silent."""
        while True:
            to_role = self.peer.data_to_send()
            to_peer = b"".join(self.role.take_output())
            if not to_role and not to_peer:
                return
            for piece in self._pieces(to_role):
                self.role.receive(piece)
            for piece in self._pieces(to_peer):
                for event in self.peer.receive_data(piece):
                    self.events.append(event)
                    self.on_event(event)

    def _pieces(self, data: bytes) -> list[bytes]:
        pieces = []
        while data:
            # Small pieces around the starts of frames, large ones through bodies, or h2 takes
            # minutes.
            size = self.cuts.choice((1, 2, 9, 100, 5_000, 70_000, 70_000, 70_000))
            pieces.append(data[:size])
            data = data[size:]
        return pieces


def _peer(*, client_side: bool) -> h2.connection.H2Connection:
    config = h2.config.H2Configuration(client_side=client_side, header_encoding=None)
    peer = h2.connection.H2Connection(config)
    peer.initiate_connection()
    return peer


def _send_all(peer: h2.connection.H2Connection, left: dict[int, bytes], pad: int | None) -> None:
    """Send as much of each body as the peer's windows allow."""
    for stream_id in list(left):
        while True:
            overhead = 0 if pad is None else pad + 1
            room = min(
                peer.local_flow_control_window(stream_id) - overhead,
                peer.max_outbound_frame_size - overhead,
            )
            chunk = left[stream_id][: max(room, 0)]
            if room < 0 or (not chunk and left[stream_id]):
                break
            rest = left[stream_id][len(chunk) :]
            peer.send_data(stream_id, chunk, end_stream=not rest, pad_length=pad)
            left[stream_id] = rest
            if not rest:
                del left[stream_id]
                break


_seeds = st.integers(min_value=0, max_value=2**32)
_bodies = st.lists(st.integers(min_value=0, max_value=90_000), min_size=1, max_size=4)


@settings(deadline=None, max_examples=40)
@given(seed=_seeds, sizes=_bodies, pad=st.sampled_from([None, 0, 7, 255]))
def test_bodies_of_many_streams_arrive_whole_at_the_server(
    seed: int, sizes: list[int], pad: int | None
) -> None:
    """Fragments, padding and window ends change nothing of what arrives."""
    cuts = random.Random(seed)
    server = _Server()
    peer = _peer(client_side=True)
    wire = _Wire(server, peer, cuts)
    bodies = {1 + 2 * index: cuts.randbytes(size) for index, size in enumerate(sizes)}
    for stream_id in bodies:
        # Sent before the SETTINGS acknowledgement: h2 indexes these fields dynamically.
        fields = [*_REQUEST, (b"x-stream", b"%d" % stream_id), (b"x-same", b"again" * 10)]
        peer.send_headers(stream_id, fields)
    left = dict(bodies)
    while left:
        before = sum(map(len, left.values()))
        _send_all(peer, left, pad)
        wire.run()
        assert not left or sum(map(len, left.values())) < before
    assert server.failure is None
    assert {stream_id: bytes(body) for stream_id, body in server.bodies.items()} == bodies
    assert server.ended == set(bodies)
    for stream_id in bodies:
        assert (b"x-stream", b"%d" % stream_id) in server.heads[stream_id]


@settings(deadline=None, max_examples=40)
@given(seed=_seeds, sizes=_bodies, window=st.sampled_from([0, 1, 1_000, 65_535, 1_000_000]))
def test_bodies_sent_within_the_peers_windows_arrive_whole(
    seed: int, sizes: list[int], window: int
) -> None:
    """Whatever window the peer announces, even 0 at first, all bytes arrive in order."""
    cuts = random.Random(seed)
    client = _Client()
    peer = _peer(client_side=False)
    peer.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    wire = _Wire(client, peer, cuts)
    arrived: dict[int, bytearray] = {}
    ended = set()

    def on_event(event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            arrived.setdefault(event.stream_id, bytearray()).extend(event.data)
            peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            ended.add(event.stream_id)

    wire.on_event = on_event
    wire.run()
    bodies = {}
    queued = 0
    if window == 1:
        sizes = [size % 100 for size in sizes]  # every byte is a frame of its own
    for size in sizes:
        stream = client.open()
        body = bodies[stream.id] = cuts.randbytes(size)
        cut = cuts.randrange(size + 1)
        queued += client.sender.send_data(stream, body[:cut], False)
        queued += client.sender.send_data(stream, body[cut:], True)
        wire.run()
    if window < 1_000:
        # A window that small is opened only by the peer's will.
        for stream_id in bodies:
            if stream_id not in ended:
                peer.increment_flow_control_window(300_000, stream_id)
        wire.run()
    assert {key: bytes(value) for key, value in arrived.items() if value} == {
        key: value for key, value in bodies.items() if value
    }
    assert ended == set(bodies)
    assert client.left == queued
    assert not client.sender.ready
    assert not any(stream.queue for stream in client.streams.values())


def test_a_shrunken_window_stops_sending_until_it_is_open_again() -> None:
    """A SETTINGS change may make a stream's window negative (RFC 9113 §6.9.2)."""
    client = _Client()
    peer = _peer(client_side=False)
    wire = _Wire(client, peer, random.Random(1))
    wire.run()
    stream = client.open()
    assert client.sender.send_data(stream, b"a" * 60_000, False) == 0
    wire.run()
    peer.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    wire.run()
    assert stream.send_window < 0
    assert client.sender.send_data(stream, b"b" * 5, True) == 5
    peer.increment_flow_control_window(60_000, stream.id)
    wire.run()
    assert client.left == 5
    assert stream.local_ended


def test_header_blocks_in_continuation_frames_are_joined() -> None:
    """A block larger than one frame goes both ways."""
    server = _Server()
    peer = _peer(client_side=True)
    wire = _Wire(server, peer, random.Random(2))
    long = [(b"x-%d" % number, b"v" * 400) for number in range(60)]
    peer.send_headers(1, [*_REQUEST, *long], end_stream=True)
    wire.run()
    assert server.heads[1][4:] == long
    server.sender.send_headers(
        server.streams[1], hpack.encode([(b":status", b"200"), *long]), ended=True
    )
    wire.run()
    answer = next(event for event in wire.events if isinstance(event, h2.events.ResponseReceived))
    assert list(answer.headers)[1:] == long


def test_the_dynamic_table_is_followed_until_the_acknowledgement() -> None:
    """Blocks sent before the acknowledgement refer to entries; the decoder keeps them right."""
    server = _Server()
    peer = _peer(client_side=True)
    fields = [*_REQUEST, (b"x-tenant", b"blue"), (b"x-zone", b"eu")]
    for stream_id in (1, 3, 5):
        peer.send_headers(stream_id, fields, end_stream=True)
    early = peer.data_to_send()
    assert hpack.split(early[-20:]) is None, "h2 was expected to use its dynamic table"
    server.receive(early)
    wire = _Wire(server, peer, random.Random(3))
    wire.run()
    stateless = [server.decoder.is_stateless]
    peer.send_headers(7, fields, end_stream=True)
    wire.run()
    stateless.append(server.decoder.is_stateless)
    assert stateless == [False, True]
    assert server.heads == dict.fromkeys((1, 3, 5, 7), fields)


@pytest.mark.parametrize("role_kind", [_Server, _Client])
def test_a_reset_at_any_point_leaves_nothing_behind(role_kind: type[_Role]) -> None:
    """After RST_STREAM at every byte of an exchange the stream is gone and its bytes are let go."""
    for cut in range(0, 30_000, 1_777):
        role = role_kind()
        peer = _peer(client_side=role.is_server)
        wire = _Wire(role, peer, random.Random(cut))
        wire.run()
        stream_id = 1
        if isinstance(role, _Client):
            stream = role.open()
            wire.run()
        else:
            peer.send_headers(stream_id, _REQUEST)
            wire.run()
            peer.send_data(stream_id, b"x" * min(cut, 16_384))
            wire.run()
            stream = role.streams[stream_id]
            role.sender.send_headers(stream, hpack.encode([(b":status", b"200")]), ended=False)
        queued = role.sender.send_data(stream, b"y" * (60_000 + cut), False)
        peer.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
        wire.run()
        assert role.resets == {1: 8}
        assert role.streams == {}
        assert not role.sender.ready
        assert role.left + role.dropped == queued
        assert role.failure is None


def test_goaway_tells_the_last_stream_and_leaves_it_open() -> None:
    """GOAWAY ends nothing by itself."""
    client = _Client()
    peer = _peer(client_side=False)
    wire = _Wire(client, peer, random.Random(4))
    wire.run()
    first, second = client.open(), client.open()
    wire.run()
    client.receive(
        http2.frame(http2.GOAWAY, 0, http2.NO_STREAM, (1).to_bytes(4, "big") + bytes(4) + b"bye")
    )
    assert client.last_goaway == (1, 0)
    assert set(client.streams) == {first.id, second.id}
    assert client.failure is None


def test_late_frames_of_a_stream_that_was_reset_are_ignored() -> None:
    """Their bytes still count for the connection's window, which is given back."""
    server = _Server()
    peer = _peer(client_side=True)
    wire = _Wire(server, peer, random.Random(5))
    peer.send_headers(1, _REQUEST)
    wire.run()
    peer.send_data(1, b"x" * 16_000)
    peer.send_data(1, b"x" * 16_000)
    peer.send_data(1, b"x" * 16_000, end_stream=True)
    late = peer.data_to_send()
    server.sender.reset(1, ErrorCode.NO_ERROR)
    server.receive(late)
    assert server.failure is None
    assert server.errors == []
    assert server.receiver.windows.receive_window > http2.DEFAULT_WINDOW // 2
    wire.run()
    peer.send_headers(3, _REQUEST, end_stream=True)
    wire.run()
    assert 3 in server.ended


def test_more_data_than_the_stream_window_is_a_fault_of_the_stream() -> None:
    """A peer that ignores flow control loses its stream, not the connection."""
    server = _Server()
    server.gives_credit = False
    server.receive(http2.PREFACE + http2.settings_frame({}))
    server.receive(
        http2.frame(http2.HEADERS, http2.END_HEADERS, b"\0\0\0\1", hpack.encode(_REQUEST))
    )
    server.receive(
        http2.frame(http2.HEADERS, http2.END_HEADERS, b"\0\0\0\3", hpack.encode(_REQUEST))
    )
    for _ in range(4):
        server.receive(http2.frame(http2.DATA, 0, b"\0\0\0\1", b"x" * 16_384))
    assert [fault.code for fault in server.errors] == [ErrorCode.FLOW_CONTROL_ERROR]
    assert set(server.streams) == {3}
    assert server.failure is None


_FAULTY = [
    ("data on stream 0", http2.frame(http2.DATA, 0, b"\0\0\0\0", b"x"), ErrorCode.PROTOCOL_ERROR),
    (
        "data on an idle stream",
        http2.frame(http2.DATA, 0, b"\0\0\0\5", b"x"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    (
        "a ping of 7 bytes",
        http2.frame(http2.PING, 0, b"\0\0\0\0", b"1234567"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    (
        "a ping on a stream",
        http2.frame(http2.PING, 0, b"\0\0\0\1", b"12345678"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    (
        "settings of 5 bytes",
        http2.frame(http2.SETTINGS, 0, b"\0\0\0\0", b"12345"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    (
        "a window update of 0",
        http2.frame(http2.WINDOW_UPDATE, 0, b"\0\0\0\0", bytes(4)),
        ErrorCode.PROTOCOL_ERROR,
    ),
    (
        "a window above 2^31 - 1",
        http2.frame(http2.WINDOW_UPDATE, 0, b"\0\0\0\0", b"\x7f\xff\xff\xff"),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    (
        "a push promise",
        http2.frame(http2.PUSH_PROMISE, 4, b"\0\0\0\1", bytes(8)),
        ErrorCode.PROTOCOL_ERROR,
    ),
    (
        "a stray continuation",
        http2.frame(http2.CONTINUATION, 4, b"\0\0\0\1", b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    (
        "a block interrupted",
        http2.frame(http2.HEADERS, 0, b"\0\0\0\1", b"\x82")
        + http2.frame(http2.PING, 0, b"\0\0\0\0", bytes(8)),
        ErrorCode.PROTOCOL_ERROR,
    ),
    ("a frame that is too large", b"\x00\x40\x01\x00\x00\0\0\0\1", ErrorCode.FRAME_SIZE_ERROR),
    (
        "padding longer than its frame",
        http2.frame(http2.HEADERS, 0xC, b"\0\0\0\1", b"\xff\x82"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    (
        "a short goaway",
        http2.frame(http2.GOAWAY, 0, b"\0\0\0\0", bytes(7)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
]


@pytest.mark.parametrize("what,bad,code", _FAULTY, ids=[row[0] for row in _FAULTY])
def test_a_fault_of_the_peer_ends_the_connection_with_goaway(
    what: str, bad: bytes, code: ErrorCode
) -> None:
    """Each with the code that RFC 9113 names; what follows is not read."""
    server = _Server()
    server.receive(http2.PREFACE + http2.settings_frame({}))
    server.receive(bad)
    assert server.failure == code, what
    output = b"".join(server.take_output())
    assert output.rfind(http2.frame(http2.GOAWAY, 0, http2.NO_STREAM, b"")[3:9]) > 0
    server.receive(http2.frame(http2.HEADERS, 5, b"\0\0\0\1", hpack.encode(_REQUEST)))
    assert server.heads == {}


def test_a_flood_of_control_frames_is_ended() -> None:
    """Cheap frames without any request are not answered for ever."""
    server = _Server()
    server.receive(http2.PREFACE + http2.settings_frame({}))
    ping = http2.frame(http2.PING, 0, http2.NO_STREAM, bytes(8))
    for _ in range(3):
        server.receive(ping * 1_000)
        server.receiver.control.calm()
    assert server.failure is None
    server.receive(ping * 6_000)
    assert server.failure is ErrorCode.ENHANCE_YOUR_CALM


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=3_000), seed=_seeds, valid_start=st.booleans())
def test_random_bytes_end_in_goaway_or_nothing(data: bytes, seed: int, valid_start: bool) -> None:
    """No input raises out of the layer."""
    cuts = random.Random(seed)
    server = _Server()
    server.headers_received = lambda *_: None  # type: ignore[method-assign]  # framing only
    if valid_start:
        server.receive(http2.PREFACE + http2.settings_frame({}))
    while data:
        size = cuts.randint(1, 200)
        server.receive(data[:size])
        data = data[size:]


@settings(deadline=None, max_examples=200)
@given(
    frames=st.lists(
        st.tuples(
            st.integers(0, 11), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=60)
        ),
        max_size=30,
    )
)
def test_random_frames_raise_nothing(frames: list[tuple[int, int, int, bytes]]) -> None:
    """Well-formed frames in any order, on any stream, with any flags."""
    server = _Server()
    server.receive(http2.PREFACE + http2.settings_frame({}))
    for kind, flags, stream_id, payload in frames:
        try:
            server.receive(http2.frame(kind, flags, stream_id.to_bytes(4, "big"), payload))
        except (hpack.HeaderBlockError, hpack.HeaderListTooLargeError):
            return  # the role's to handle; this one does not
    assert all(stream.queued >= 0 for stream in server.streams.values())
