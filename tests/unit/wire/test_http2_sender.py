"""How much work queued data makes: which streams are looked at, and how many frames leave."""

from __future__ import annotations

import pytest

from gateway.wire import http2
from gateway.wire.http2 import Setting, Stream, frame
from tests.support.http2_connection import Connection
from tests.support.raw_http2 import START, request_frame, stream_id

pytestmark = pytest.mark.python_only("compiled code looks at a stream without asking its class")

STREAMS = 1_000
BODY = b"x" * 100


class _Watched(Stream):
    """Notes each look at its window."""

    looked_at: set[int]
    windows_set = 0

    def __init__(self, number: int, send_window: int, window: int, looked_at: set[int]) -> None:
        self.looked_at = looked_at
        self._watched_window = send_window
        super().__init__(number, send_window, window)
        self.windows_set = 0

    @property
    def send_window(self) -> int:
        self.looked_at.add(self.id)
        return self._watched_window

    @send_window.setter
    def send_window(self, value: int) -> None:
        self.windows_set += 1
        self._watched_window = value


class _Blocked(Connection):
    """A server whose 1,000 answers wait, for their own windows unless told otherwise."""

    def __init__(self, window: int = 0) -> None:
        super().__init__({})
        self.looked_at: set[int] = set()
        self.left: list[int] = []
        self.receive(START + http2.settings_frame({Setting.INITIAL_WINDOW_SIZE: window}))
        self.receive(b"".join(request_frame(number, "/") for number in self.numbers))
        for stream in list(self.streams.values()):
            self.sender.send_data(stream, BODY, True)
        self.take_output()
        self.looked_at.clear()

    numbers = range(1, 2 * STREAMS, 2)

    def new_stream(self, stream_id: int) -> Stream:
        stream = _Watched(stream_id, self.sender.peer_window, 65_535, self.looked_at)
        self.streams[stream_id] = stream
        return stream

    def headers_received(
        self, stream_id: int, stream: Stream | None, block: bytes, ended: bool
    ) -> None:
        self.peer_opened(stream_id)

    def data_left(self, stream: Stream, length: int) -> None:
        self.left.append(stream.id)

    def data_frames(self) -> list[bytes]:
        return [part for part in self.take_output() if len(part) == 9 and part[3] == http2.DATA]


def window_update(number: int, increment: int) -> bytes:
    return frame(http2.WINDOW_UPDATE, 0, stream_id(number), increment.to_bytes(4, "big"))


def test_a_window_update_of_the_connection_looks_at_no_stream_that_waits_for_its_own() -> None:
    server = _Blocked()
    server.receive(window_update(0, 1) * 100)
    assert server.looked_at == set()
    assert not server.is_failed


def test_a_window_update_of_a_stream_looks_at_that_stream_alone() -> None:
    server = _Blocked()
    server.receive(window_update(501, 30))
    assert server.looked_at == {501}
    assert server.data_frames() == [b"\0\0\x1e\0\0" + stream_id(501)]
    server.receive(window_update(501, 70))
    assert server.looked_at == {501}
    assert server.left == [501, 501]
    assert not server.streams[501].queue


@pytest.mark.parametrize(
    "settings", [{}, {Setting.INITIAL_WINDOW_SIZE: 0}, {Setting.MAX_CONCURRENT_STREAMS: 7}]
)
def test_settings_that_change_no_window_look_at_no_stream(settings: dict[Setting, int]) -> None:
    server = _Blocked()
    server.receive(http2.settings_frame(settings) * 100)
    assert server.looked_at == set()


def test_one_setting_counts_once_per_frame_and_its_last_value() -> None:
    server = _Blocked()
    values = [*range(1, 2_700), 40]
    payload = b"".join(b"\0\4" + value.to_bytes(4, "big") for value in values)
    server.receive(frame(http2.SETTINGS, 0, http2.NO_STREAM, payload))
    streams = list(server.streams.values())
    assert server.sender.peer_window == 40
    # Once by the setting, once because that let 40 bytes go.
    assert max(stream.windows_set for stream in streams if isinstance(stream, _Watched)) <= 3
    assert [stream.queued for stream in streams] == [60] * STREAMS


def test_what_a_read_brings_is_followed_by_one_pump() -> None:
    """100 bytes of window in 50 frames leave as two DATA frames: the rest of one stream's answer,
    and the beginning of the next.
    """
    server = _connection_window_used_up()
    first, second, *_ = server.sender.ready
    rest = first.queued
    server.receive(window_update(0, 2) * 50)
    sizes = [rest, 100 - rest]
    assert [int.from_bytes(part[:3], "big") for part in server.data_frames()] == sizes
    assert server.left == [first.id, second.id]


def _connection_window_used_up() -> _Blocked:
    """Return a server whose answers wait for the connection's window alone."""
    server = _Blocked(window=1_000)
    assert server.send_window == 0
    assert server.sender.ready
    return server


def test_a_stream_that_has_had_its_turn_waits_behind_the_others() -> None:
    server = _connection_window_used_up()
    first, second, third, *_ = server.sender.ready
    server.receive(window_update(0, first.queued + 1))
    *_, last = server.sender.ready
    assert (next(iter(server.sender.ready)), last) == (third, second)
    server.receive(window_update(0, 100_000))
    assert not server.sender.ready
    assert not any(stream.queue for stream in server.streams.values())


def test_an_end_without_data_is_not_held_up_by_those_who_wait_for_the_window() -> None:
    """It needs none (RFC 9113 §6.9.1), only a transport that takes more."""
    server = _connection_window_used_up()
    server.receive(request_frame(2 * STREAMS + 1, "/"))
    server.sender.writable = False
    assert server.sender.send_data(server.streams[2 * STREAMS + 1], b"", True) == 0
    server.take_output()
    server.sender.writable = True
    server.sender.pump()
    assert server.data_frames() == [b"\0\0\0\0\1" + stream_id(2 * STREAMS + 1)]


def test_a_stream_whose_window_a_setting_has_closed_waits_for_its_own_again() -> None:
    server = _connection_window_used_up()
    server.receive(http2.settings_frame({Setting.INITIAL_WINDOW_SIZE: 0}))
    server.receive(window_update(0, 10_000))
    server.looked_at.clear()
    server.receive(window_update(0, 10_000))
    assert server.looked_at == set()
    server.receive(http2.settings_frame({Setting.INITIAL_WINDOW_SIZE: 1_000}))
    server.receive(window_update(0, 1_000_000))
    assert not any(stream.queue for stream in server.streams.values())
