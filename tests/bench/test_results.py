"""What the bench makes of its rounds: ratios, gates, tables, and what README says of them."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from bench import cpu, results, rows
from bench.results import Sample, Summary, summarise

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
HOW = (Path(__file__).parents[2] / "bench" / "README.md").read_text(encoding="utf-8")


def samples(*cpu_us: float) -> list[Sample]:
    return [Sample(each, rps=1, p50_ms=1, p99_ms=1, resident_mb=1) for each in cpu_us]


def measured(row: str, gateway: list[Sample], **others: list[Sample]) -> list[Summary]:
    return summarise(row, {"gateway": gateway, **others})


def test_medians_and_the_rounds_own_ratios_are_compared() -> None:
    gateway, nginx = measured("grpc-small", samples(90, 100, 400), nginx=samples(100, 100, 200))

    assert (gateway.ratio, gateway.paired_ratio) == (1.0, 1.0)
    assert (nginx.ratio, nginx.paired_ratio) == (None, None)


@pytest.mark.parametrize("row", rows.MEASURED)
def test_a_gate_is_missed_above_its_ratio_only(row: str) -> None:
    most = rows.MEASURED[row].max_ratio

    met = measured(row, samples(most), nginx=samples(1))
    missed = measured(row, samples(most + 0.01), nginx=samples(1))

    assert results.missed_gate(met) is None
    assert f"GATE MISSED: {row}" in (results.missed_gate(missed) or "")


def test_what_has_no_gate_or_was_not_compared_misses_none() -> None:
    assert results.missed_gate(measured("grpc-30k", samples(9), nginx=samples(1))) is None
    assert results.missed_gate(measured("grpc-small", samples(9))) is None


def test_another_gateway_is_compared_on_the_same_rounds() -> None:
    of_row = measured("grpc-small", samples(99, 110, 90), before=samples(100, 100, 100))

    assert results.beside(of_row, ["before"]) == (
        "grpc-small: the gateway costs 0.990 × before (paired 0.990)"
    )
    assert results.beside(summarise("grpc-small", {"before": samples(1)}), ["before"]) == ""


def test_over_the_rounds_everybody_is_everywhere_equally_often() -> None:
    names = ["a", "b", "c", "d"]
    rounds = [cpu.order(names, number) for number in range(2 * len(names))]

    assert all(sorted(each) == names for each in rounds)
    for place in zip(*rounds, strict=True):
        assert all(place.count(name) == 2 for name in names)
    pairs = [pair for each in rounds for pair in itertools.pairwise(each)]
    assert {pairs.count(pair) for pair in pairs} == {3}


def test_readmes_table_is_made_of_the_rows_that_were_measured() -> None:
    of_row = measured("http-small", samples(49.6), nginx=samples(20.0))

    assert results.readme_table(of_row, "nginx 1.22.1, mine").splitlines() == [
        "| request | gateway | nginx 1.22.1, mine | ratio | gate |",
        "|---|--:|--:|--:|--:|",
        "| OTLP/HTTP over HTTP/1.1, 0.6 kB | 50 µs | 20 µs | 2.48 | 2.73 |",
    ]


def test_readme_says_what_the_gates_are_and_beside_which_nginx() -> None:
    section = README.partition("## What it costs")[2].partition("\n## ")[0]
    head, _, *lines = (line for line in section.splitlines() if line.startswith("|"))

    assert head == f"| request | gateway | {rows.MEASURED_BESIDE} | ratio | gate |"
    figures = [
        re.fullmatch(r"\| (.+) \| (\d+) µs \| (\d+) µs \| (.+) \| (.+) \|", each) for each in lines
    ]
    stated = [(each[1], float(each[4]), float(each[5])) for each in figures if each is not None]
    assert stated == [(row.title, row.ratio, row.max_ratio) for row in rows.MEASURED.values()]
    for each in figures:
        assert each is not None
        gateway, nginx, ratio = int(each[2]), int(each[3]), float(each[4])
        assert (gateway - 0.5) / (nginx + 0.5) <= ratio <= (gateway + 0.5) / (nginx - 0.5)


def test_every_option_of_the_bench_is_documented() -> None:
    options = {name for action in cpu._parser()._actions for name in action.option_strings}

    assert options - {"-h", "--help"} <= set(re.findall(r"--[a-z-]+", HOW))
