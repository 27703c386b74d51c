"""Windows and frames of HTTP/2, without I/O."""

from __future__ import annotations

import pytest

from gateway.wire import http2
from gateway.wire.http2 import ErrorCode, Setting, Stream, frame
from tests.support.http2_connection import Connection
from tests.support.raw_http2 import (
    START,
    request_frame,
    stream_id,
)


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
