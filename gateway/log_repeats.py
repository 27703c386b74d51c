"""Log lines that repeat: the first is written at once, then one line a minute with their number.

Whoever logs need not think of it: a store that comes and goes, a client that does the same wrong
thing again and again, or a bug that strikes with each request must not fill the log. Lines that say
a number themselves (`count`, `more`) are summaries already, and pass.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from typing import Any, Final

import structlog

from gateway.repeats import Repeats, Summary

Event = MutableMapping[str, Any]

EACH_TIME: Final = "each_time"
"""A field with which a line is written however often it comes: somebody asked for what it says."""
MAX_TEXTS: Final = 256
"""Different texts at a time."""
MAX_LINES: Final = 256
"""Lines of one text that are told apart by their fields; all others are counted together."""
_EXCEPTIONS: Final = frozenset({"exc_info", "stack_info"})
_SUMMARIES: Final = frozenset({"count", "more", "within_s"})
_VARYING: Final = _EXCEPTIONS | {"detail", "error", "exit_status", "host", "pid", "wait_s"}
"""Fields that differ each time though the matter is the same."""


class RepeatedLines:
    """A structlog processor. `write` takes a summary's event through the processors after it."""

    def __init__(
        self, write: Callable[[Event], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._texts: dict[Hashable, Repeats[Event]] = {}
        self._lock = threading.RLock()  # libraries log from other threads

    def __call__(self, _logger: object, method: str, event: Event) -> Event:
        """Let the first of equal lines pass, and drop the others; first tell what is due."""
        self.tell()
        is_each_time = bool(event.pop(EACH_TIME, False))
        if method == "debug" or is_each_time or not _SUMMARIES.isdisjoint(event):
            return event
        with self._lock:
            repeats = self._repeats_of((event.get("logger"), method), event.get("event"))
            # A copy, because the processors after this one change the event; without exceptions,
            # because they hold on to everything that was alive when they were raised.
            held = {name: value for name, value in event.items() if name not in _EXCEPTIONS}
            if repeats.add(_fields_of(event), None, held, self._clock()) is None:
                raise structlog.DropEvent
        return event

    def tell(self) -> None:
        """Write the summaries that are due."""
        self._tell(lambda repeats: repeats.due(self._clock()))

    def tell_rest(self) -> None:
        """Write what has not been told, at the end."""
        self._tell(lambda repeats: repeats.rest(self._clock()))

    def _tell(self, which: Callable[[Repeats[Event]], list[Summary[Event]]]) -> None:
        with self._lock:
            summaries = [each for repeats in self._texts.values() for each in which(repeats)]
            self._texts = {text: repeats for text, repeats in self._texts.items() if repeats}
        for summary in summaries:
            fields = {"more": summary.count, "within_s": round(summary.within_s)}
            self._write({**summary.latest, **fields})

    def _repeats_of(self, place: tuple[object, ...], text: object) -> Repeats[Event]:
        """Return the lines of one text; texts beyond `MAX_TEXTS` are one per logger and level."""
        key: Hashable = (*place, text)
        if key not in self._texts and len(self._texts) >= MAX_TEXTS:
            key = place
        return self._texts.setdefault(key, Repeats(max_groups=MAX_LINES))


def _fields_of(event: Mapping[str, Any]) -> Hashable:
    """Return what tells a line from others with the same text."""
    fields = sorted((name, repr(value)) for name, value in event.items() if name not in _VARYING)
    return (tuple(fields), _place_of(event.get("exc_info")))


def _place_of(exc_info: object) -> tuple[object, ...]:
    """Return the kind of an exception and where it was raised: another place is another bug."""
    error = sys.exc_info()[1] if exc_info is True else exc_info
    if isinstance(error, tuple):
        error = error[1]
    if not isinstance(error, BaseException):
        return ()
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    if innermost is None:
        return (type(error),)
    return (type(error), innermost.tb_frame.f_code.co_filename, innermost.tb_lineno)
