"""A run of the bench as a file: what was measured, of which programs, on which machine.

`bench/results/latest.json` is the published run: README, docs and pictures are made from it, and
gates follow from it.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import msgspec

RESULTS = Path(__file__).with_name("results")
LATEST = RESULTS / "latest.json"
_FORMAT = 1


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One round of one proxy.

    Attributes:
        cpu_us: CPU time of the proxy's process tree per request, user and system.
        requests: how many were sent.
        rps: requests per second.
        p50_ms, p99_ms: durations seen by the client.
        before_mb, peak_mb, after_mb: memory of the proxy's process tree.
        worker_peak_mb: of the gateway's largest worker; 0 for others.
    """

    cpu_us: float
    requests: int
    rps: float
    p50_ms: float
    p99_ms: float
    before_mb: float
    peak_mb: float
    after_mb: float
    worker_peak_mb: float = 0.0


class Cell(msgspec.Struct, frozen=True):
    """The rounds of one proxy on one row, in their order."""

    row: str
    proxy: str
    samples: list[Sample]

    @property
    def cpu_us(self) -> float:
        """The median CPU per request in microseconds."""
        return statistics.median(sample.cpu_us for sample in self.samples)

    @property
    def rps(self) -> float:
        """The median throughput, in requests per second."""
        return statistics.median(sample.rps for sample in self.samples)

    @property
    def busy(self) -> float:
        """The share of one core that the proxy used at that throughput."""
        return self.cpu_us * self.rps / 1e6


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in an open loop: through a proxy, and without one at the same rate."""

    row: str
    proxy: str
    rate: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    bare_p50_ms: float
    bare_p99_ms: float
    bare_p999_ms: float


class Program(msgspec.Struct, frozen=True):
    """Which build of a proxy was measured; see `running.Build`."""

    title: str
    details: str


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it ran. `load` is the load average (1 minute) before the run."""

    cpu: str
    cores: int
    kernel: str
    python: str
    load: float


class Rest(msgspec.Struct, frozen=True):
    """A gateway at rest: its processes' memory in MB, and how long it took to serve."""

    control_mb: float
    worker_mb: float
    start_s: float

    def values(self) -> dict[str, float]:
        """Return them by the names of `gates.CASES`."""
        return {
            "worker at rest": self.worker_mb,
            "control at rest": self.control_mb,
            "start to ready": self.start_s,
        }


class Paths(msgspec.Struct, frozen=True):
    """How many of an encoder's header blocks the gateway's decoder read in which way."""

    client: str
    by_bytes: int
    in_full: int


class Run(msgspec.Struct, kw_only=True):
    """One run.

    Attributes:
        made_at: when it began (ISO 8601, UTC).
        is_quick: whether it was made with `--quick`.
        rounds, seconds: rounds of each row and proxy, and about how long each was.
        builds: what was measured, by the proxies' names.
        missing: peers that could not be had, and why.
        failed: rows that a peer did not answer as expected, and why, by "row proxy".
        cells: what was measured.
        paths: by encoder.
    """

    format: int = _FORMAT
    made_at: str
    is_quick: bool
    rounds: int
    seconds: float
    machine: Machine
    builds: dict[str, Program] = {}
    missing: dict[str, str] = {}
    failed: dict[str, str] = {}
    cells: list[Cell] = []
    latencies: list[Latency] = []
    paths: dict[str, Paths] = {}
    rest: Rest | None = None

    def cell(self, row: str, proxy: str) -> Cell | None:
        """Return what was measured of a proxy on a row."""
        return next((e for e in self.cells if e.row == row and e.proxy == proxy), None)

    def cpu_us(self, row: str, proxy: str) -> float | None:
        """Return a proxy's median CPU per request on a row, in microseconds."""
        cell = self.cell(row, proxy)
        return None if cell is None else cell.cpu_us

    def ratio(self, row: str, proxy: str, other: str) -> float | None:
        """Return a proxy's CPU per request on a row, in another's."""
        mine, others = self.cpu_us(row, proxy), self.cpu_us(row, other)
        return None if mine is None or not others else mine / others

    def values(self) -> dict[str, float]:
        """Return what has bounds of its own, by the cases' names."""
        found: dict[str, float] = {}
        ours = (each for each in self.cells if each.proxy == "gateway")
        peaks = [sample.worker_peak_mb for each in ours for sample in each.samples]
        if any(peaks):
            found["worker in every case"] = max(peaks)
        return found if self.rest is None else {**found, **self.rest.values()}


def load(file: Path = LATEST) -> Run:
    """Read a run.

    Raises:
        OSError: there is none.
        msgspec.DecodeError: it is no run.
    """
    return msgspec.json.decode(file.read_bytes(), type=Run)


def published() -> Run | None:
    """Return the run that was published, or None before the first."""
    return load() if LATEST.exists() else None


def dump(run: Run) -> bytes:
    """Return a run as its file has it: numbers with three digits behind the point."""
    rounded = _rounded(msgspec.to_builtins(run))
    return msgspec.json.format(msgspec.json.encode(rounded), indent=1) + b"\n"


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
