"""Whether the endpoint takes what is exported: what it does not take is counted, and said once.

opentelemetry-sdk exports in threads of its own, and logs each attempt that fails. Here a line says
that an endpoint fails, and one that it takes everything again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

MAX_HELD: Final = 2048
"""Spans, or lines, that wait for the endpoint."""
_LIBRARY: Final = "opentelemetry"

_log = structlog.get_logger("gateway.telemetry")


class _Result(Protocol):
    @property
    def name(self) -> str:
        """SUCCESS or FAILURE."""


class LastWords(logging.Handler):
    """Takes the library's own log lines, and keeps the last of each thread as a reason."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._of_thread = threading.local()
        self._logger = logging.getLogger(_LIBRARY)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line (logging)."""
        self._of_thread.text = record.getMessage()

    def take(self) -> str:
        """Return this thread's last line, "" if there is none since the last call."""
        text = getattr(self._of_thread, "text", "")
        self._of_thread.text = ""
        return str(text)

    def open(self) -> None:
        """Take the lines that would be logged from now on."""
        self._logger.addHandler(self)
        self._logger.propagate = False

    def close(self) -> None:
        """Let them be logged again."""
        self._logger.removeHandler(self)
        self._logger.propagate = True
        super().close()


class Delivery:
    """What becomes of all exports. Its methods may be called in any thread.

    `count` gets a signal, a reason in `metrics.TELEMETRY_DROP_REASONS` and a number.
    """

    def __init__(self, endpoint: str, count: Callable[[str, str, int], None]) -> None:
        self._endpoint = endpoint
        self._count = count
        self._words = LastWords()
        self._failing: set[str] = set()
        self._lock = threading.Lock()
        self._waiting = {"traces": 0, "logs": 0}

    def open(self) -> None:
        """Begin to watch what the library says."""
        self._words.open()

    def close(self) -> None:
        """End it."""
        self._words.close()

    @property
    def is_failing(self) -> bool:
        """Whether the endpoint did not take the last export of some signal."""
        return bool(self._failing)

    def drop(self, signal: str, reason: str, number: int = 1) -> None:
        """Count what is not exported."""
        if number:
            self._count(signal, reason, number)

    def take_place(self, signal: str) -> bool:
        """Take a place among what waits for the endpoint. False, and counted: there is none."""
        with self._lock:
            has_place = self._waiting[signal] < MAX_HELD
            self._waiting[signal] += has_place
        if not has_place:
            self.drop(signal, "queue")
        return has_place

    def export(self, signal: str, number: int, send: Callable[[], _Result]) -> bool:
        """Export `number` items by `send`; return whether the endpoint took them."""
        self._words.take()
        try:
            is_taken = send().name == "SUCCESS"
        except Exception as error:  # noqa: BLE001 - a bug in the library must not end its thread
            is_taken, reason = False, str(error)
        else:
            reason = self._words.take()
        with self._lock:
            if signal in self._waiting:
                self._waiting[signal] -= number
        if is_taken:
            self._note_success(signal)
        else:
            self.drop(signal, "export", number)
            self._note_failure(signal, reason)
        return is_taken

    def _note_failure(self, signal: str, reason: str) -> None:
        with self._lock:
            is_first = not self._failing
            self._failing.add(signal)
        if is_first:
            _log.warning(
                "the gateway's own telemetry is dropped, because its endpoint does not take it",
                endpoint=self._endpoint,
                signal=signal,
                error=reason,
            )

    def _note_success(self, signal: str) -> None:
        with self._lock:
            was_last = self._failing == {signal}
            self._failing.discard(signal)
        if was_last:
            _log.info("the gateway's own telemetry is delivered again", endpoint=self._endpoint)


class WatchedSpanExporter(SpanExporter):
    """Exports spans, and tells `delivery` what became of them."""

    def __init__(self, exporter: SpanExporter, delivery: Delivery) -> None:
        self._exporter = exporter
        self._delivery = delivery

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch (opentelemetry-sdk)."""
        export = self._exporter.export
        is_taken = self._delivery.export("traces", len(spans), lambda: export(spans))
        return SpanExportResult.SUCCESS if is_taken else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Close the connection (opentelemetry-sdk)."""
        self._exporter.shutdown()


class WatchedLogExporter(LogRecordExporter):
    """Exports log lines, and tells `delivery` what became of them."""

    def __init__(self, exporter: LogRecordExporter, delivery: Delivery) -> None:
        self._exporter = exporter
        self._delivery = delivery

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Export a batch (opentelemetry-sdk)."""
        export = self._exporter.export
        is_taken = self._delivery.export("logs", len(batch), lambda: export(batch))
        return LogRecordExportResult.SUCCESS if is_taken else LogRecordExportResult.FAILURE

    def shutdown(self) -> None:
        """Close the connection (opentelemetry-sdk)."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # it says no types

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 - the library's
        """Do nothing, because nothing is held here (opentelemetry-sdk)."""
        return True
