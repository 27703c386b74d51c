"""Long conversations with both sides, held by other implementations: `h11` and `h2`.

A machine does in any order what a peer may do. Whatever the order, the other implementation
understands everything that comes back, every request gets its answer, nothing is left over.
"""

from __future__ import annotations

import h11
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import NoSuchStreamError, StreamClosedError
from h2.settings import SettingCodes
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fuzz.worlds import Requested, run, server_world, upstream_world
from tests.support.in_memory import GRPC_PATH, HTTP_PATH
from tests.support.plane import KEY

SETTINGS = settings(max_examples=30, stateful_step_count=25, deadline=None)
_OPEN_AT_ONCE = 5
_SIZES = st.sampled_from([0, 1, 5, 100, 5_000, 70_000])
_PIECES = st.sampled_from([1, 2, 9, 100, 1 << 20])


class Http1Client(RuleBasedStateMachine):
    """One request after the other, with h11, cut anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.world = run(server_world(is_http2=False))
        self.http = h11.Connection(h11.CLIENT)
        self.read_to = 0
        self.piece = 1 << 20

    def send(self, event: h11.Event) -> None:
        data = self.http.send(event) or b""
        for at in range(0, len(data), max(self.piece, len(data) // 20)):
            run(self.world.send(data[at : at + max(self.piece, len(data) // 20)]))

    @rule(piece=_PIECES)
    def cut(self, piece: int) -> None:
        """From now on, bytes come in pieces of this size."""
        self.piece = piece

    @precondition(lambda self: self.http.our_state is h11.IDLE)
    @rule(
        size=_SIZES,
        is_chunked=st.booleans(),
        has_key=st.booleans(),
        parts=st.integers(1, 3),
        path=st.sampled_from(["/v1/traces", "/v1/logs?x=%20", "/nowhere"]),
    )
    def request(self, size: int, is_chunked: bool, has_key: bool, parts: int, path: str) -> None:
        body = b"x" * size
        fields = [("host", "gateway"), ("content-type", "application/x-protobuf")]
        if has_key:
            fields.append(("authorization", f"StackState {KEY}"))
        fields.append(
            ("transfer-encoding", "chunked") if is_chunked else ("content-length", str(size))
        )
        before = len(self.world.forwarded)
        self.send(h11.Request(method="POST", target=path, headers=fields))
        for part in range(parts):
            chunk = body[part * size // parts : (part + 1) * size // parts]
            if chunk:
                self.send(h11.Data(chunk))
        self.send(h11.EndOfMessage())
        is_good = has_key and path != "/nowhere"
        status = self.answer()
        assert status == (200 if is_good else 404 if path == "/nowhere" else 401)
        assert len(self.world.forwarded) - before == (1 if is_good else 0)
        if is_good:
            assert max(self.world.forwarded, key=id).ended
            assert any(each.body == body for each in self.world.forwarded)

    def answer(self) -> int:
        """Read one whole answer; return its status."""
        written = self.world.wire.transport.written
        self.http.receive_data(bytes(written[self.read_to :]))
        self.read_to = len(written)
        status = 0
        while not isinstance(event := self.http.next_event(), h11.EndOfMessage):
            assert event is not h11.NEED_DATA
            if isinstance(event, h11.Response):
                status = event.status_code
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        return status

    def teardown(self) -> None:
        run(self.world.end())


class Http2Client(RuleBasedStateMachine):
    """Many streams at once, with h2, under windows that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.world = run(server_world(is_http2=True))
        self.http = H2Connection(H2Configuration(client_side=True))
        self.http.initiate_connection()
        self.read_to = 0
        self.open: set[int] = set()
        """Streams whose request is not ended."""
        self.asked: set[int] = set()
        """Streams whose request is whole and that were not given up."""
        self.answered: set[int] = set()
        self.exchange()

    def exchange(self) -> None:
        """Send what h2 has to send, and give it what has come."""
        while True:
            data = self.http.data_to_send()
            run(self.world.send(data))
            written = self.world.wire.transport.written
            new, self.read_to = bytes(written[self.read_to :]), len(written)
            for event in self.http.receive_data(new):
                if isinstance(event, StreamEnded):
                    self.answered.add(event.stream_id)
                elif isinstance(event, StreamReset):
                    self.reset_by_gateway(event)
            if not data and not new:
                return

    def reset_by_gateway(self, event: StreamReset) -> None:
        """Only a body that is not wanted any more is stopped (RFC 9113 §8.1)."""
        assert event.error_code == 0
        assert event.stream_id in self.answered
        self.open.discard(event.stream_id)

    @precondition(lambda self: len(self.open) < _OPEN_AT_ONCE)
    @rule(is_grpc=st.booleans(), has_key=st.booleans(), ended=st.booleans())
    def begin(self, is_grpc: bool, has_key: bool, ended: bool) -> None:
        stream = self.http.get_next_available_stream_id()
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", (GRPC_PATH if is_grpc else HTTP_PATH).decode()),
            (":authority", "gateway"),
            ("content-type", "application/grpc" if is_grpc else "application/json"),
            ("te", "trailers"),
        ]
        if has_key:
            fields.append(("authorization", f"StackState {KEY}"))
        self.http.send_headers(stream, fields, end_stream=ended)
        (self.asked if ended else self.open).add(stream)
        self.exchange()

    @precondition(lambda self: self.open)
    @rule(size=_SIZES, ended=st.booleans(), data=st.data())
    def body(self, size: int, ended: bool, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(sorted(self.open)))
        try:
            room = min(self.http.local_flow_control_window(stream), 16_384)
            self.http.send_data(stream, b"x" * min(size, room), end_stream=ended)
        except (StreamClosedError, NoSuchStreamError):
            self.open.discard(stream)
            return
        if ended:
            self.open.discard(stream)
            self.asked.add(stream)
        self.exchange()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(sorted(self.open)))
        self.open.discard(stream)
        try:
            self.http.reset_stream(stream, 8)
        except (StreamClosedError, NoSuchStreamError):
            return
        self.exchange()

    @rule(window=st.sampled_from([0, 1, 50, 65_535]))
    def change_windows(self, window: int) -> None:
        self.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.exchange()

    @rule()
    def ping(self) -> None:
        self.http.ping(b"12345678")
        self.exchange()

    @rule()
    def stop_reading(self) -> None:
        """Let what the gateway writes wait."""
        self.world.wire.transport.takes = False

    @rule()
    def read_again(self) -> None:
        self.world.wire.transport.take()
        self.exchange()

    @invariant()
    def is_alive(self) -> None:
        assert self.world.wire.transport.is_open

    def teardown(self) -> None:
        self.world.wire.transport.take()
        self.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 65_535})
        self.exchange()
        assert self.asked <= self.answered
        run(self.world.end())


class Http1Backend(RuleBasedStateMachine):
    """A backend on h11 that gets one request after the other on a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.world = run(upstream_world(is_http2=False))
        self.http = h11.Connection(h11.SERVER)
        self.read_to = 0

    @precondition(lambda self: self.world.connection.capacity == 1)
    @rule(
        size=_SIZES,
        answer=_SIZES,
        is_chunked=st.booleans(),
        status=st.sampled_from([200, 400, 503]),
        piece=_PIECES,
    )
    def exchange(self, size: int, answer: int, is_chunked: bool, status: int, piece: int) -> None:
        body = b"x" * size
        request = self.world.request(body)
        assert request is not None
        assert self.read() == body
        fields = [
            ("transfer-encoding", "chunked") if is_chunked else ("content-length", str(answer))
        ]
        out = self.http.send(h11.Response(status_code=status, headers=fields)) or b""
        if answer:
            out += self.http.send(h11.Data(b"y" * answer)) or b""
        out += self.http.send(h11.EndOfMessage()) or b""
        step = max(piece, len(out) // 20)
        for at in range(0, len(out), step):
            run(self.world.send(out[at : at + step]))
        assert request.notes.ended
        assert request.notes.sections[0].status == status
        assert request.notes.body == b"y" * answer
        assert not request.losses
        self.http.start_next_cycle()

    def read(self) -> bytes:
        """Read the request that was sent, whole; return its body."""
        written = self.world.wire.transport.written
        self.http.receive_data(bytes(written[self.read_to :]))
        self.read_to = len(written)
        body = b""
        while not isinstance(event := self.http.next_event(), h11.EndOfMessage):
            assert event is not h11.NEED_DATA
            if isinstance(event, h11.Data):
                body += event.data
        return body

    def teardown(self) -> None:
        run(self.world.end())


class Http2Backend(RuleBasedStateMachine):
    """A backend on h2 that answers, refuses and gives up in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = run(upstream_world(is_http2=True))
        self.http = H2Connection(H2Configuration(client_side=False))
        self.http.initiate_connection()
        self.read_to = 0
        self.waiting: dict[int, Requested] = {}
        """Streams that have no answer yet."""
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.exchange()

    def exchange(self) -> None:
        while True:
            data = self.http.data_to_send()
            run(self.world.send(data))
            written = self.world.wire.transport.written
            new, self.read_to = bytes(written[self.read_to :]), len(written)
            for event in self.http.receive_data(new):
                if isinstance(event, RequestReceived):
                    self.bodies[event.stream_id] = b""
                    self.waiting[event.stream_id] = self.world.requests[-1]
                elif isinstance(event, DataReceived):
                    self.bodies[event.stream_id] += event.data
                elif isinstance(event, StreamEnded):
                    self.ended.add(event.stream_id)
                assert not isinstance(event, ResponseReceived)
            if not data and not new:
                return

    @precondition(lambda self: len(self.waiting) < _OPEN_AT_ONCE)
    @rule(size=_SIZES)
    def request(self, size: int) -> None:
        if self.world.request(b"x" * size) is not None:
            self.exchange()

    @precondition(lambda self: self.waiting)
    @rule(size=st.sampled_from([0, 1, 500]), is_early=st.booleans(), data=st.data())
    def answer(self, size: int, is_early: bool, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(sorted(self.waiting)))
        if not is_early and stream not in self.ended:
            return
        request = self.waiting.pop(stream)
        head = [(":status", "200"), ("content-type", "application/grpc")]
        self.http.send_headers(stream, head)
        if size:
            self.http.send_data(stream, b"y" * size)
        self.http.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        self.exchange()
        assert request.notes.ended
        assert request.notes.body == b"y" * size
        assert request.notes.sections[-1].grpc_status == 0

    @precondition(lambda self: self.waiting)
    @rule(code=st.sampled_from([2, 7]), data=st.data())
    def give_up(self, code: int, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(sorted(self.waiting)))
        request = self.waiting.pop(stream)
        self.http.reset_stream(stream, code)
        self.exchange()
        assert request.losses == [code == 7]

    @precondition(lambda self: self.bodies)
    @rule(credit=st.sampled_from([1, 1_000, 70_000]), data=st.data())
    def give_credit(self, credit: int, data: st.DataObject) -> None:
        self.http.increment_flow_control_window(credit)
        stream = data.draw(st.sampled_from(sorted(self.bodies)))
        if stream in self.waiting and stream not in self.ended:
            self.http.increment_flow_control_window(credit, stream)
        self.exchange()

    @rule(window=st.sampled_from([0, 10, 65_535]), streams=st.sampled_from([1, 3, 100]))
    def change_settings(self, window: int, streams: int) -> None:
        self.http.update_settings(
            {
                SettingCodes.INITIAL_WINDOW_SIZE: window,
                SettingCodes.MAX_CONCURRENT_STREAMS: streams,
            }
        )
        self.exchange()

    @invariant()
    def is_alive(self) -> None:
        assert self.world.wire.transport.is_open
        assert not any(request.losses for request in self.waiting.values())

    def teardown(self) -> None:
        run(self.world.end())


def _case(machine: type[RuleBasedStateMachine]) -> type:
    case = machine.TestCase
    case.settings = SETTINGS
    return case


TestHttp1Client = _case(Http1Client)
TestHttp2Client = _case(Http2Client)
TestHttp1Backend = _case(Http1Backend)
TestHttp2Backend = _case(Http2Backend)
