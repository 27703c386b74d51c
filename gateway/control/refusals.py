"""Refusals in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gateway.channel import Refused

_log = structlog.get_logger("gateway.refusals")


class Refusals:
    """Temporary."""

    def __init__(self, key_name: Callable[[str], str], also: Callable[[Refused], None]) -> None:
        self._key_name = key_name
        self._also = also

    def take(self, refused: Refused) -> None:
        """Log."""
        _log.warning("refused", reason=refused.reason, key_name=self._key_name(refused.key_id))
        self._also(refused)

    async def run(self) -> None:
        """Wait."""
        await asyncio.Event().wait()
