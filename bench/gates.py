"""What the gateway may cost: in other proxies' CPU, in its own on another row, in MB, in seconds.

Each case has what must be reached and what is aimed at. Where the published results reach what
must be, that is the gate; where not, the gate is what they have and a tenth more, so that nothing
gets worse on the way there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench import heads
from bench.rows import BASELINE, ENCODERS, ROWS, SUBJECT
from bench.run_file import Rest, Run

_TENTH_MORE = 1.1


@dataclass(frozen=True, slots=True)
class Case:
    """One bound.

    Attributes:
        name: what messages and tables call it.
        unit: of its value: × for ratios.
        row, proxy: whose CPU is compared …
        other_row, other_proxy: … with whose; for what is not a ratio, empty.
        must: what must be reached; None: only not to get worse.
        aim: what is aimed at.
    """

    name: str
    must: float | None
    aim: float | None = None
    unit: str = "×"
    row: str = ""
    proxy: str = SUBJECT
    other_row: str = ""
    other_proxy: str = BASELINE

    def value(self, run: Run) -> float | None:
        """Return what a run has, or None where it was not measured."""
        if self.unit != "×":
            return run.values().get(self.name)
        mine = run.cpu_us(self.row, self.proxy)
        other = run.cpu_us(self.other_row, self.other_proxy)
        return None if mine is None or not other else mine / other


@dataclass(frozen=True, slots=True)
class Judged:
    """A case in a run, beside its gate."""

    case: Case
    value: float
    gate: float

    @property
    def is_met(self) -> bool:
        """Whether the gate is met."""
        return self.value <= self.gate

    @property
    def verdict(self) -> str:
        """A line that says so."""
        return f"{'gate met' if self.is_met else 'GATE MISSED'}: {self}"

    def __str__(self) -> str:
        case = self.case
        must = "" if case.must is None or self.gate == case.must else f" (must: {case.must:g})"
        return f"{case.name}: {self.value:.3g} {case.unit}, at most {self.gate:.3g}{must}"


def _beside(row: str, proxy: str, must: float, aim: float | None = None) -> Case:
    """The gateway beside another proxy on one row."""
    name = f"{row} ÷ {proxy}"
    return Case(name, must, aim, row=row, other_row=row, other_proxy=proxy)


def _within(row: str, other: str, must: float) -> Case:
    """The gateway beside itself on another row."""
    return Case(f"{row} ÷ {other}", must, row=row, other_row=other, other_proxy=SUBJECT)


def _small_grpc() -> Iterator[Case]:
    for row in ("grpc-small", "grpc-small-16x1", "grpc-small-16x4"):
        yield _beside(row, BASELINE, 0.8, 0.65)
        yield _beside(row, "haproxy", 1.05, 0.9)
    yield _beside("grpc-small-1x64", BASELINE, 0.5, 0.35)
    yield _beside("grpc-small-1x64", "haproxy", 1.0)
    for row in ("grpc-30k", "grpc-30k-16x4"):
        yield _beside(row, BASELINE, 1.0, 0.8)
        yield _beside(row, "haproxy", 1.0, 0.8)


def _large_grpc() -> Iterator[Case]:
    for row in ("grpc-73k-gzip", "grpc-594k-gzip", "grpc-2.5M"):
        yield _beside(row, BASELINE, 1.6, 1.1)
        yield _beside(row, "haproxy", 1.2 if row == "grpc-73k-gzip" else 1.0)
        yield _beside(row, "envoy", 1.0)


def _http() -> Iterator[Case]:
    for row in ("http-small", "http-small-64x1", "http-30k", "intake-small"):
        yield _beside(row, BASELINE, 1.25, 1.0)
        yield _beside(row, "haproxy", 1.15)
    for row in ("http-73k-gzip", "http-594k-gzip", "http-2.5M", "intake-2M"):
        yield _beside(row, BASELINE, 1.3, 1.0)


def _collector() -> Iterator[Case]:
    for row in ROWS.values():
        if "collector" in row.proxies and row.body != "30k":
            yield _beside(row.name, "collector", 0.5 if row.body == "small" else 0.06)


def _others() -> Iterator[Case]:
    for name in ENCODERS:
        if name != heads.REFERENCE:
            yield _within(f"grpc-encoder-{name}", f"grpc-encoder-{heads.REFERENCE}", 1.15)
    yield _beside("grpc-small-tls", BASELINE, 1.2, 1.0)
    yield _beside("http-small-tls", BASELINE, 1.2, 1.0)
    yield _within("grpc-2.5M-refused", "grpc-2.5M-accepted", 0.2)
    yield _within("http-2.5M-refused", "http-2.5M-accepted", 0.6)
    yield _within("grpc-small-100k-keys", "grpc-small-10-keys", 1.05)
    yield _within("grpc-small-2-workers", "grpc-small-1-worker", 1.1)
    for row in ("grpc-small", "grpc-73k-gzip", "http-small", "http-73k-gzip"):
        name = f"{row} as Python ÷ {BASELINE}"
        yield Case(name, None, row=row, proxy="gateway-python", other_row=row)
    yield Case("worker at rest", 38, 30, "MB")
    yield Case("worker in every case", 75, 45, "MB")
    yield Case("control at rest", 75, 50, "MB")
    yield Case("start to ready", 1.0, 0.5, "s")


CASES = (*_small_grpc(), *_large_grpc(), *_http(), *_collector(), *_others())


def judge_rest(rest: Rest, published: Run | None) -> list[Judged]:
    """Return the cases of a gateway at rest."""
    values = rest.values()
    judged = []
    for case in CASES:
        before = None if published is None else case.value(published)
        gate = _gate(case, before)
        if case.name in values and gate is not None:
            judged.append(Judged(case, values[case.name], gate))
    return judged


def judge(run: Run, published: Run | None) -> list[Judged]:
    """Return every case that a run measured, with the gate that the published results give it.

    A case that was never published and has no bound of its own is left out.
    """
    judged = []
    for case in CASES:
        value = case.value(run)
        before = None if published is None else case.value(published)
        gate = _gate(case, before)
        if value is not None and gate is not None:
            judged.append(Judged(case, value, gate))
    return judged


def _gate(case: Case, published: float | None) -> float | None:
    if published is None:
        return case.must
    if case.must is not None and published <= case.must:
        return case.must
    return published * _TENTH_MORE
