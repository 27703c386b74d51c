"""Lines of the log for people at a terminal: a short time, the message, its reason, the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from structlog import dev

from gateway.terminal import escaped

TIME_FORMAT: Final = "%H:%M:%S"
"""Of the machine's own time zone. `log.format: json` has the day, and UTC."""
_REASONS: Final = ("reason", "reasons", "error", "detail")
"""Fields that say why, which follow the message."""
_OWN: Final = "gateway"
_LEVEL_WIDTH: Final = len("critical")
_STYLES: Final = {
    "debug": dev.DIM,
    "info": dev.GREEN,
    "warning": dev.YELLOW,
    "error": dev.RED,
    "critical": dev.RED_BACK,
}


def console_renderer(*, has_colours: bool) -> dev.ConsoleRenderer:
    """Make the processor that renders a line; tracebacks are text already."""

    def style(code: str) -> str:
        return code if has_colours else ""

    reset = style(dev.RESET_ALL)

    def plain(code: str) -> dev.ColumnFormatter:
        return dev.KeyValueColumnFormatter(None, style(code), reset, _text)

    def level(key: str, value: object) -> str:  # noqa: ARG001 - a formatter's
        name = str(value)
        return f"{style(_STYLES.get(name, ''))}{name:<{_LEVEL_WIDTH}}{reset}"

    because = dev.KeyValueColumnFormatter(None, style(dev.BRIGHT), reset, _text, prefix="– ")
    return dev.ConsoleRenderer(
        columns=[
            dev.Column("timestamp", plain(dev.DIM)),
            dev.Column("level", level),
            dev.Column("logger", _library(style)),
            dev.Column("event", plain(dev.BRIGHT)),
            *(dev.Column(name, because) for name in _REASONS),
            dev.Column(
                "", dev.KeyValueColumnFormatter(style(dev.CYAN), style(dev.MAGENTA), reset, _text)
            ),
        ],
        exception_formatter=dev.plain_traceback,
    )


def _library(style: Callable[[str], str]) -> dev.ColumnFormatter:
    """Return what names the logger of a library; the gateway's own need no name."""

    def formatted(key: str, value: object) -> str:  # noqa: ARG001 - a formatter's
        name = str(value)
        is_own = name.partition(".")[0] == _OWN
        return "" if is_own else f"{style(dev.DIM)}[{name}]{style(dev.RESET_ALL)}"

    return formatted


def _text(value: object) -> str:
    """Write a value without Python's quotes and brackets, which say nothing to people."""
    if isinstance(value, list | tuple):
        return escaped(", ".join(map(str, value))) or "none"
    if isinstance(value, dict):
        parts = (f"{name}: {_text(inner)}" for name, inner in value.items())
        return escaped(", ".join(parts)) or "none"
    return str(value) or '""'
