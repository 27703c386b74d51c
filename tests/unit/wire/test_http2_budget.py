"""What a peer may send without a use to anybody, and what it has a reason for."""

from __future__ import annotations

import pytest

from gateway import metrics
from gateway.dataplane.accept.acceptor import TLS_RECORDS
from gateway.dataplane.http2.server import UNREADABLE
from gateway.wire import http2
from gateway.wire.http2 import ErrorCode, Http2StreamError, Stream, frame
from gateway.wire.http2_budget import KINDS
from tests.support.http2_connection import Connection
from tests.support.raw_http2 import START, request_frame, stream_id

ANY_FLOOD = 10_000
"""More than any client's account holds."""


class _Server(Connection):
    """A server that leaves its requests open, and knows why it failed."""

    def __init__(self) -> None:
        super().__init__({})
        self.code: ErrorCode | None = None
        self.receive(START + request_frame(1, "/", ended=False))

    def headers_received(
        self, stream_id: int, stream: Stream | None, block: bytes, ended: bool
    ) -> None:
        if stream is None:
            self.peer_opened(stream_id)

    def stream_error(self, error: Http2StreamError) -> None:
        super().stream_error(error)
        self.take_output()

    def failed(self, code: ErrorCode, text: str) -> None:
        self.code = code


class _Client(_Server):
    """The side that faces a backend."""

    is_server = False

    def __init__(self) -> None:
        Connection.__init__(self, {})
        self.code = None
        self.receive(http2.settings_frame({}))
        self.new_stream(1)

    def next_own_stream(self) -> int:
        return 3


def on_closed_stream() -> bytes:
    return frame(http2.RST_STREAM, 0, stream_id(1), bytes(4))


PING = frame(http2.PING, 0, http2.NO_STREAM, bytes(8))
UPDATE = frame(http2.WINDOW_UPDATE, 0, http2.NO_STREAM, (1).to_bytes(4, "big"))
STREAM_UPDATE = frame(http2.WINDOW_UPDATE, 0, stream_id(1), (1).to_bytes(4, "big"))
FLOODS: dict[str, list[tuple[bytes, bytes]]] = {
    "window_update": [(b"", UPDATE), (b"", STREAM_UPDATE), (on_closed_stream(), STREAM_UPDATE)],
    "ping": [(b"", PING)],
    "ping_ack": [(b"", frame(http2.PING, http2.ACK, http2.NO_STREAM, bytes(8)))],
    "settings": [
        (b"", http2.settings_frame({})),
        (b"", frame(http2.SETTINGS, http2.ACK, http2.NO_STREAM, b"")),
    ],
    "goaway": [(b"", frame(http2.GOAWAY, 0, http2.NO_STREAM, bytes(8)))],
    "priority": [(b"", frame(http2.PRIORITY, 0, stream_id(1), bytes(5)))],
    "empty_data": [
        (b"", frame(http2.DATA, 0, stream_id(1), b"")),
        (b"", frame(http2.DATA, http2.PADDED, stream_id(1), b"\0")),
    ],
    "tiny_data": [
        (b"", frame(http2.DATA, 0, stream_id(1), b"x")),
        (b"", frame(http2.DATA, http2.PADDED, stream_id(1), b"\1x\0")),
    ],
    "continuation": [
        (
            frame(http2.HEADERS, 0, stream_id(3), b""),
            frame(http2.CONTINUATION, 0, stream_id(3), b""),
        )
    ],
    "rst_stream": [(on_closed_stream(), on_closed_stream())],
    "closed_stream": [
        (
            # Its first DATA makes this side send RST_STREAM, the others are late.
            on_closed_stream() + frame(http2.DATA, 0, stream_id(1), b"x"),
            frame(http2.DATA, 0, stream_id(1), b"x"),
        )
    ],
    "stream_error": [
        (b"", frame(http2.WINDOW_UPDATE, 0, stream_id(1), bytes(4))),
        (b"", frame(http2.PRIORITY, 0, stream_id(1), bytes(4))),
    ],
    "unknown": [(b"", frame(0xBE, 0, http2.NO_STREAM, b""))],
    "header_list": [
        (
            frame(http2.HEADERS, 0, stream_id(3), bytes(16_384)),
            frame(http2.CONTINUATION, 0, stream_id(3), bytes(16_384)),
        )
    ],
}
CASES = [(kind, *case) for kind, cases in FLOODS.items() for case in cases]


def test_there_is_a_flood_of_each_kind_and_each_is_a_value_of_the_metric() -> None:
    assert set(FLOODS) == set(KINDS) == set(metrics.ABUSE_KINDS) - {UNREADABLE, TLS_RECORDS}


@pytest.mark.parametrize("kind, before, one", CASES)
def test_a_flood_of_each_kind_is_ended_and_named(kind: str, before: bytes, one: bytes) -> None:
    server = _Server()
    server.receive(before)
    for _ in range(ANY_FLOOD):
        server.receive(one)
        server.take_output()
    assert server.code is ErrorCode.ENHANCE_YOUR_CALM
    named = server.receiver.abuse
    # An error of a stream costs more than the frame that provoked it: either may be the last.
    assert named == kind or (kind == "stream_error" and named in {"window_update", "priority"})


@pytest.mark.parametrize("kind, before, one", CASES)
def test_some_of_each_kind_end_nothing(kind: str, before: bytes, one: bytes) -> None:
    server = _Server()
    server.receive(before)
    server.receive(one * {"header_list": 7, "stream_error": 600}.get(kind, 900))
    assert server.code is None


def test_a_setting_costs_by_the_streams_that_it_changes() -> None:
    """Two values in turn would else walk over all of them for the price of one frame."""
    server = _Server()
    server.receive(b"".join(request_frame(number, "/") for number in range(3, 2_003, 2)))
    changes = [
        http2.settings_frame({http2.Setting.INITIAL_WINDOW_SIZE: window}) for window in (0, 1)
    ]
    for _ in range(50):
        server.receive(b"".join(changes))
    assert (server.code, server.receiver.abuse) == (ErrorCode.ENHANCE_YOUR_CALM, "settings")


def test_large_settings_cost_by_their_length() -> None:
    server = _Server()
    large = frame(http2.SETTINGS, 0, http2.NO_STREAM, b"\0\3\0\0\0\1" * 2_730)
    for _ in range(10):
        server.receive(large)
    assert (server.code, server.receiver.abuse) == (ErrorCode.ENHANCE_YOUR_CALM, "settings")


def test_the_account_fills_again_with_time() -> None:
    server = _Server()
    for _ in range(30):
        server.receive(PING * 900)
        server.receiver.control.calm()
    assert server.code is None


def test_requests_that_were_answered_give_a_reason_for_control_frames() -> None:
    """GRPC clients measure the way with a PING per answer and acknowledge twice; refused ones reset
    their stream besides.
    """
    server = _Server()
    for _ in range(ANY_FLOOD):
        server.receiver.control.budget.served += 1
        server.receive(UPDATE * 2 + PING + on_closed_stream())
        server.take_output()
    assert server.code is None


def test_a_client_may_acknowledge_every_data_frame() -> None:
    server = _Server()
    stream = server.streams[1]
    length = 256
    both = b"".join(
        frame(http2.WINDOW_UPDATE, 0, number, length.to_bytes(4, "big"))
        for number in (http2.NO_STREAM, stream_id(1))
    )
    for _ in range(ANY_FLOOD):
        assert server.sender.send_data(stream, bytes(length), False) == 0
        server.take_output()
        server.receive(both)
    assert server.code is None


def test_what_was_earned_is_no_more_than_an_account_holds() -> None:
    """A client cannot save up for a flood."""
    server = _Server()
    server.receiver.control.budget.served += 1_000_000
    server.receive(PING * ANY_FLOOD)
    assert server.code is ErrorCode.ENHANCE_YOUR_CALM


def test_a_backend_may_acknowledge_each_frame_of_any_size() -> None:
    """Else a sender's tiny DATA frames would end the connection that all share."""
    client = _Client()
    client.receive(UPDATE * 50_000)
    assert client.code is None
    client.receive(PING * 50_000)
    assert client.code is ErrorCode.ENHANCE_YOUR_CALM


def test_a_backend_may_send_any_number_of_tiny_bodies() -> None:
    """The usual response over gRPC has five bytes, and its trailers follow."""
    client = _Client()
    client.receive(frame(http2.DATA, 0, stream_id(1), bytes(5)) * 13_000)
    assert client.code is None


def test_a_client_may_send_the_head_of_each_message_alone() -> None:
    server = _Server()
    for number in range(3, 2 * ANY_FLOOD, 2):
        server.receive(request_frame(number, "/", ended=False))
        server.receive(frame(http2.DATA, 0, stream_id(number), bytes(5)))
        server.receive(frame(http2.DATA, http2.END_STREAM, stream_id(number), b"x"))
        server.receiver.control.budget.served += 1
        server.take_output()
    assert server.code is None
