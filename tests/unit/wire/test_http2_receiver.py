"""Windows and frames of HTTP/2, without I/O."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.wire import http2
from gateway.wire.http2 import ErrorCode, Setting, Stream, frame
from tests.support.http2_connection import Connection
from tests.support.raw_http2 import (
    START,
    request_frame,
    stream_id,
)

_CONNECTION_UPDATE = bytes((http2.WINDOW_UPDATE, 0)) + http2.NO_STREAM


class _Peer(Connection):
    """The layer alone."""

    code: ErrorCode | None = None

    def __init__(self) -> None:
        super().__init__({})
        self.opened: list[int] = []
        self.receive(START + request_frame(1, "/", ended=False))

    def headers_received(
        self, stream_id: int, stream: Stream | None, block: bytes, ended: bool
    ) -> None:
        self.opened.append(stream_id)
        self.peer_opened(stream_id)

    def failed(self, code: ErrorCode, text: str) -> None:
        self.code = code


class _Client(_Peer):
    """The side that faces a backend; stream 1 is open, and stream 3 comes next."""

    is_server = False

    def __init__(self) -> None:
        Connection.__init__(self, {})
        self.receive(http2.settings_frame({}))
        self.new_stream(1)

    def next_own_stream(self) -> int:
        return 3


def test_an_end_without_data_passes_a_window_below_zero() -> None:
    """SETTINGS may make a window negative (RFC 9113 §6.9.2)."""
    peer = _Peer()
    stream = peer.streams[1]
    assert peer.sender.send_data(stream, b"x" * 1_000, ended=False) == 0
    peer.receive(http2.settings_frame({Setting.INITIAL_WINDOW_SIZE: 10}))
    peer.take_output()
    windows = peer.send_window, stream.send_window
    assert peer.sender.send_data(stream, b"", ended=True) == 0
    assert b"".join(peer.take_output()) == frame(http2.DATA, http2.END_STREAM, stream_id(1), b"")
    assert (peer.send_window, stream.send_window) == windows


@pytest.mark.parametrize("cut", [9 + 1_024, 9 + 5_000, 9 + 10_000])
def test_late_data_that_comes_in_parts_is_skipped_whole(cut: int) -> None:
    """The frame behind it is read as a frame."""
    peer = _Peer()
    peer.sender.forget(peer.streams[1])
    data = frame(http2.DATA, 0, stream_id(1), b"x" * 10_000) + request_frame(3, "/")
    peer.receive(data[:cut])
    peer.receive(data[cut:])
    assert not peer.is_failed
    assert peer.opened == [1, 3]


_PRIORITY_ON_ITSELF = (3).to_bytes(4, "big") + b"\0"
ON_A_STREAM: dict[str, tuple[int, bytes, ErrorCode]] = {
    "a priority of a wrong length": (http2.PRIORITY, bytes(4), ErrorCode.FRAME_SIZE_ERROR),
    "a priority on itself": (http2.PRIORITY, _PRIORITY_ON_ITSELF, ErrorCode.PROTOCOL_ERROR),
    "a window update of 0": (http2.WINDOW_UPDATE, bytes(4), ErrorCode.PROTOCOL_ERROR),
    "data": (http2.DATA, b"x", ErrorCode.PROTOCOL_ERROR),
    "data in parts": (http2.DATA, b"x" * 5_000, ErrorCode.PROTOCOL_ERROR),
    "a reset": (http2.RST_STREAM, bytes(4), ErrorCode.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("kind, payload, code", ON_A_STREAM.values(), ids=list(ON_A_STREAM))
@pytest.mark.parametrize("end", [_Peer, _Client])
def test_an_error_on_an_idle_stream_ends_the_connection_and_resets_nothing(
    end: type[_Peer], kind: int, payload: bytes, code: ErrorCode
) -> None:
    """RST_STREAM must not be sent on an idle stream (RFC 9113 §6.4)."""
    peer = end()
    peer.take_output()
    data = frame(kind, 0, stream_id(3), payload)
    peer.receive(data[:2_000])
    peer.receive(data[2_000:])
    assert peer.code is code
    assert [part[3] for part in peer.take_output()] == [http2.GOAWAY]


@pytest.mark.parametrize("kind, payload, code", ON_A_STREAM.values(), ids=list(ON_A_STREAM))
def test_streams_that_only_a_server_may_open_are_idle(
    kind: int, payload: bytes, code: ErrorCode
) -> None:
    """The gateway pushes nothing, so no even stream is ever opened."""
    peer = _Peer()
    peer.take_output()
    payload = payload.replace(_PRIORITY_ON_ITSELF, (2).to_bytes(4, "big") + b"\0")
    peer.receive(frame(kind, 0, stream_id(2), payload))
    assert peer.code is code
    assert [part[3] for part in peer.take_output()] == [http2.GOAWAY]


@pytest.mark.parametrize("payload", [bytes(4), (1).to_bytes(4, "big") + b"\0"])
@pytest.mark.parametrize("end", [_Peer, _Client])
def test_a_wrong_priority_of_a_stream_that_was_opened_resets_that_stream(
    end: type[_Peer], payload: bytes
) -> None:
    peer = end()
    peer.take_output()
    peer.receive(frame(http2.PRIORITY, 0, stream_id(1), payload))
    assert not peer.is_failed
    assert [part[3] for part in peer.take_output()] == [http2.RST_STREAM]


class _Taker(_Peer):
    """Notes what it gets, and returns the credit at once, but for stream 5's."""

    def __init__(self) -> None:
        self.got: list[tuple[int, int, bytes, bool]] = []
        super().__init__()
        for number in (3, 5):
            self.receive(request_frame(number, "/", ended=False))
        self.sender.reset(3, ErrorCode.CANCEL)

    def data_received(self, stream: Stream, chunk: bytes, ended: bool) -> None:
        self.got.append((stream.id, len(self.opened), chunk, ended))
        if stream.id != 5:
            self.receiver.windows.grant(stream, len(chunk))

    def go_on(self) -> None:
        while self.receiver.has_more:
            self.receiver.receive(b"")


_DATA = st.builds(
    lambda number, flags, length: frame(
        http2.DATA, flags, stream_id(number), bytes((flags & http2.PADDED and 3,)) * length
    ),
    st.sampled_from([1, 1, 1, 1, 3, 5, 7, 9]),
    st.sampled_from([0, 0, 0, 0, http2.PADDED, http2.END_STREAM]),
    st.sampled_from([0, 1, 100, 4_095, 4_096, 9_000, http2.MAX_FRAME, http2.MAX_FRAME]),
)
_UPLOAD = [frame(http2.DATA, 0, stream_id(1), bytes(http2.MAX_FRAME))] * 10
_TOO_MUCH = [frame(http2.DATA, 0, stream_id(5), bytes(http2.MAX_FRAME))] * 5
"""More than a stream's window."""
_FULL = st.sampled_from([_UPLOAD[0], _UPLOAD[0], _TOO_MUCH[0]])
_OTHER = st.sampled_from(
    [
        frame(http2.PING, 0, stream_id(0), bytes(8)),
        frame(http2.WINDOW_UPDATE, 0, stream_id(1), (9).to_bytes(4, "big")),
        frame(http2.DATA, 0, stream_id(1), bytes(http2.MAX_FRAME))[:7] + b"\0\0",
        request_frame(7, "/", ended=False),
    ]
)


@given(
    st.lists(st.one_of(_FULL, _FULL, _DATA, _OTHER), min_size=4, max_size=30),
    st.lists(st.sampled_from([1, 12, 3_000, 20_000, 40_000, 70_000]), min_size=1, max_size=8),
)
@example(_UPLOAD, [3_000, 70_000, 50_000])
@example([*_UPLOAD[:5], *_TOO_MUCH, *_UPLOAD], [3_000, 70_000, 70_000, 50_000])
def test_a_large_read_does_what_its_bytes_do(frames: list[bytes], sizes: list[int]) -> None:
    """Whatever comes, wherever it is cut, errors and all."""
    data = b"".join(frames)
    plain, large = _Taker(), _Taker()
    at = 0
    for size in (*sizes, len(data)):
        part = data[at : at + size]
        at += size
        plain.receive(part)
        large.receiver.receive_large(memoryview(bytearray(part)))
        large.go_on()
    assert large.got == plain.got
    assert b"".join(large.take_output()) == b"".join(plain.take_output())
    assert (large.code, large.opened, large.receiver.abuse) == (
        plain.code,
        plain.opened,
        plain.receiver.abuse,
    )
    assert large.receiver.held == plain.receiver.held


def test_an_upload_of_a_large_read_is_not_taken_beyond_the_frames_of_a_turn() -> None:
    peer = _Taker()
    upload = frame(http2.DATA, 0, stream_id(1), bytes(8_000)) * 7
    peer.receive(upload[:2_000])
    before = len(peer.got)
    peer.receiver.receive_large(memoryview(upload[2_000:]), 3)
    assert len(peer.got) - before == 3 + 3, "three of the run, and as many of what follows"
    assert peer.receiver.has_more


def test_a_connection_gets_its_window_back_in_large_pieces() -> None:
    """Bodies of 16 kB cost no WINDOW_UPDATE of the connection each: it is a write of its own."""
    peer = _Peer()
    stream = peer.streams[1]
    updates = [part for part in peer.take_output() if part[3:9] == _CONNECTION_UPDATE]
    received = 0
    while len(updates) < 2:
        stream.receive_window = http2.DEFAULT_WINDOW
        peer.receive(frame(http2.DATA, 0, stream_id(1), bytes(http2.MAX_FRAME)))
        received += http2.MAX_FRAME
        updates += [part for part in peer.take_output() if part[3:9] == _CONNECTION_UPDATE]
    first, second = (int.from_bytes(update[9:], "big") for update in updates)
    assert second == received >= (http2.DEFAULT_WINDOW + first) // 2
