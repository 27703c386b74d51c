"""Follows the certificate, key and CA files: whoever renews them need not tell the gateway.

They are compared by what is in them, so that links and volumes whose target is exchanged count too.
A new set is checked as a whole before anything uses it; one that is wrong or expired changes
nothing, and the old one stays in use, also in workers that are started later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from gateway.config import TlsContents, read_tls_contents, tls_problems
from gateway.control.core.current_config import CurrentConfig
from gateway.control.core.errors import ReloadError
from gateway.control.metrics.config_metrics import ConfigMetrics, certificate_files
from gateway.control.metrics.control_gauges import certificate_expiry

LOOK_S: Final = 5.0
"""A set is used when two looks in a row find it: whoever writes it has finished."""

_log = structlog.get_logger("gateway.control")


class TlsWatch:
    """Calls `use_new_files`, which raises `ReloadError`, when the files in use have changed."""

    def __init__(
        self,
        config: CurrentConfig,
        metrics: ConfigMetrics,
        use_new_files: Callable[[], Awaitable[None]],
        look_s: float = LOOK_S,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._use_new_files = use_new_files
        self._look_s = look_s
        self._seen: TlsContents | None = None
        self._refused: TlsContents | None = None

    async def run(self) -> None:
        """Look again and again. Never returns."""
        while True:
            await asyncio.sleep(self._look_s)
            await self.look()

    async def look(self) -> None:
        """Look once: use what has changed and is whole, or say what is wrong with it."""
        found = await asyncio.to_thread(read_tls_contents, self._config.config)
        is_settled, self._seen = found == self._seen, found
        if found == self._config.tls_contents:
            self._note_good()
        elif is_settled and found != self._refused:
            await self._take(found)

    async def _take(self, found: TlsContents) -> None:
        problems = await asyncio.to_thread(self._problems)
        if not problems:
            try:
                await self._use_new_files()
            except ReloadError as error:
                problems = error.reasons
            else:
                _log.info("new certificates are in use", files=sorted(self._changed(found)))
                self._note_good()
                return
        self._refused = found
        self._metrics.tls_files_read(good=False)
        _log.error(
            "new certificates, keys or CA files cannot be used; those in use are kept",
            reasons=problems,
            files=sorted(self._changed(found)),
        )

    def _note_good(self) -> None:
        self._refused = None
        self._metrics.tls_files_read(good=True)

    def _changed(self, found: TlsContents) -> set[str]:
        old = self._config.tls_contents
        return {file for file in {*found, *old} if found.get(file) != old.get(file)}

    def _problems(self) -> list[str]:
        config = self._config.config
        problems = tls_problems(config)
        for address, cert_file in certificate_files(config) if not problems else ():
            try:
                if certificate_expiry(cert_file) < time.time():
                    problems.append(f"{cert_file} ({address}): the certificate has expired")
            except (OSError, ValueError) as error:
                problems.append(f"{cert_file} ({address}): {error}")
        return problems
