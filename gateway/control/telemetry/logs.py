"""Makes OpenTelemetry's log records of the lines that control and workers log.

Lines arrive with their secrets masked, and repeated ones as summaries, as the log has them.
"""

from __future__ import annotations

from typing import Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter
from opentelemetry.sdk.resources import Resource

import gateway
from gateway.channel import LogLine
from gateway.control.telemetry.delivery import MAX_HELD, Delivery, WatchedLogExporter

_SEVERITIES: Final = {
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
}
_NO_CONTEXT: Final = Context()
_NAMES: Final = {"exception": "exception.stacktrace"}
"""Fields that have a name in OpenTelemetry's semantic conventions."""


class Logs:
    """See the module."""

    def __init__(self, resource: Resource, exporter: LogRecordExporter, delivery: Delivery) -> None:
        self._delivery = delivery
        self._provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        watched = WatchedLogExporter(exporter, delivery)
        self._provider.add_log_record_processor(
            BatchLogRecordProcessor(watched, max_queue_size=MAX_HELD, max_export_batch_size=512)
        )
        self._logger = self._provider.get_logger("gateway", gateway.__version__)

    def add(self, line: LogLine) -> None:
        """Export a line. May be called in any thread."""
        if not self._delivery.take_place("logs"):
            return
        fields = {_NAMES.get(name, name): value for name, value in line.fields.items()}
        self._logger.emit(
            LogRecord(
                timestamp=line.at_ns,
                observed_timestamp=line.at_ns,
                context=_NO_CONTEXT,
                severity_text=line.level,
                severity_number=_SEVERITIES.get(line.level, SeverityNumber.UNSPECIFIED),
                body=line.event,
                attributes={"logger": line.logger, **fields},
            )
        )

    def shutdown(self) -> None:
        """Export what waits; may take as long as an export."""
        self._provider.shutdown()
