"""The bench with very many keys, with few."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import pytest

from bench import pauses, scale, scale_run
from bench.scale_run import Phase, Scale
from tests.support.polling import until


async def test_a_loop_that_is_held_is_noted_and_so_is_what_held_it(tmp_path: Path) -> None:
    probe = pauses.Probe(tmp_path / "1.notes")
    probe.start()
    try:
        await until(lambda: any(each.kind == "loop" for each in pauses.notes(tmp_path)))
        held_until_ns = time.thread_time_ns() + 30_000_000
        while time.thread_time_ns() < held_until_ns:
            pass
        gc.collect()
        await until(lambda: any(each.cpu_ms >= 30 for each in pauses.notes(tmp_path)))
    finally:
        probe.stop()
    assert {each.kind for each in pauses.notes(tmp_path)} == {"open", "loop", "gc"}


def test_half_a_line_of_a_worker_that_was_killed_is_no_note(tmp_path: Path) -> None:
    (tmp_path / "1.notes").write_text("5 open 0 0\n6 loop 2000000 30000000\n7 loop 20")
    assert pauses.notes(tmp_path) == [
        pauses.Note(5, "open", 0, 0),
        pauses.Note(6, "loop", 2, 30),
    ]


def test_everything_happens_to_a_gateway_and_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale_run, "_AT_REST_S", 1.0)
    monkeypatch.setattr(scale_run, "_REVOCATIONS", 100)
    measured = scale_run.measure(200)
    assert len(measured.phases) == 4
    assert all(phase.requests_ms and len(phase.lag_ms) >= 3 for phase in measured.phases)
    assert all(phase.held_ms > 0 for phase in measured.phases)
    assert 10 < measured.worker_mb < measured.control_mb
    assert measured.rows_read > 0
    scale.show(measured)
    assert "a worker is replaced" in capsys.readouterr().out


def test_a_look_up_is_measured() -> None:
    assert 0 < scale.look_up_ns(10, 5) < 1e6


def holding(held_ms: float) -> Scale:
    phase = Phase("at rest", 1.0, requests_ms=[1.0], lag_ms=[1.0], held_ms=held_ms)
    return Scale(1_000, 1.0, 1.0, 1.0, 1, [phase])


def test_the_gates_are_what_they_say() -> None:
    assert scale.missed_gates(holding(20.0), [10_000.0]) == []
    missed = scale.missed_gates(holding(20.1), [1.0, 10_001.0])
    assert missed == [
        "GATE MISSED: 20.1 ms that a worker's loop was held, at most 20",
        "GATE MISSED: 10001.0 ns of a look-up, at most 10000",
    ]


def test_a_bench_whose_workers_note_nothing_is_not_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pauses, "environment", lambda _: {})
    monkeypatch.setattr(scale_run, "_GIVE_UP_S", 0.1)
    assert scale.main(["--keys=10"]) == 2
    assert "2 workers do not come up" in capsys.readouterr().err
