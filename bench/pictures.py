"""The pictures of a run, as SVG that follows the reader's light or dark theme."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.rows import BASELINE, SUBJECT
from bench.run_file import Run
from bench.tables import NAMES, TITLES

_WIDTH = 760
_LABEL = 110
_ROOM = 90
_BAR, _GAP, _TITLE, _BETWEEN = 14, 4, 22, 14
_MOST = 3.0
"""Bars that are longer are cut, and marked."""

_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 } .note { fill: #57606a }
.bar { fill: #afb8c1 } .ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
 text { fill: #e6edf3 } .note { fill: #8d96a0 } .bar { fill: #6e7681 } .ours { fill: #4493f8 }
}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: whose, how long in units of the axis, and what stands behind it."""

    name: str
    length: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars under a title."""

    title: str
    bars: Sequence[Bar]


def cpu(run: Run) -> str:
    """CPU per request beside the peers; a bar is as long as the CPU is in nginx's."""
    charts = []
    for row, title in TITLES.items():
        bars = []
        for name in NAMES:
            value, ratio = run.cpu_us(row, name), run.ratio(row, name, BASELINE)
            if value is not None and ratio is not None:
                bars.append(Bar(NAMES[name], ratio, f"{value:,.0f} µs"))
        if bars:
            charts.append(Chart(title, bars))
    return _drawing("CPU per request: shorter is better, nginx is 1", charts, _MOST)


def latency(run: Run) -> str:
    """What proxies add to the 99th percentile at half of their throughput, in ms."""
    charts: dict[str, list[Bar]] = {}
    for each in run.latencies:
        if each.proxy in NAMES:
            added = max(0.0, each.p99_ms - each.bare_p99_ms)
            text = f"{added:.2f} ms at {each.rate:,.0f}/s"
            charts.setdefault(each.row, []).append(Bar(NAMES[each.proxy], added, text))
    # The Collector's seconds would leave nothing to see of the others.
    others = (
        bar.length for bars in charts.values() for bar in bars if bar.name != NAMES["collector"]
    )
    most = max(others, default=1.0)
    return _drawing(
        "Added to the 99th percentile at half of the most throughput: shorter is better",
        [Chart(TITLES.get(row, row), bars) for row, bars in charts.items()],
        most or 1.0,
    )


def _drawing(title: str, charts: Sequence[Chart], most: float) -> str:
    parts: list[str] = []
    y = 24
    parts.append(_text(0, y, title, "title"))
    for chart in charts:
        y += _BETWEEN + _TITLE
        parts.append(_text(0, y - 6, chart.title))
        for bar in chart.bars:
            parts += _bar(bar, y, most)
            y += _BAR + _GAP
    height = y + _GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">'
    body = "\n".join(parts)
    return f"{head}\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n{body}\n</svg>\n"


def _bar(bar: Bar, y: int, most: float) -> list[str]:
    room = _WIDTH - _LABEL - _ROOM - 60
    width = max(1.0, min(bar.length, most) / most * room)
    kind = "ours" if bar.name == NAMES[SUBJECT] else "bar"
    text = f"{bar.text} (cut)" if bar.length > most else bar.text
    return [
        _text(0, y + _BAR - 3, bar.name, "note"),
        f'<rect class="{kind}" x="{_LABEL}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2"/>',
        _text(round(_LABEL + width + 6), y + _BAR - 3, text),
    ]


def _text(x: int, y: int, text: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x}" y="{y}">{escape(text)}</text>'


PICTURES: dict[str, Callable[[Run], str]] = {"cpu.svg": cpu, "latency.svg": latency}
