"""Structured logs: how they are written, what never stands in them, and how refusals are summed up.

Control and workers both use this, so it imports only structlog. What is worth a line, and in which
words, is decided where it happens.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TextIO

import structlog

from gateway.channel import Refused
from gateway.terminal import is_fancy

LogFormat = Literal["console", "json"]

MASK: Final = "***"
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_SECRET_FIELDS: Final = frozenset(
    {"authorization", "api_key", "apikey", "gateway_key", "key", "password", "secret", "token"}
)
"""Fields of an event whose values are masked whatever they look like."""
_PATTERNS: Final = (
    # Keys and service tokens as StackState and this gateway issue them.
    (re.compile(r"\b(iapikey|svctok)[A-Za-z]*-[!#-&(-+./-~-]+"), rf"\1-{MASK}"),
    # The agents' query parameter.
    (re.compile(r"(api_key(?:=|%3D))[^&\s\"'<>]+", re.IGNORECASE), rf"\1{MASK}"),
    # A credential's header, as text or as printed by Python or JSON.
    (
        re.compile(
            r"((?:authorization|(?:sts|dd|x)-api-(?:key|token))b?[\"']?\s*[:=,]\s*b?[\"']?)"
            r"[^\"'\r\n,)}\]]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    # A scheme with what follows it.
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
    """Mask whatever looks like a key or a credential. The last line of defence: nothing should."""
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
    """Mask an event's fields (a structlog processor). Tracebacks must be text by then."""
    for name, value in event.items():
        event[name] = _redact_field(name, value)
    return event


def _in_order(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Put first what people look for first."""
    return {name: event[name] for name in ("timestamp", "level", "logger", "event")} | dict(event)


class _Writer:
    """Writes finished lines. `name` is the room that logs."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self.name = name

    def msg(self, line: str) -> None:
        """Write a line; a log that nobody can read any more must not stop the gateway."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = exception = msg


def _add_logger(
    logger: _Writer, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    event.setdefault("logger", logger.name)
    return event


class _FromStdlib(logging.Handler):
    """Passes on what libraries log (asyncio's lost exceptions, aiohttp's errors)."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record as one of ours (logging)."""
        log = structlog.get_logger(record.name)
        fields: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        level = {30: "warning", 40: "error", 50: "critical"}.get(record.levelno, "info")
        getattr(log, level)(record.getMessage(), **fields)


def configure(
    level: str, log_format: Literal["auto", "console", "json"], stream: TextIO | None = None
) -> LogFormat:
    """Set up logging for this process and return the form that `auto` came to.

    `level` is debug, info, warning or error. `auto` is console where `stream` (stderr unless given)
    is a terminal, else JSON, one object a line.
    """
    out = sys.stderr if stream is None else stream
    resolved = _resolve(log_format, out)
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            _add_logger,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            redact_event,
            _in_order,
            _console(out) if resolved == "console" else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *names: _Writer(out, names[0] if names else "gateway"),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_FromStdlib()]
    root.setLevel(max(_LEVELS[level], logging.WARNING))
    return resolved


def _resolve(log_format: Literal["auto", "console", "json"], stream: TextIO) -> LogFormat:
    if log_format == "auto":
        return "console" if stream.isatty() else "json"
    return log_format


def _console(stream: TextIO) -> structlog.dev.ConsoleRenderer:
    """Make the renderer for people; libraries for pretty tracebacks are not loaded for it."""
    return structlog.dev.ConsoleRenderer(
        colors=is_fancy(stream), exception_formatter=structlog.dev.plain_traceback
    )


@dataclass(frozen=True, slots=True)
class RefusalNotice:
    """One line to log about refusals of one (who, reason)."""

    refused: Refused
    """The latest of them."""
    count: int
    """How many this line stands for."""
    within_s: float
    """Over how many seconds; 0 for the first, which is told at once."""


@dataclass(slots=True)
class _Group:
    latest: Refused
    told_at: float
    untold: int = 0


class RefusalLimiter:
    """Decides which refusals are worth a line: the first at once, then a summary a minute.

    Counted per (who, reason), so that one misconfigured cluster hides no other. Groups beyond
    `max_groups` are summed up per reason as `other`. Decides only: the caller logs, and gives the
    time in seconds of any steady clock.
    """

    OTHER: Final = "other"

    def __init__(self, interval_s: float = 60.0, max_groups: int = 1_000) -> None:
        self._interval_s = interval_s
        self._max_groups = max_groups
        self._groups: dict[tuple[str, str], _Group] = {}

    def add(self, refused: Refused, now: float) -> RefusalNotice | None:
        """Take what a worker reports; return the line to log at once, if any."""
        key = (refused.who, refused.reason)
        if key not in self._groups and len(self._groups) >= self._max_groups:
            key = (self.OTHER, refused.reason)
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = _Group(refused, now)
            return RefusalNotice(refused, refused.count, 0.0)
        group.latest = refused
        group.untold += refused.count
        return None

    def due(self, now: float) -> list[RefusalNotice]:
        """Return the summaries whose minute is over, and forget who has been quiet for one."""
        return list(self._due(now, self._interval_s))

    def rest(self, now: float) -> list[RefusalNotice]:
        """Return what has not been told, at the end."""
        return list(self._due(now, 0.0))

    def _due(self, now: float, after_s: float) -> Iterator[RefusalNotice]:
        for key, group in list(self._groups.items()):
            within_s = now - group.told_at
            if within_s < after_s:
                continue
            if group.untold == 0:
                del self._groups[key]
                continue
            yield RefusalNotice(group.latest, group.untold, within_s)
            group.untold, group.told_at = 0, now
