"""Errors that several rooms of control raise, and the one place where unexpected ones end."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import structlog

_log = structlog.get_logger("gateway.control")


class StartError(Exception):
    """The gateway or one of its workers cannot start with these settings; the text says why."""


class ReloadError(Exception):
    """A reload failed and changed nothing; each of `reasons` says why and what to do."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


class ErrorReporter:
    """Logs unexpected exceptions, which are bugs, and calls `count` for each."""

    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count

    def report(self, place: str, error: BaseException | None) -> None:
        """Log and count an exception that was caught at `place`."""
        self._count()
        _log.error("internal error; the gateway continues", place=place, exc_info=error)

    def on_loop_error(
        self,
        loop: asyncio.AbstractEventLoop,  # noqa: ARG002 - asyncio's signature
        context: dict[str, Any],
    ) -> None:
        """Report what reaches the event loop: exceptions of callbacks that nobody awaits.

        Broken connections and handshakes are the peers' doing, and no bugs.
        """
        if isinstance(context.get("exception"), ConnectionError | ssl.SSLError | TimeoutError):
            return
        self.report(str(context.get("message", "event loop")), context.get("exception"))
