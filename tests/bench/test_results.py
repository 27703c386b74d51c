"""What the bench makes of its rounds: gates, tables, pictures, and what README and docs say."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench import cpu, gates, pictures, publish, rounds, run_file, tables
from bench.gates import CASES, Case
from bench.run_file import Cell, Latency, Machine, Paths, Rest, Run, Sample

CHECKOUT = Path(__file__).parents[2]
HOW = (CHECKOUT / "bench" / "README.md").read_text(encoding="utf-8")
MACHINE = Machine(cpu="a CPU", cores=2, kernel="Linux", python="CPython", load=0.1)
MARK = re.compile(r"<!-- /?bench:(\w+) -->")


def sample(cpu_us: float) -> Sample:
    return Sample(
        cpu_us=cpu_us,
        requests=9,
        rps=1000,
        p50_ms=1,
        p99_ms=2,
        before_mb=1,
        peak_mb=3,
        after_mb=2,
    )


def run_of(*measured: tuple[str, str, float], **more: object) -> Run:
    cells = [Cell(row, proxy, [sample(cpu_us)]) for row, proxy, cpu_us in measured]
    start = "2026-11-30T12:00:00+00:00"
    run = Run(made_at=start, is_quick=False, rounds=1, seconds=0.5, machine=MACHINE, cells=cells)
    for name, value in more.items():
        setattr(run, name, value)
    return run


def test_medians_are_compared() -> None:
    run = run_of(("grpc-small", "nginx", 100))
    run.cells.append(Cell("grpc-small", "gateway", [sample(90), sample(120), sample(400)]))

    assert run.ratio("grpc-small", "gateway", "nginx") == 1.2
    assert run.ratio("grpc-small", "gateway", "envoy") is None


def test_a_gate_is_what_must_be_reached_or_a_tenth_more_than_published() -> None:
    case = next(each for each in CASES if each.name == "grpc-small ÷ nginx")
    new = run_of(("grpc-small", "gateway", 100), ("grpc-small", "nginx", 100))

    def gate(published: float | None) -> float:
        before = None
        if published is not None:
            costs = ("grpc-small", "gateway", published * 100), ("grpc-small", "nginx", 100.0)
            before = run_of(*costs)
        (judged,) = (each for each in gates.judge(new, before) if each.case is case)
        assert judged.value == 1.0
        assert judged.is_met == (judged.value <= judged.gate)
        return judged.gate

    assert case.must == 0.8
    assert gate(None) == 0.8
    assert gate(0.7) == 0.8
    assert gate(0.95) == pytest.approx(1.045)


def test_what_was_not_measured_is_not_judged() -> None:
    assert gates.judge(run_of(("grpc-small", "gateway", 9)), None) == []


def test_a_gateway_beside_itself_is_compared_across_rows() -> None:
    run = run_of(("grpc-2.5M-refused", "gateway", 30), ("grpc-2.5M-accepted", "gateway", 100))

    (judged,) = gates.judge(run, None)

    assert str(judged) == "grpc-2.5M-refused ÷ grpc-2.5M-accepted: 0.3 ×, at most 0.2"


def test_what_has_no_bound_of_its_own_is_judged_by_what_was_published() -> None:
    costs = ("http-small", "gateway-python", 50.0), ("http-small", "nginx", 25.0)
    run = run_of(*costs)

    assert gates.judge(run, None) == []
    (judged,) = gates.judge(run, run)
    assert judged.verdict == "gate met: http-small as Python ÷ nginx: 2 ×, at most 2.2"


def test_memory_and_start_are_judged_too() -> None:
    published = run_of(rest=Rest(control_mb=90, worker_mb=30, start_s=2))

    judged = {
        each.case.name: (each.gate, each.is_met)
        for each in gates.judge_rest(Rest(99.1, 38.1, 2.1), published)
    }

    assert judged == {
        "worker at rest": (38, False),
        "control at rest": (pytest.approx(99), False),
        "start to ready": (pytest.approx(2.2), True),
    }


def test_every_case_compares_what_is_measured() -> None:
    from bench.rows import ROWS  # noqa: PLC0415 - beside its only use

    def is_measured(case: Case) -> bool:
        other = ROWS[case.other_row].proxies
        return case.proxy in ROWS[case.row].proxies and case.other_proxy in other

    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert all(is_measured(case) for case in CASES if case.unit == "×")
    assert {case.name for case in CASES if case.unit != "×"} == {
        "worker at rest",
        "worker in every case",
        "control at rest",
        "start to ready",
    }


def test_over_the_rounds_everybody_is_everywhere_equally_often() -> None:
    names = ["a", "b", "c", "d"]
    orders = [rounds.order(names, number) for number in range(2 * len(names))]

    assert all(sorted(each) == names for each in orders)
    for place in zip(*orders, strict=True):
        assert all(place.count(name) == 2 for name in names)
    pairs = [pair for each in orders for pair in itertools.pairwise(each)]
    assert {pairs.count(pair) for pair in pairs} == {3}


COSTS = [
    ("http-small", "gateway", 49.6),
    ("http-small", "nginx", 20.0),
    ("http-small", "collector", 1_234.0),
]


def test_readmes_table_has_what_was_measured() -> None:
    assert tables.costs(run_of(*COSTS)).splitlines() == [
        "| µs of CPU per request | gateway | nginx | Collector | ÷ nginx | ÷ Collector |",
        "|---|--:|--:|--:|--:|--:|",
        "| OTLP/HTTP over HTTP/1.1, 0.6 kB | 50 | 20 | 1,234 | 2.48 | 0.04 |",
    ]


def test_pictures_cut_what_is_too_long_and_name_what_it_is() -> None:
    run = run_of(*COSTS, latencies=[latency("http-small", 3.0), latency("grpc-small", 1.0)])

    for draw in pictures.PICTURES.values():
        ET.fromstring(draw(run))  # noqa: S314 - our own
    assert ">50 µs<" in pictures.cpu(run)
    assert ">1,234 µs (cut)<" in pictures.cpu(run)
    assert ">2.50 ms at 100/s<" in pictures.latency(run)


def latency(row: str, p99_ms: float) -> Latency:
    bare = {"bare_p50_ms": 0.1, "bare_p99_ms": 0.5, "bare_p999_ms": 0.9}
    return Latency(
        row=row, proxy="gateway", rate=100, p50_ms=0.3, p99_ms=p99_ms, p999_ms=p99_ms, **bare
    )


def test_tables_show_what_lacks_and_what_lies_where_only_by_its_name() -> None:
    run = run_of(
        *COSTS,
        missing={"envoy": "Envoy is missing: run /home/me/it\nmore"},
        builds={"gateway": run_file.Program("gateway 1", "/home/me/bin/gateway")},
        paths={"netty": Paths("Netty 4", 252, 4)},
        latencies=[latency("http-small", 3.0)],
    )
    run.cells.append(Cell("grpc-encoder-netty", "gateway", [sample(70)]))

    report = publish.report(publish.without_folders(run))

    assert "- `envoy` could not be had: Envoy is missing: run it\n" in report
    assert "- `gateway`: gateway 1; gateway\n" in report
    assert "| netty | Netty 4 | 70 | – | – | 252 | 4 |" in report
    assert "| http-small | gateway | 100 | 0.30 | 3.00 | 3.00 | 0.20 | 2.50 | 2.10 |" in report


def test_another_gateway_is_compared_round_by_round() -> None:
    run = run_of()
    run.cells.append(Cell("grpc-small", "gateway", [sample(99), sample(110), sample(90)]))
    run.cells.append(Cell("grpc-small", "before", [sample(100)] * 3))

    assert "grpc-small: the gateway costs 0.990 × before (paired 0.990)" in tables.text(
        run, ["before"]
    )


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    run = run_of(*COSTS, rest=Rest(1.0, 2.0, 3.0), paths={"netty": Paths("Netty", 1, 2)})
    file = tmp_path / "run.json"

    file.write_bytes(run_file.dump(run))

    assert run_file.load(file) == run


PUBLISHED = run_file.published()


def test_a_run_is_published() -> None:
    assert PUBLISHED is not None


@pytest.mark.parametrize("name", ["README.md", "docs/performance.md"])
def test_figures_of_pages_are_those_of_the_published_run(name: str) -> None:
    assert PUBLISHED is not None
    page = (CHECKOUT / name).read_text(encoding="utf-8")

    assert name in publish.PAGES
    assert page == publish.rendered(page, PUBLISHED), "run `python -m bench.publish`"


@pytest.mark.parametrize("name", ["latest.md", *pictures.PICTURES])
def test_reports_and_pictures_are_those_of_the_published_run(name: str) -> None:
    assert PUBLISHED is not None
    file = run_file.RESULTS / name

    made = publish.files(PUBLISHED)[file]
    assert file.read_text(encoding="utf-8") == made, "run `python -m bench.publish`"


def test_a_changed_figure_is_noticed() -> None:
    assert PUBLISHED is not None
    cells = [
        Cell(each.row, each.proxy, [sample(each.cpu_us * 2)]) if each.row == "grpc-small" else each
        for each in PUBLISHED.cells
        if each.proxy == "gateway"
    ]
    changed = run_of(cells=cells)
    page = (CHECKOUT / "README.md").read_text(encoding="utf-8")

    assert page != publish.rendered(page, changed)


@pytest.mark.parametrize("name", publish.PAGES)
def test_marks_of_pages_come_in_pairs_and_have_names_that_exist(name: str) -> None:
    marks = MARK.findall((CHECKOUT / name).read_text(encoding="utf-8"))

    assert marks[::2] == marks[1::2]
    assert marks
    assert set(marks) <= set(tables.BLOCKS)


def test_no_page_states_a_cost_beside_the_marked_parts() -> None:
    for name in publish.PAGES:
        page = (CHECKOUT / name).read_text(encoding="utf-8")
        plain = publish.BLOCK.sub("", page)
        tried = plain.find("## What was tried")  # of other runs, as it says
        plain = plain[:tried] + plain[plain.find("\n## ", tried) :] if tried >= 0 else plain
        assert not re.findall(r"\d+ µs", plain), name


def test_plain_python_takes_about_as_much_more_as_pages_say() -> None:
    assert PUBLISHED is not None
    if "compiled" not in PUBLISHED.builds["gateway"].title:
        pytest.skip("the published gateway ran as plain Python")
    ratio = PUBLISHED.ratio("grpc-small", "gateway-python", "gateway")
    pages = [CHECKOUT / "docs" / name for name in ("compiled.md", "commands.md", "metrics.md")]

    assert all("two to three times the CPU" in page.read_text(encoding="utf-8") for page in pages)
    assert ratio is not None
    assert 1.75 < ratio < 3.25


def test_every_option_of_the_bench_is_documented() -> None:
    options = {name for action in cpu._parser()._actions for name in action.option_strings}

    assert options - {"-h", "--help"} <= set(re.findall(r"--[a-z-]+", HOW))


def test_a_part_of_a_run_is_never_published(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cpu.main(["--publish", "--row=grpc-small"])
    assert "--publish is for all rows" in capsys.readouterr().err


def test_rows_are_chosen_by_name_by_group_or_for_a_quick_run() -> None:
    def chosen(*arguments: str) -> list[str]:
        return cpu._rows(cpu._parser().parse_args(list(arguments)))

    assert chosen("--row=keys", "--row=http-small") == [
        "http-small",
        "grpc-small-10-keys",
        "grpc-small-100k-keys",
    ]
    assert set(chosen("--quick")) < set(chosen())
