"""What the bench starts, measures and compares, each against the real program."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import bodies, cpu, keys, memory
from bench.backend import Backend, send_load
from bench.nginx import Nginx
from bench.process import Program, ProgramError
from bench.proxies import Command, Gateway, GrpcAio, Proxy
from bench.report import LoadReport, RunFailedError
from bench.rows import ROWS, Row
from bench.running import Kind, Running
from tests.bench.conftest import need_nginx

CHECKOUT = Path(__file__).parents[2]
REQUESTS = 20

Start = Callable[[Proxy], Running]


def send(kind: str, port: int, *more: str) -> LoadReport:
    return send_load([kind, f"--port={port}", f"--requests={REQUESTS}", *more], None)


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
            *("--proxy=nginx", "--proxy=grpc-aio", "--row=grpc-small-1x64", "--no-memory"),
            *("--rounds=2", "--requests=100", f"--json={results}"),
            *(f"--proxy-core={first}", f"--load-core={last}"),
        ]
    )

    assert code == 0
    of_nginx, of_grpc_aio, *lines = capsys.readouterr().out.splitlines()
    assert re.match(r"nginx 1\.\S+, .*: .*, compiled with -O", of_nginx)
    assert of_grpc_aio.startswith("grpc.aio proxy: grpcio ")
    assert [line.split()[1] for line in lines] == ["proxy", "nginx", "grpc-aio"]
    nginx, grpc_aio = json.loads(results.read_text())
    assert nginx["build"] == of_nginx
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


def test_a_proxy_that_decompresses_is_left_out_where_it_would_send_something_else(
    start: Start,
) -> None:
    running = start(GrpcAio())

    assert [row.name for row in ROWS.values() if row.suits(running)] == [
        *("grpc-small", "grpc-small-1x64", "grpc-30k", "grpc-2.5M")
    ]
