"""The table of a run, for people and for `docs/security.md`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bench.hostile.bystanders import Report
from bench.hostile.gates import Observation

_COLUMNS: Final = (
    "attack",
    "sent",
    "answered",
    "p99 before → during, ms",
    "worker MB, allowed",
    "counted as",
    "",
)
_KEPT, _OPENING = ("keep-alive", "grpc"), ("opens", "opens-tls")


def _success(reports: dict[str, Report]) -> str:
    requests = sum(report.requests for report in reports.values())
    failed = sum(report.failed for report in reports.values())
    share = 100 * (requests - failed) / requests if requests else 0.0
    return f"{share:.0f} %" if failed == 0 else f"{min(share, 99.99):.2f} %"


def _worst(reports: dict[str, Report], names: Sequence[str]) -> str:
    return f"{max((reports[name].p99_ms for name in names if name in reports), default=0):.0f}"


def _p99(seen: Observation) -> str:
    return ", ".join(
        f"{_worst(seen.before, names)} → {_worst(seen.during, names)}"
        for names in (_KEPT, _OPENING)
    )


def _sent(seen: Observation) -> str:
    traffic = seen.traffic
    return f"{traffic.sent_bytes / 1e6:,.1f} MB, {traffic.opened:,} conn."


def short_series(name: str) -> str:
    """Return a series' name as the table has it: the label that tells, without `gateway_`."""
    plain, _, labels = name.removeprefix("gateway_").partition("{")
    values = dict(label.split("=", 1) for label in labels.rstrip("}").split('",') if "=" in label)
    telling = [
        values[label].strip('"') for label in ("kind", "reason", "result") if label in values
    ]
    return f"{plain} {telling[0]}" if telling else plain


def row(seen: Observation) -> tuple[str, ...]:
    """Return one attack's cells."""
    counted = seen.counted_as()
    return (
        seen.title,
        _sent(seen),
        _success(seen.during),
        _p99(seen),
        f"{seen.memory.peak_mb:.0f}, {seen.memory.allowed_mb:.0f}",
        short_series(counted[0]) if counted else "–",
        "MISSED" if seen.missed() else "held",
    )


def text(observations: Sequence[Observation]) -> str:
    """Return the table in columns of equal width, and what was missed below it."""
    rows = [_COLUMNS, *(row(seen) for seen in observations)]
    widths = [max(len(cells[at]) for cells in rows) for at in range(len(_COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in rows
    ]
    for seen in observations:
        lines += [f"GATE MISSED: {seen.attack}: {reason}" for reason in seen.missed()]
    return "\n".join(lines)


def markdown(observations: Sequence[Observation]) -> str:
    """Return the table as `docs/security.md` has it."""
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *(row(seen) for seen in observations)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
