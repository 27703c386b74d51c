"""A run as text for a terminal, and as the tables that README and docs have."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

from bench import gates
from bench.rows import BASELINE, ROWS, SUBJECT
from bench.run_file import Cell, Run

_LINE = "{:<24} {:<14} {:>8} {:>15} {:>6} {:>7} {:>5} {:>7} {:>7} {:>5}"
_MANY_US = 10_000
_BIG_RATIO = 10

TITLES = {
    "grpc-small": "OTLP/gRPC, 0.6 kB, 64 connections",
    "grpc-small-1x64": "OTLP/gRPC, 0.6 kB, 64 streams of one",
    "grpc-30k": "OTLP/gRPC, 30 kB",
    "grpc-73k-gzip": "OTLP/gRPC, 73 kB of gzip",
    "grpc-594k-gzip": "OTLP/gRPC, 594 kB of gzip",
    "grpc-2.5M": "OTLP/gRPC, 2.46 MB",
    "grpc-small-tls": "OTLP/gRPC, 0.6 kB, TLS",
    "http-small": "OTLP/HTTP over HTTP/1.1, 0.6 kB",
    "http-73k-gzip": "OTLP/HTTP over HTTP/1.1, 73 kB of gzip",
    "http-2.5M": "OTLP/HTTP over HTTP/1.1, 2.46 MB",
    "intake-small": "agents' intake, 2 kB of zlib",
}
"""The rows of README's table, and what they are called there."""

NAMES = {
    SUBJECT: "gateway",
    BASELINE: "nginx",
    "haproxy": "HAProxy",
    "envoy": "Envoy",
    "collector": "Collector",
}
"""The proxies of README's table, and what they are called there."""


def text(run: Run, beside: Sequence[str] = ()) -> str:
    """Return everything that was measured, for a terminal."""
    head = ("row", "proxy", "CPU µs", "min–max", "ratio", "rps", "busy", "p50 ms", "p99 ms", "MB")
    lines = [f"{name}: {build.title}: {build.details}" for name, build in run.builds.items()]
    lines += [f"{name}: not measured: {reason}" for name, reason in run.missing.items()]
    lines += [f"{where}: not measured: {reason}" for where, reason in run.failed.items()]
    lines.append(_LINE.format(*head))
    lines += [_line(run, cell) for cell in run.cells]
    lines += _beside(run, beside)
    lines += [
        f"{each.row} {each.proxy}: at {each.rate:.0f} rps p50 {each.p50_ms:.2f} ms, "
        f"p99 {each.p99_ms:.2f} ms, p99.9 {each.p999_ms:.2f} ms (no proxy: {each.bare_p50_ms:.2f}, "
        f"{each.bare_p99_ms:.2f}, {each.bare_p999_ms:.2f})"
        for each in run.latencies
    ]
    lines += [
        f"{name}: {each.by_bytes} header blocks read by bytes, {each.in_full} in full"
        for name, each in run.paths.items()
    ]
    return "\n".join(lines)


def _line(run: Run, cell: Cell) -> str:
    costs = [sample.cpu_us for sample in cell.samples]
    ratio = run.ratio(cell.row, cell.proxy, BASELINE) if cell.proxy != BASELINE else None
    return _LINE.format(
        cell.row,
        cell.proxy,
        f"{cell.cpu_us:.1f}",
        f"{min(costs):.1f}–{max(costs):.1f}",
        _ratio(ratio),
        f"{cell.rps:.0f}",
        f"{100 * cell.busy:.0f}%",
        f"{statistics.median(sample.p50_ms for sample in cell.samples):.2f}",
        f"{statistics.median(sample.p99_ms for sample in cell.samples):.2f}",
        f"{max(sample.peak_mb for sample in cell.samples):.0f}",
    )


def _beside(run: Run, names: Sequence[str]) -> Iterator[str]:
    """Compare the gateway with others of its kind, row by row: of medians, and round by round."""
    for cell in run.cells:
        if cell.proxy not in names:
            continue
        mine = run.cell(cell.row, SUBJECT)
        if mine is None:
            continue
        pairs = zip(mine.samples, cell.samples, strict=False)
        paired = statistics.median(one.cpu_us / other.cpu_us for one, other in pairs)
        ratio = mine.cpu_us / cell.cpu_us
        yield f"{cell.row}: the gateway costs {ratio:.3f} × {cell.proxy} (paired {paired:.3f})"


def _ratio(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if value < _BIG_RATIO else f"{value:.0f}"


def _us(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table whose first columns are aligned to the left, the others right."""
    marks = ["---"] * left + ["--:"] * (len(head) - left)
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(marks)}|", *lines[1:]])


def costs(run: Run) -> str:
    """README's table: CPU per request, and the gateway's in each peer's."""
    peers = [name for name in NAMES if any(cell.proxy == name for cell in run.cells)]
    others = [name for name in peers if name != SUBJECT]
    head = ["µs of CPU per request", *(NAMES[name] for name in peers)]
    head += [f"÷ {NAMES[name]}" for name in others]
    rows = []
    for row, title in TITLES.items():
        values = [run.cpu_us(row, name) for name in peers]
        if run.cpu_us(row, SUBJECT) is None:
            continue
        ratios = [_ratio(run.ratio(row, SUBJECT, name)) for name in others]
        rows.append([title, *map(_us, values), *ratios])
    return _table(head, rows)


def builds(run: Run) -> str:
    """What was measured, where and when."""
    machine = run.machine
    where = f"{machine.cores} cores of {machine.cpu}, {machine.kernel}, {machine.python}"
    rounds = "1 round" if run.rounds == 1 else f"{run.rounds} rounds"
    how = f"{rounds} of about {run.seconds:g} s, load average before: {machine.load:.1f}"
    lines = [f"Measured {run.made_at[:10]} on {where}. {how}."]
    lines += [f"- `{name}`: {build.title}; {build.details}" for name, build in run.builds.items()]
    lines += [
        f"- `{name}` could not be had: {_first_line(why)}" for name, why in run.missing.items()
    ]
    lines += [f"- `{where}` failed: {_first_line(why)}" for where, why in run.failed.items()]
    return "\n".join(lines).replace("\n- ", "\n\n- ", 1)


def _first_line(reason: str) -> str:
    return reason.splitlines()[0] if reason else "no reason given"


def every_row(run: Run) -> str:
    """All rows and proxies: CPU, throughput, durations, memory."""
    head = ["row", "proxy", "CPU µs", "min–max", "÷ nginx", "rps", "busy", "p50 ms", "p99 ms"]
    rows = []
    for cell in run.cells:
        cost = [sample.cpu_us for sample in cell.samples]
        rows.append(
            [
                cell.row,
                cell.proxy,
                f"{cell.cpu_us:.1f}",
                f"{min(cost):.1f}–{max(cost):.1f}",
                _ratio(run.ratio(cell.row, cell.proxy, BASELINE)),
                f"{cell.rps:,.0f}",
                f"{100 * cell.busy:.0f} %",
                f"{statistics.median(sample.p50_ms for sample in cell.samples):.2f}",
                f"{statistics.median(sample.p99_ms for sample in cell.samples):.2f}",
            ]
        )
    return _table(head, rows, left=2)


def memory(run: Run) -> str:
    """Memory of each proxy's processes: before, peak and after a row."""
    head = ["row", "proxy", "before MB", "peak MB", "after MB"]
    rows = []
    for row in (name for name in TITLES if name in ROWS):
        for name in NAMES:
            cell = run.cell(row, name)
            if cell is not None:
                peak = max(sample.peak_mb for sample in cell.samples)
                before, after = cell.samples[0].before_mb, cell.samples[-1].after_mb
                rows.append([row, name, f"{before:.0f}", f"{peak:.0f}", f"{after:.0f}"])
    return _table(head, rows, left=2)


def latencies(run: Run) -> str:
    """What is added to a request's duration at half of the throughput."""
    head = ["row", "proxy", "rps", "p50", "p99", "p99.9", "adds p50", "adds p99", "adds p99.9"]
    rows = []
    for each in run.latencies:
        added = (
            each.p50_ms - each.bare_p50_ms,
            each.p99_ms - each.bare_p99_ms,
            each.p999_ms - each.bare_p999_ms,
        )
        seen = (each.p50_ms, each.p99_ms, each.p999_ms)
        numbers = [f"{value:.2f}" for value in (*seen, *added)]
        rows.append([each.row, each.proxy, f"{each.rate:,.0f}", *numbers])
    return _table(head, rows, left=2)


def encoders(run: Run) -> str:
    """Each encoder: what it costs, in grpc-go's, and how the decoder read its header blocks."""
    head = ["encoder", "client", "CPU µs", "÷ grpc-go", "÷ nginx", "by bytes", "in full"]
    reference = run.cpu_us("grpc-encoder-grpc-go", SUBJECT)
    rows = []
    for name, paths in run.paths.items():
        row = f"grpc-encoder-{name}"
        mine = run.cpu_us(row, SUBJECT)
        ratio = mine / reference if mine is not None and reference else None
        rows.append(
            [
                name,
                paths.client,
                _us(mine),
                _ratio(ratio),
                _ratio(run.ratio(row, SUBJECT, BASELINE)),
                str(paths.by_bytes),
                str(paths.in_full),
            ]
        )
    return _table(head, rows, left=2)


def bounds(run: Run) -> str:
    """Every case: what was measured, what must be and what is aimed at, and the gate."""
    rows = []
    for judged in gates.judge(run, run):
        case = judged.case
        must = "–" if case.must is None else f"{case.must:g}"
        aim = "–" if case.aim is None else f"{case.aim:g}"
        is_reached = "" if case.must is None else "yes" if judged.value <= case.must else "**no**"
        value = f"{judged.value:.3g} {case.unit}"
        rows.append([case.name, value, must, is_reached, aim, f"{judged.gate:.3g}"])
    return _table(["case", "measured", "must", "reached", "aim", "gate"], rows)


def summary(run: Run) -> str:
    """Sentences of README about memory, plain Python and the gates."""
    sentences = []
    mine, nginx = run.cell("grpc-small", SUBJECT), run.cell("grpc-small", BASELINE)
    if mine is not None and nginx is not None:
        sentences.append(
            f"It takes more memory: {mine.samples[-1].after_mb:.0f} MB for the control process and "
            f"one worker, where nginx takes {nginx.samples[-1].after_mb:.0f} MB."
        )
    as_python = run.ratio("grpc-small", "gateway-python", SUBJECT)
    if as_python is not None:
        sentences.append(f"As plain Python the first row costs {as_python:.2f} times as much.")
    judged = [each for each in gates.judge(run, run) if each.case.must is not None]
    reached = sum(each.value <= (each.case.must or 0) for each in judged)
    sentences.append(
        f"Bounds that we set ourselves and reach: {reached} of {len(judged)} "
        "([which](docs/performance.md#bounds))."
    )
    return "\n".join(sentences)


_AGENTS = (1_000, 10_000, 100_000)
_PERIOD_S = 30
_SIZED = ("grpc-small", "grpc-73k-gzip", "http-73k-gzip", "intake-small")


def sizing(run: Run) -> str:
    """How much of a core so many agents take that send every 30 s."""
    head = [f"a request every {_PERIOD_S} s", "µs", *(f"{each:,} agents" for each in _AGENTS)]
    head.append("agents per core")
    rows = []
    for row in _SIZED:
        cost = run.cpu_us(row, SUBJECT)
        if cost is None:
            continue
        shares = [agents / _PERIOD_S * cost / 1e6 for agents in _AGENTS]
        most = _PERIOD_S * 1e6 / cost / 2
        cores = [f"{share:.2g} cores" for share in shares]
        rows.append([TITLES[row], _us(cost), *cores, f"{most:,.0f}"])
    table = _table(head, rows)
    return (
        f"{table}\n\nA core counts as full at half of its time, so that there is room for a burst."
    )


BLOCKS: dict[str, Callable[[Run], str]] = {
    "builds": builds,
    "costs": costs,
    "summary": summary,
    "bounds": bounds,
    "latencies": latencies,
    "encoders": encoders,
    "memory": memory,
    "sizing": sizing,
    "rows": every_row,
}
"""What pages may have between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`."""
