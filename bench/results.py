"""The rounds of a measurement: their summaries, the comparison, the tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.rows import MEASURED, Measured

BASELINE = "nginx"
SUBJECT = "gateway"
_LINE = "{:<16} {:<10} {:>8} {:>15} {:>6} {:>6} {:>7} {:>7} {:>7} {:>5}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one proxy.

    Attributes:
        cpu_us: CPU time of the proxy's process tree per request, user and system.
        rps: requests per second.
        p50_ms, p99_ms: durations seen by the client.
        resident_mb: VmRSS of the proxy's process tree afterwards.
    """

    cpu_us: float
    rps: float
    p50_ms: float
    p99_ms: float
    resident_mb: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The rounds of one proxy on one row.

    Attributes:
        row, proxy: of what.
        samples: in the order of the rounds.
        ratio: ratio of the medians of `cpu_us` to the baseline's, where that was measured.
        paired_ratio: median of the rounds' own ratios; far from `ratio`, the machine was too busy.
    """

    row: str
    proxy: str
    samples: list[Sample]
    ratio: float | None
    paired_ratio: float | None

    @property
    def cpu_us(self) -> float:
        """The median CPU per request in microseconds."""
        return statistics.median(sample.cpu_us for sample in self.samples)


def summarise(row: str, samples: dict[str, list[Sample]]) -> list[Summary]:
    """Compare the proxies' samples, given by name, with the baseline's."""
    return [_summary(row, name, samples) for name in samples]


def _summary(row: str, name: str, samples: dict[str, list[Sample]]) -> Summary:
    mine, baseline = samples[name], samples.get(BASELINE)
    if baseline is None or name == BASELINE:
        return Summary(row, name, mine, None, None)
    return Summary(row, name, mine, *ratios(mine, baseline))


def ratios(mine: Sequence[Sample], others: Sequence[Sample]) -> tuple[float, float]:
    """Compare CPU in the same rounds: ratio of the medians, and median of the rounds' ratios."""
    ratio = statistics.median(each.cpu_us for each in mine) / statistics.median(
        each.cpu_us for each in others
    )
    pairs = zip(mine, others, strict=True)
    return ratio, statistics.median(each.cpu_us / other.cpu_us for each, other in pairs)


def beside(summaries: Sequence[Summary], names: Sequence[str]) -> str:
    """Compare the gateway with others that were measured on the same row, a line each."""
    by_name = {each.proxy: each for each in summaries}
    if SUBJECT not in by_name:
        return ""
    lines = []
    for name in names:
        ratio, paired = ratios(by_name[SUBJECT].samples, by_name[name].samples)
        row = by_name[name].row
        lines.append(f"{row}: the gateway costs {ratio:.3f} × {name} (paired {paired:.3f})")
    return "\n".join(lines)


def readme_table(summaries: Sequence[Summary], nginx: str) -> str:
    """Return README's table of what was measured beside a build of nginx, in Markdown."""
    costs = {(each.row, each.proxy): each for each in summaries}
    lines = [f"| request | gateway | {nginx} | ratio | gate |", "|---|--:|--:|--:|--:|"]
    for row, measured in MEASURED.items():
        mine, baseline = costs.get((row, SUBJECT)), costs.get((row, BASELINE))
        if mine is None or baseline is None or mine.ratio is None:
            continue
        ratio = round(mine.ratio, 2)
        gate = Measured(measured.title, ratio).max_ratio
        figures = f"{mine.cpu_us:.0f} µs | {baseline.cpu_us:.0f} µs | {ratio:.2f} | {gate:.2f}"
        lines.append(f"| {measured.title} | {figures} |")
    return "\n".join(lines)


def missed_gate(summaries: Sequence[Summary]) -> str | None:
    """Return why gates are missed, or None where they are met or were not measured."""
    missed: list[str] = []
    for each in summaries:
        measured = MEASURED.get(each.row)
        if each.proxy != SUBJECT or each.ratio is None or measured is None:
            continue
        cost = f"{each.row} costs {each.ratio:.3f} × nginx's CPU"
        if each.ratio > measured.max_ratio:
            missed.append(f"GATE MISSED: {cost}, at most {measured.max_ratio:.2f} is allowed")
        else:
            print(f"gate met: {cost}, at most {measured.max_ratio:.2f} is allowed")
    return "\n".join(missed) or None


def table(summaries: Sequence[Summary]) -> str:
    """Return the results as text."""
    head = ("row", "proxy", "CPU µs", "min–max", "ratio", "paired", "rps", "p50 ms", "p99 ms", "MB")
    lines = [_LINE.format(*head)]
    for each in summaries:
        costs = [sample.cpu_us for sample in each.samples]
        lines.append(
            _LINE.format(
                each.row,
                each.proxy,
                f"{each.cpu_us:.1f}",
                f"{min(costs):.1f}–{max(costs):.1f}",
                _number(each.ratio),
                _number(each.paired_ratio),
                f"{statistics.median(sample.rps for sample in each.samples):.0f}",
                f"{statistics.median(sample.p50_ms for sample in each.samples):.2f}",
                f"{statistics.median(sample.p99_ms for sample in each.samples):.2f}",
                f"{each.samples[-1].resident_mb:.0f}",
            )
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
