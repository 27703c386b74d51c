"""The bench's load, bodies and backend: every answer is judged, every byte is counted."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import hpack
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench import bodies, heads, keys, load, load_grpc, process, wire
from bench.backend import Backend, Loader, send_load
from bench.load_loop import Plan
from bench.report import LoadReport, RunFailedError, percentile

REQUESTS = 20


def spans_of(message: bytes) -> int:
    request = ExportTraceServiceRequest.FromString(message)
    return sum(len(scope.spans) for each in request.resource_spans for scope in each.scope_spans)


def send(kind: str, port: int, *more: str) -> LoadReport:
    return send_load([kind, f"--port={port}", f"--requests={REQUESTS}", *more], None)


@pytest.mark.parametrize(
    "name, spans, least, most",
    [
        ("small", 1, 500, 700),
        ("30k", 100, 28_000, 32_000),
        ("73k-gzip", 1000, 70_000, 76_000),
        ("594k-gzip", 8192, 580_000, 610_000),
        ("2.5M", 8192, 2_400_000, 2_520_000),
    ],
)
def test_bodies_are_real_exports_of_the_size_they_are_named_for(
    name: str, spans: int, least: int, most: int
) -> None:
    body = bodies.body(name)
    message = gzip.decompress(body.message) if body.encoding == "gzip" else body.message

    assert least < len(body.message) < most
    assert spans_of(message) == spans
    assert body.grpc[:5] == bytes([body.encoding == "gzip"]) + len(body.message).to_bytes(4, "big")
    assert bodies.body(name) == body


def test_an_unknown_body_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(ValueError, match="choose one of small, 30k"):
        bodies.body("large")


def test_keys_have_a_real_keys_length_and_are_all_different() -> None:
    made = keys.keys()

    assert len(set(made)) == len(made) == 1000
    assert {len(each) for each in made} == {46}
    assert all(each.startswith("iapikey-") and each[8:].isalnum() for each in made)


def test_header_blocks_carry_grpc_gos_fields_in_its_order_without_the_dynamic_table() -> None:
    blocks = heads.HeaderBlocks("127.0.0.1:4317", "gzip", key_count=2)
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0

    first = decoder.decode(wire.TABLE_SIZE_UPDATE_TO_ZERO + blocks.request(0), raw=True)
    second = decoder.decode(blocks.request(1), raw=True)

    assert [name.decode() for name, _ in first] == [
        ":method",
        ":scheme",
        ":path",
        ":authority",
        "content-type",
        "user-agent",
        "te",
        "grpc-encoding",
        "grpc-accept-encoding",
        "grpc-timeout",
        "authorization",
    ]
    assert dict(first)[b"authorization"] == f"StackState {keys.key(0)}".encode()
    assert dict(second)[b"authorization"] == f"StackState {keys.key(1)}".encode()  # of two in turn
    assert dict(first)[b"grpc-timeout"] != dict(second)[b"grpc-timeout"]


def test_fields_are_encoded_as_in_the_rfcs_examples() -> None:
    www_example_com = bytes.fromhex("8cf1e3c2e5f23a6ba0ab90f4ff")  # RFC 7541, C.4.1

    assert wire.field(":method", "POST") == b"\x83"
    assert wire.field(":authority", "www.example.com") == b"\x01" + www_example_com
    assert wire.field("x", "&&") == b"\x00\x01x\x02&&"  # longer in Huffman code


@pytest.mark.parametrize(
    "kind, more",
    [
        ("grpc", ["--connections=4", "--streams=2"]),
        ("grpc", ["--connections=2", "--streams=2", "--bdp-pings"]),
        ("grpc", ["--connections=2", "--streams=3", "--body=2.5M"]),
        ("http", ["--connections=4"]),
        ("http", ["--connections=2", "--body=2.5M"]),
        ("grpc", ["--connections=3", "--reconnect"]),
        ("http", ["--connections=3", "--reconnect"]),
        ("grpc", ["--connections=3", "--rate=2000"]),
        ("http", ["--connections=3", "--rate=2000"]),
        *(("grpc", ["--connections=5", f"--encoder={name}"]) for name in heads.recorded()),
        ("grpc", ["--connections=2", f"--encoder={heads.NEVER_SIGNALS}"]),
    ],
)
def test_every_request_and_byte_of_the_load_reaches_the_sink(
    backend: Backend, kind: str, more: list[str]
) -> None:
    requests_before, bytes_before = backend.counts()

    report = send(kind, backend.port, *more)

    body = bodies.body("2.5M" if "--body=2.5M" in more else "small")
    size = len(body.grpc if kind == "grpc" else body.message)
    requests, body_bytes = backend.counts()
    assert report.requests == requests - requests_before == REQUESTS
    assert body_bytes - bytes_before == REQUESTS * size


def test_one_process_carries_out_many_runs_and_says_why_one_failed(backend: Backend) -> None:
    loader = Loader(None)
    arguments = [f"--port={backend.port}", "--requests=20", "--connections=2"]
    try:
        assert loader.send(["grpc", *arguments]).requests == REQUESTS
        with pytest.raises(RunFailedError, match="no encoder 'unheard-of': choose one of c-core"):
            loader.send(["grpc", *arguments, "--encoder=unheard-of"])
        with pytest.raises(RunFailedError, match="Errno 111"):
            loader.send(["grpc", f"--port={process.free_port()}"])
        assert loader.send(["http", *arguments]).requests == REQUESTS
    finally:
        loader.stop()


def test_in_an_open_loop_a_duration_runs_from_when_a_request_was_due() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answer = OK_HEAD + REPLY + wire.frame(wire.HEADERS, 0x5, 1, OK)
        peer = threading.Thread(target=answer_first_request, args=(listener, answer, 0.2))
        peer.start()
        port = listener.getsockname()[1]
        body = bodies.body("small")
        plan = Plan("grpc", port, body, requests=1, connections=1, rate=1e6)
        _, (duration_s,) = load_grpc.run(plan)
        peer.join()

    assert duration_s > 0.2


def test_a_sink_with_pings_of_its_own_is_answered(tmp_path: Path) -> None:
    sink = Backend.start(tmp_path, None, bdp_pings=True)
    try:
        assert send("grpc", sink.port, "--connections=2").requests == REQUESTS
    finally:
        sink.program.stop()


def test_the_sink_waits_for_credit_before_it_answers_on(backend: Backend) -> None:
    block = wire.fields([(":method", "POST"), (":scheme", "http"), (":path", "/a")])
    answers = wire.DEFAULT_WINDOW // 5
    with socket.create_connection(("127.0.0.1", backend.port)) as client:
        client.settimeout(10)
        reader = client.makefile("rb")
        client.sendall(wire.PREFACE + wire.settings({}))
        for number in range(answers + 1):
            stream = 2 * number + 1
            flags = wire.FLAG_END_HEADERS
            client.sendall(
                wire.frame(wire.HEADERS, flags, stream, block)
                + wire.frame(wire.DATA, wire.FLAG_END_STREAM, stream)
            )
            if number < answers:
                assert next_reply(reader.read) == stream
        client.sendall(wire.frame(wire.PING, 0, 0, b"probe-it"))
        assert next_frame(reader.read) == (wire.PING, wire.FLAG_ACK, 0, b"probe-it")
        client.sendall(wire.window_update(0, 100))
        assert next_reply(reader.read) == 2 * answers + 1
        reader.close()


def next_frame(read: Callable[[int], bytes]) -> tuple[int, int, int, bytes]:
    head = read(wire.FRAME_HEADER_BYTES)
    length = int.from_bytes(head[:3], "big")
    return head[3], head[4], int.from_bytes(head[5:], "big"), read(length)


def next_reply(read: Callable[[int], bytes]) -> int:
    """Return the stream of the next DATA frame, having read its trailers too."""
    while True:
        kind, _, stream, payload = next_frame(read)
        if kind == wire.DATA:
            assert payload == load_grpc.EXPECTED_REPLY
            assert next_frame(read)[:3] == (wire.HEADERS, 0x5, stream)
            return stream


HEAD = wire.fields([(":status", "200"), ("content-type", "application/grpc")])
LOST = wire.fields([("grpc-status", "14")])
OK = wire.fields([("grpc-status", "0")])
OK_HEAD = wire.frame(wire.HEADERS, 0x4, 1, HEAD)
END = wire.frame(wire.HEADERS, 0x5, 1, OK)
GZIP = wire.fields([(":status", "200"), ("grpc-encoding", "gzip")])
GZIP_HEAD = wire.frame(wire.HEADERS, 0x4, 1, GZIP)
REPLY = wire.frame(wire.DATA, 0, 1, load_grpc.EXPECTED_REPLY)


@pytest.mark.parametrize(
    "answer, complaint",
    [
        (OK_HEAD + REPLY + wire.frame(wire.HEADERS, 0x5, 1, LOST), r"'grpc-status': '14'"),
        (OK_HEAD + wire.frame(wire.HEADERS, 0x5, 1, OK), r"reply b''"),
        (wire.frame(wire.HEADERS, 0x5, 1, LOST), r"'grpc-status': '14'"),
        (OK_HEAD + OK_HEAD, r"unexpected head"),
        (OK_HEAD + wire.frame(wire.DATA, 0, 1, bytes(65)), r"unexpected DATA"),
        (OK_HEAD + wire.frame(wire.DATA, 0, 1, b"\0\0\0\0\1!") + END, r"reply .*!"),
        (OK_HEAD + wire.frame(wire.DATA, 0, 1, b"\1\0\0\0\0") + END, r"reply b'.x01"),
        (GZIP_HEAD + wire.frame(wire.DATA, 0, 1, b"\1\0\0\0\1!") + END, r"reply b'.x01"),
        (wire.frame(wire.HEADERS, 0x4, 1, b"\xbe"), r"unreadable header block be"),
        (wire.frame(wire.HEADERS, 0x4, 3, HEAD), r"stream 3, which is not open"),
        (wire.frame(wire.RST_STREAM, 0, 1, b"\0\0\0\7"), r"RST_STREAM on stream 1"),
        (wire.frame(wire.GOAWAY, 0, 0, bytes(8)), r"GOAWAY"),
        (b"", r"closed a connection"),
    ],
)
def test_any_other_answer_than_the_expected_one_fails_the_run(
    answer: bytes, complaint: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = threading.Thread(target=answer_first_request, args=(listener, answer))
        peer.start()
        port = listener.getsockname()[1]
        plan = Plan("grpc", port, bodies.body("small"), requests=1, connections=1)
        with pytest.raises(RunFailedError, match=complaint):
            load_grpc.run(plan)
        peer.join()


@pytest.mark.parametrize("message", [b"", b"\n\0"])
def test_replies_without_a_rejection_are_taken_compressed_or_not(message: bytes) -> None:
    packed = gzip.compress(message)
    replies = [
        OK_HEAD + wire.frame(wire.DATA, 0, 1, bytes([0, 0, 0, 0, len(message)]) + message),
        GZIP_HEAD + wire.frame(wire.DATA, 0, 1, bytes([1, 0, 0, 0, len(packed)]) + packed),
    ]
    for reply in replies:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = threading.Thread(target=answer_first_request, args=(listener, reply + END))
            peer.start()
            port = listener.getsockname()[1]
            plan = Plan("grpc", port, bodies.body("small"), requests=1, connections=1)
            assert len(load_grpc.run(plan)[1]) == 1
            peer.join()


def answer_first_request(listener: socket.socket, answer: bytes, after_s: float = 0.0) -> None:
    client, _ = listener.accept()
    with client:
        client.settimeout(10)
        client.sendall(wire.settings({}))
        received = b""
        while wire.frame(wire.DATA, wire.FLAG_END_STREAM, 1)[3:] not in received:
            received += client.recv(65536)
        time.sleep(after_s)
        client.sendall(answer)


def test_the_load_command_says_why_a_run_failed(capsys: pytest.CaptureFixture[str]) -> None:
    port = process.free_port()

    assert load.main(["grpc", f"--port={port}"]) == 1
    assert "the run failed: [Errno 111]" in capsys.readouterr().err


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(1, 501)]

    assert percentile(values, 0.5) == 250
    assert percentile(values, 0.99) == 495
    assert percentile([7.0], 0.99) == 7


def test_reports_survive_the_way_between_processes() -> None:
    report = LoadReport.of(2.0, [0.001, 0.003, 0.002, 0.004])

    assert report.rps == 2
    assert (report.p50_ms, report.p99_ms) == (2, 4)
    assert LoadReport.from_json(report.to_json()) == report
