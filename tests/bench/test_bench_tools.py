"""What the bench starts, measures and compares, each against the real program."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import bodies, cpu, keys, memory, peers, run_file
from bench.backend import Backend, Loader, send_load
from bench.collector import Collector
from bench.envoy import Envoy
from bench.haproxy import HaProxy
from bench.nginx import Nginx
from bench.nginx_stream import NginxStream
from bench.process import Program, ProgramError
from bench.proxies import AioHttp, Command, Gateway, GrpcAio, NoProxy, Proxy
from bench.report import LoadReport, RunFailedError
from bench.rounds import Bench
from bench.rows import ROWS, SUBJECT, Row
from bench.running import Kind, Running, Setting, Tls
from bench.session import measure
from tests.bench.conftest import need_nginx, started_or_skipped

CHECKOUT = Path(__file__).parents[2]
REQUESTS = 20

Start = Callable[[Proxy], Running]


def send(kind: str, port: int, *more: str) -> LoadReport:
    return send_load([kind, f"--port={port}", f"--requests={REQUESTS}", *more], None)


@pytest.fixture(name="bench", scope="module")
def a_bench(backend: Backend) -> Iterator[Bench]:
    loader = Loader(None)
    yield Bench(backend, loader)
    loader.stop()


def row(kind: Kind, **more: object) -> Row:
    return Row("a row", kind, "small", 4, 1, REQUESTS, **more)  # type: ignore[arg-type] # its fields


PEERS = [
    Nginx(),
    NginxStream(),
    HaProxy(),
    Envoy(),
    Collector(),
    Collector(compression="gzip", name="collector-gzip"),
    GrpcAio(),
    AioHttp(),
    Gateway(key_count=REQUESTS),
]


@pytest.mark.parametrize("proxy", PEERS, ids=lambda each: each.name)
def test_each_proxy_passes_its_load_on_whole_and_its_cpu_is_counted(
    bench: Bench, start: Start, proxy: Proxy
) -> None:
    running = start(proxy)

    for kind in running.ports:
        sample = bench.measure(running, row(kind), REQUESTS)
        assert sample.cpu_us > 0
        assert 1 < sample.before_mb <= sample.peak_mb * 1.5
        assert sample.requests == REQUESTS


def test_without_a_proxy_the_load_reaches_the_backend(bench: Bench, start: Start) -> None:
    sample = bench.measure(start(NoProxy()), row("grpc"), REQUESTS)

    assert sample.cpu_us < 1000


JUDGES = [each for each in PEERS if not isinstance(each, NginxStream)]


@pytest.mark.parametrize("proxy", JUDGES, ids=lambda each: each.name)
def test_each_proxy_that_knows_keys_refuses_unknown_ones(
    bench: Bench, start: Start, proxy: Proxy
) -> None:
    running = start(proxy)

    for kind in running.ports:
        assert bench.measure(running, row(kind, is_refused=True), REQUESTS).rps > 0


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_an_answer_where_a_refusal_is_due_fails_the_run(backend: Backend, kind: Kind) -> None:
    with pytest.raises(RunFailedError, match="not refused"):
        send(kind, backend.port, "--refused")


@pytest.mark.parametrize(
    "proxy, known", [(Nginx(), keys.COUNT), (Gateway(key_count=REQUESTS), REQUESTS)]
)
@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_one_refusal_fails_the_run(start: Start, proxy: Proxy, known: int, kind: Kind) -> None:
    running = start(proxy)

    with pytest.raises(RunFailedError, match=r"unexpected|reply"):
        send(kind, running.ports[kind], f"--keys={known + 1}", f"--requests={known + 1}")


@pytest.fixture(name="tls", scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return peers.certificates(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("is_upstream", [False, True], ids=["listener", "both"])
@pytest.mark.parametrize("make", [Nginx, HaProxy, Envoy, Gateway])
def test_proxies_speak_tls_on_one_side_and_on_both(
    tmp_path: Path, tls: Tls, make: Callable[..., Proxy], is_upstream: bool
) -> None:
    (tmp_path / "sink").mkdir()
    backend = Backend.start(tmp_path / "sink", None, tls=tls)
    port = backend.tls_port if is_upstream else backend.port
    assert port is not None
    proxy = make(REQUESTS, tls=dataclasses.replace(tls, is_upstream=is_upstream))
    running = started_or_skipped(proxy, tmp_path, port)
    try:
        for kind in running.ports:
            before = backend.counts()[0]
            more = ("--tls", f"--keys={REQUESTS}", "--connections=2")
            send(kind, running.ports[kind], *more, "--body=intake-2M")
            send(kind, running.ports[kind], *more, "--body=intake-2k", "--reconnect")
            assert backend.counts()[0] - before == 2 * REQUESTS
    finally:
        running.program.stop()
        backend.program.stop()


def test_a_hundred_thousand_keys_are_put_into_the_store(start: Start, bench: Bench) -> None:
    running = start(Gateway(key_count=100_000))

    known = row("grpc", setting=Setting(keys=100_000))
    assert bench.measure(running, known, REQUESTS).cpu_us > 0


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


def test_the_table_and_the_file_have_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need_nginx()
    first, *_, last = sorted(os.sched_getaffinity(0)) * 2
    results = tmp_path / "results.json"

    code = cpu.main(
        [
            *("--proxy=nginx", "--proxy=no-proxy", "--row=grpc-small", "--row=connect"),
            *("--rounds=2", "--requests=100", f"--json={results}", "--no-memory"),
            *(f"--proxy-core={first}", f"--load-core={last}"),
        ]
    )

    assert code == 0
    run = run_file.load(results)
    assert [(cell.row, cell.proxy) for cell in run.cells] == [
        ("grpc-small", "nginx"),
        ("grpc-small", "no-proxy"),
        ("grpc-small-connect", "nginx"),
        ("http-small-connect", "nginx"),
    ]
    assert all([sample.requests for sample in cell.samples] == [100, 100] for cell in run.cells)
    assert [(each.row, each.proxy) for each in run.latencies] == [("grpc-small", "nginx")]
    assert run.builds["nginx"].title.startswith("nginx 1.")
    out = capsys.readouterr().out
    assert re.search(r"^nginx: nginx 1\.\S+, .*: .*, compiled with -O", out, re.MULTILINE)
    assert re.search(r"^http-small-connect +nginx +[0-9.]+ ", out, re.MULTILINE)


def test_a_peer_that_cannot_be_had_is_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTLP_GATEWAY_TOOLS", str(tmp_path))
    options = cpu._parser().parse_args(["--row=grpc-small", "--rounds=1", "--requests=64"])
    session = dataclasses.replace(
        cpu._session(options),
        proxies={name: peers.MAKERS[name] for name in ("collector", "no-proxy")},
        required=frozenset(),
        with_latency=False,
        with_rest=False,
        proxy_core=None,
        load_core=None,
    )

    run = measure(session)

    assert [cell.proxy for cell in run.cells] == ["no-proxy"]
    assert "build.py otelcol" in run.missing["collector"]


def test_a_proxy_is_started_again_where_another_setting_is_wanted_later(
    tmp_path: Path, tls: Tls
) -> None:
    (tmp_path / "sink").mkdir()
    backend = Backend.start(tmp_path / "sink", None, tls=tls)
    chosen = {"no-proxy": peers.MAKERS["no-proxy"]}
    every = peers.Peers(tmp_path, backend, tls, None, chosen, frozenset(chosen))
    plain = row("grpc", proxies=("no-proxy",))
    over_tls = row("grpc", proxies=("no-proxy",), setting=Setting(tls="both"))
    try:
        first = every.of(plain)["no-proxy"].program.process
        assert every.of(plain)["no-proxy"].program.process is first
        every.stop_others({over_tls.setting})
        assert first.poll() is not None
        every.of(over_tls)
        assert every.of(plain)["no-proxy"].program.process is not first
    finally:
        every.stop()
        backend.program.stop()


def test_a_row_that_a_proxy_answers_wrongly_is_named_and_the_others_are_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    line = f"env PYTHONPATH={CHECKOUT} {sys.executable} -m bench.sink --port {{port}}"

    code = cpu.main(
        [
            *("--proxy=no-proxy", f"--extra=a-sink:grpc:{line}", "--row=grpc-small"),
            *("--row=grpc-small-tls", "--rounds=1", "--requests=64", "--no-memory"),
            *("--no-latency", f"--json={results}"),
        ]
    )

    assert code == 2
    run = run_file.load(results)
    assert [(cell.row, cell.proxy) for cell in run.cells] == [("grpc-small", "no-proxy")]
    assert list(run.failed) == ["grpc-small a-sink", "grpc-small-tls a-sink"]
    assert "the bench could not be run: a-sink, grpc-small-tls: " in capsys.readouterr().err


def test_a_bench_that_cannot_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert cpu.main(["--extra=nonsense", "--no-memory"]) == 2
    assert "'nonsense' is not of the form NAME:grpc|http:COMMAND" in capsys.readouterr().err


def test_a_gateway_at_rest_is_measured() -> None:
    rest = memory.measure()

    assert rest.control_mb > 1
    assert rest.worker_mb > 1
    assert rest.start_s > 0


def test_every_row_names_what_exists_and_ends_in_time() -> None:
    assert {each.body for each in ROWS.values()} == set(bodies.NAMES)
    assert {name for each in ROWS.values() for name in each.proxies} == set(peers.MAKERS)
    assert all(SUBJECT in each.proxies for each in ROWS.values())
    assert all(each.requests >= each.in_flight for each in ROWS.values())


def test_a_proxy_that_decompresses_is_left_out_where_it_would_send_something_else(
    start: Start,
) -> None:
    running = start(GrpcAio())

    suited = [each.name for each in ROWS.values() if each.suits(running)]
    assert "grpc-small" in suited
    assert not [name for name in suited if "gzip" in name or name.startswith("http")]
