"""Structured logging: output formats, redaction of secrets, summaries of what repeats.

Control and workers both use this, so it imports only structlog. The modules that log decide what to
log and with which text.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TextIO

import structlog

from gateway.channel import LogLine, Refused
from gateway.log_console import TIME_FORMAT, console_renderer
from gateway.log_repeats import EACH_TIME, RepeatedLines
from gateway.log_writer import LineWriter
from gateway.repeats import INTERVAL_S, MAX_GROUPS, Repeats, Summary
from gateway.terminal import escaped, is_fancy

LogFormat = Literal["console", "json"]

__all__ = [
    "EACH_TIME",
    "MASK",
    "LogFormat",
    "RefusalLimiter",
    "RefusalNotice",
    "configure",
    "listen",
    "redact",
    "redact_event",
    "take_dropped",
    "tell_repeats",
]

MASK: Final = "***"
_DROPPED: Final = "lines of the log were dropped: nobody read it for a while"
_FLUSH_S: Final = 1.0
"""How long a process that ends waits for whoever reads the log."""
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_HEAD: Final = ("timestamp", "level", "logger", "event")
"""Fields that every line has."""
_MAX_INT: Final = 2**63
"""Numbers from this on are told as text: OTLP has 64 bits for them."""
_TRACES: Final = frozenset({"exception", "stack"})
"""Fields that have several lines."""
_SECRET_FIELDS: Final = frozenset(
    {"authorization", "api_key", "apikey", "gateway_key", "key", "password", "secret", "token"}
)
"""Fields of an event whose values are always masked."""
_PATTERNS: Final = (
    # Keys and service tokens as StackState and this gateway issue them.
    (re.compile(r"\b(iapikey|svctok)[A-Za-z]*-[!#-&(-+./-~-]+"), rf"\1-{MASK}"),
    # A token of an identity provider (a JWT), wherever it stands.
    (re.compile(r"\beyJ[\w-]{6,}\.[\w-]+\.?[\w-]*"), MASK),
    # The agents' query parameter.
    (re.compile(r"(api_key(?:=|%3D))[^&\s\"'<>]+", re.IGNORECASE), rf"\1{MASK}"),
    # A header with a credential, as text or as printed by Python or JSON.
    (
        re.compile(
            r"((?:authorization|(?:sts|dd|x)-api-(?:key|token))b?[\"']?\s*[:=,]\s*b?[\"']?)"
            r"[^\"'\r\n,)}\]]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    # A scheme and its credential.
    (
        re.compile(
            r"\b(StackState|SUSE-?Observability|Bearer|ServiceBearer|ApiKey|Basic)"
            r"((?:\s|%20)+)[!-~]{8,}",
            re.IGNORECASE,
        ),
        rf"\1\2{MASK}",
    ),
)


def redact(text: str) -> str:
    """Mask everything that looks like a key or a credential: the last line of defence."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _redact_value(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if hasattr(value, "get_secret_value"):  # pydantic's, which workers must not import
        return MASK
    if isinstance(value, Mapping):
        return {str(name): _redact_field(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(inner) for inner in value]
    return redact(value.decode("latin-1") if isinstance(value, bytes) else str(value))


def _redact_field(name: str, value: object) -> object:
    return MASK if name.lower() in _SECRET_FIELDS else _redact_value(value)


def redact_event(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Mask an event's fields (a structlog processor). Tracebacks must be text already."""
    for name, value in event.items():
        event[name] = _redact_field(name, value)
    return event


def _in_order(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Put the most important fields first."""
    return {name: event[name] for name in _HEAD} | dict(event)


_listeners: Final[list[Callable[[LogLine], None]]] = []


def listen(listener: Callable[[LogLine], None]) -> Callable[[], None]:
    """Have `listener` get every line that is written from now on; return what ends that.

    It is called in the thread that logs, and must not wait or log.
    """
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def _tell_listener(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Pass a line on whose secrets are masked already."""
    if _listeners:
        line = LogLine(
            at_ns=time.time_ns(),
            level=str(event["level"]),
            logger=str(event["logger"]),
            event=str(event["event"]),
            fields={
                name: value if isinstance(value, str | bool | float) else _plain(value)
                for name, value in event.items()
                if name not in _HEAD and value is not None
            },
        )
        for listener in _listeners:
            listener(line)
    return event


def _plain(value: object) -> str | int:
    return value if isinstance(value, int) and abs(value) < _MAX_INT else str(value)


def _escape_event(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Escape what could control a terminal: peers choose some texts. JSON is escaped anyway."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = escaped(value, keep="\n\t" if name in _TRACES else "")
    return event


class _Writer:
    """Writes finished lines. `name` is the name of the logger."""

    def __init__(self, write: Callable[[str], None], name: str) -> None:
        self.msg = write
        self.name = name
        self.debug = self.info = self.warning = self.error = write
        self.critical = self.exception = write


class _Loggers:
    """Makes the writers of one stream (structlog's `logger_factory`).

    A stream of this process's, such as stderr, is written by a thread; any other one, such as a
    buffer in memory, at once.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self.lines = _line_writer(stream)

    def __call__(self, *names: str) -> _Writer:
        """Make the writer of the logger of this name."""
        return _Writer(self.write, names[0] if names else "gateway")

    def write(self, line: str) -> None:
        """Write a line; what the stream cannot encode is escaped.

        If the stream is broken or closed, the gateway keeps running.
        """
        if self.lines is not None:
            self.lines.write((line + "\n").encode(self._encoding, "backslashreplace"))
        elif self._stream is not None:
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(line + "\n")
                self._stream.flush()


def _line_writer(stream: TextIO | None) -> LineWriter | None:
    """Return the writer of the stream's descriptor, the present one if it is the same."""
    try:
        descriptor = stream.fileno() if stream is not None else None
    except (OSError, ValueError):  # a buffer in memory; a stream that is closed
        descriptor = None
    if descriptor is None:
        return None
    present = _lines_in_use()
    if present is not None and present.descriptor == descriptor:
        return present
    writer = LineWriter(descriptor)
    atexit.register(writer.flush, _FLUSH_S)
    return writer


def _lines_in_use() -> LineWriter | None:
    factory = structlog.get_config()["logger_factory"]
    return factory.lines if isinstance(factory, _Loggers) else None


def take_dropped() -> int:
    """Return how many lines were dropped since the last call, because nobody read the log."""
    lines = _lines_in_use()
    return 0 if lines is None else lines.take_dropped()


def _add_logger(
    logger: _Writer, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    event.setdefault("logger", logger.name)
    return event


class _FromStdlib(logging.Handler):
    """Forwards the logs of libraries (asyncio's lost exceptions, aiohttp's errors)."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record with structlog (logging)."""
        log = structlog.get_logger(record.name)
        fields: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        level = {30: "warning", 40: "error", 50: "critical"}.get(record.levelno, "info")
        getattr(log, level)(record.getMessage(), **fields)


def configure(
    level: str, log_format: Literal["auto", "console", "json"], stream: TextIO | None = None
) -> LogFormat:
    """Set up logging for this process and return the format, with `auto` resolved.

    `level` is debug, info, warning or error. `auto` is console if `stream` (default: stderr) is a
    terminal, else JSON, one object per line. A line that repeats becomes one line a minute.
    """
    tell_repeats(rest=True)
    out = sys.stderr if stream is None else stream
    resolved = _resolve(log_format, out)
    rendering = _rendering(resolved, out)
    loggers = _Loggers(out)

    def render(event: MutableMapping[str, Any]) -> str:
        line: Any = event
        for processor in rendering:
            line = processor(None, str(event.get("level", "")), line)
        return str(line)

    if loggers.lines is not None:
        loggers.lines.tell_dropped = lambda count: render(
            {"level": "warning", "logger": "gateway.log", "event": _DROPPED, "lines": count}
        )
    repeated = RepeatedLines(lambda event: loggers.write(render(event)))
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, _add_logger, repeated, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=loggers,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_FromStdlib()]
    root.setLevel(max(_LEVELS[level], logging.WARNING))
    return resolved


def _rendering(log_format: LogFormat, stream: TextIO | None) -> list[Any]:
    """Return what makes a line of an event, step by step (structlog's processors)."""
    if log_format == "console":
        stamp = structlog.processors.TimeStamper(fmt=TIME_FORMAT, utc=False)
        has_colours = stream is not None and is_fancy(stream)
        last = [_escape_event, console_renderer(has_colours=has_colours)]
    else:
        stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        last = [structlog.processors.JSONRenderer()]
    return [
        stamp,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact_event,
        _in_order,
        _tell_listener,
        *last,
    ]


def tell_repeats(*, rest: bool = False) -> None:
    """Write the summaries of repeated lines that are due; `rest`: all, at the end of a process."""
    for processor in structlog.get_config()["processors"]:
        if isinstance(processor, RepeatedLines):
            processor.tell_rest() if rest else processor.tell()


def _resolve(log_format: Literal["auto", "console", "json"], stream: TextIO | None) -> LogFormat:
    if log_format == "auto":
        return "console" if stream is not None and stream.isatty() else "json"
    return log_format


@dataclass(frozen=True, slots=True)
class RefusalNotice:
    """One line to log about refusals of one (who, reason)."""

    refused: Refused
    """The latest of them."""
    count: int
    """How many refusals this line summarizes."""
    within_s: float
    """The period in seconds; 0 for the first, which is logged immediately."""


class RefusalLimiter:
    """Decides which refusals to log: the first immediately, then one summary a minute.

    Counts per (who, reason), so that one misconfigured cluster does not hide another. Groups beyond
    `max_groups` are counted per reason as `other`. It only decides: the caller logs, and passes the
    time in seconds of any monotonic clock.
    """

    OTHER: Final = "other"

    def __init__(self, interval_s: float = INTERVAL_S, max_groups: int = MAX_GROUPS) -> None:
        self._repeats: Repeats[Refused] = Repeats(interval_s, max_groups)

    def add(self, refused: Refused, now: float) -> RefusalNotice | None:
        """Add a worker's report; return the line to log immediately, if any."""
        group, otherwise = (refused.who, refused.reason), (self.OTHER, refused.reason)
        summary = self._repeats.add(group, otherwise, refused, now, refused.count)
        return None if summary is None else _notice(summary)

    def due(self, now: float) -> list[RefusalNotice]:
        """Return the summaries that are due, and forget groups without refusals in that time."""
        return [_notice(summary) for summary in self._repeats.due(now)]

    def rest(self, now: float) -> list[RefusalNotice]:
        """Return everything that has not been logged, at shutdown."""
        return [_notice(summary) for summary in self._repeats.rest(now)]


def _notice(summary: Summary[Refused]) -> RefusalNotice:
    return RefusalNotice(summary.latest, summary.count, summary.within_s)
