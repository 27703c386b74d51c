"""The bench's own tools, each against a real peer: what they measure must have happened."""

from __future__ import annotations

import gzip
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hpack
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench import bodies, cpu, keys, load, load_grpc, memory, process, revocation, wire
from bench.backend import Backend, send_load
from bench.process import Program, ProgramError
from bench.proxies import Command, Gateway, GrpcAio, Nginx, Proxy
from bench.report import LoadReport, RunFailedError, percentile
from bench.rows import ROWS, Row
from bench.running import Kind, Running

CHECKOUT = Path(__file__).parents[2]
REQUESTS = 20

Start = Callable[[Proxy], Running]


@pytest.fixture(name="backend", scope="module")
def a_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    backend = Backend.start(tmp_path_factory.mktemp("sink"), None)
    yield backend
    backend.program.stop()


@pytest.fixture(name="start")
def a_starter(backend: Backend, tmp_path: Path) -> Iterator[Start]:
    running: list[Running] = []

    def start(proxy: Proxy) -> Running:
        running.append(proxy.start(tmp_path, backend.port, None))
        return running[-1]

    yield start
    for each in running:
        each.program.stop()


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
    blocks = load_grpc.HeaderBlocks("127.0.0.1:4317", "gzip", key_count=2)
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
    assert dict(second)[b"authorization"] == f"StackState {keys.key(1)}".encode()
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


@pytest.mark.parametrize(
    "proxy", [Nginx(), GrpcAio(), Gateway(key_count=REQUESTS)], ids=lambda each: each.name
)
def test_each_proxy_passes_its_load_on_whole_and_its_cpu_is_counted(
    backend: Backend, start: Start, proxy: Proxy
) -> None:
    running = start(proxy)
    bench = cpu.Bench(backend, bdp_pings=False, load_core=None)

    for kind in running.ports:
        row = Row("a row", kind, "small", connections=4, streams=1, requests=REQUESTS)
        sample = bench.measure(running, row, REQUESTS)
        assert sample.cpu_us > 0
        assert sample.resident_mb > 1


@pytest.mark.parametrize(
    "proxy, known", [(Nginx(), keys.COUNT), (Gateway(key_count=REQUESTS), REQUESTS)]
)
@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_one_refusal_fails_the_run(start: Start, proxy: Proxy, known: int, kind: Kind) -> None:
    running = start(proxy)

    with pytest.raises(RunFailedError, match=r"unexpected|reply"):
        send(kind, running.ports[kind], f"--keys={known + 1}", f"--requests={known + 1}")


def test_the_load_command_says_why_a_run_failed(capsys: pytest.CaptureFixture[str]) -> None:
    port = process.free_port()

    assert load.main(["grpc", f"--port={port}"]) == 1
    assert "the run failed: [Errno 111]" in capsys.readouterr().err


def test_another_proxy_is_measured_by_its_command_line(start: Start) -> None:
    line = f"env PYTHONPATH={CHECKOUT} {sys.executable} -m bench.sink --port {{port}}"

    running = start(Command("a sink", "http", line))

    assert send("http", running.ports["http"], "--connections=1").requests == REQUESTS


def test_a_proxy_that_does_not_start_is_reported_with_its_output(start: Start) -> None:
    line = f"{sys.executable} -c \"raise SystemExit('no such {{port}}')\""
    with pytest.raises(ProgramError, match=r"ended with code 1:\nno such [0-9]+"):
        start(Command("broken", "grpc", line))


def test_a_missing_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"cannot start \./not-there"):
        Program.start("gone", ["./not-there"], folder=tmp_path, core=None)


def test_a_core_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="core 4711 is not usable here"):
        Program.start("pinned", [sys.executable], folder=tmp_path, core=4711)


def test_cpu_of_children_counts(tmp_path: Path) -> None:
    busy = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'while True: pass'])"
    program = Program.start("busy", [sys.executable, "-c", busy], folder=tmp_path, core=None)
    try:
        while len(program.tree()) < 2:
            program.check_alive()
        parent_ns = int(Path(f"/proc/{program.process.pid}/schedstat").read_text().split()[0])
        while program.cpu_ns() < parent_ns + 100_000_000:
            program.check_alive()
    finally:
        for each in reversed(program.tree()):
            each.terminate()
        program.stop()


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


def sample(cpu_us: float) -> cpu.Sample:
    return cpu.Sample(cpu_us=cpu_us, rps=1, p50_ms=1, p99_ms=1, resident_mb=1)


@pytest.mark.parametrize(
    "gateway, nginx, ratio, is_missed",
    [([90, 100, 400], [100, 100, 100], 1.0, False), ([110, 100, 111], [100, 90, 200], 1.1, True)],
)
def test_the_gate_compares_medians(
    gateway: list[float], nginx: list[float], ratio: float, *, is_missed: bool
) -> None:
    summaries = cpu.summarise(
        "grpc-small",
        {
            "gateway": [sample(each) for each in gateway],
            "nginx": [sample(each) for each in nginx],
        },
    )

    assert summaries[0].ratio == pytest.approx(ratio)
    assert summaries[1].ratio is None
    assert (cpu.missed_cpu_gate(summaries) is not None) == is_missed


def test_the_table_and_the_file_have_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *_, last = sorted(os.sched_getaffinity(0)) * 2
    results = tmp_path / "results.json"

    code = cpu.main(
        [
            *("--proxy=nginx", "--proxy=grpc-aio", "--row=grpc-small-1x64", "--no-memory"),
            *("--rounds=2", "--requests=100", f"--json={results}"),
            *(f"--proxy-core={first}", f"--load-core={last}"),
        ]
    )

    assert code == 0
    printed = capsys.readouterr().out
    assert [line.split()[1] for line in printed.splitlines()] == ["proxy", "nginx", "grpc-aio"]
    nginx, grpc_aio = json.loads(results.read_text())
    assert [len(each["samples"]) for each in (nginx, grpc_aio)] == [2, 2]
    assert grpc_aio["ratio"] == pytest.approx(grpc_aio["cpu_us"] / nginx["cpu_us"])


def test_a_bench_that_cannot_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert cpu.main(["--extra=nonsense", "--no-memory"]) == 2
    assert "'nonsense' is not of the form NAME:grpc|http:COMMAND" in capsys.readouterr().err


def test_a_workers_memory_is_measured_apart_from_controls() -> None:
    measured = memory.measure()

    assert len(measured.workers_mb) == 1
    assert memory.missed_gate(memory.Memory(1.0, (45.1,))) is not None
    assert memory.missed_gate(memory.Memory(99.0, (45.0,))) is None


def test_every_row_names_a_body_that_exists() -> None:
    assert {row.body for row in ROWS.values()} == set(bodies.NAMES)
    assert all(row.requests >= row.connections * row.streams for row in ROWS.values())


def test_a_deleted_key_is_refused_by_each_worker(tmp_path: Path) -> None:
    times = tmp_path / "times.json"

    assert revocation.main(["--times=3", "--workers=2", f"--json={times}"]) in {0, 1}

    lags = json.loads(times.read_text())
    assert len(lags["since_commit_ms"]) == 3
    assert len(lags["since_acknowledged_ms"]) + lags["unacknowledged"] == 3
