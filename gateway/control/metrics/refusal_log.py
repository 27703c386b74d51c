"""Refused requests in the log: sender, reason, name of the key; never the key itself.

Workers report refusals summed up per (who, reason), and `log.RefusalLimiter` decides when they
become a line. Names of keys are added here, because only control knows them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from gateway.channel import Refused
from gateway.log import RefusalLimiter, RefusalNotice

SWEEP_S: Final = 1.0

_log = structlog.get_logger("gateway.refusals")


class RefusalLog:
    """Logs refusals as warnings. `run` must run beside it.

    `key_name` returns the name of a key id, and `owner` whose data it sends ("" = unknown);
    `on_refusal` gets every refusal as it was reported.
    """

    def __init__(
        self,
        key_name: Callable[[str], str],
        on_refusal: Callable[[Refused], None],
        clock: Callable[[], float] = time.monotonic,
        owner: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._key_name = key_name
        self._owner = owner
        self._on_refusal = on_refusal
        self._clock = clock
        self._limiter = RefusalLimiter()

    def take(self, refused: Refused) -> None:
        """Take what a worker reports."""
        notice = self._limiter.add(refused, self._clock())
        if notice is not None:
            self._write(notice)
        self._on_refusal(refused)

    def sweep(self) -> None:
        """Write the summaries that are due."""
        for notice in self._limiter.due(self._clock()):
            self._write(notice)

    def close(self) -> None:
        """Write the summaries that are left."""
        for notice in self._limiter.rest(self._clock()):
            self._write(notice)

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    def _write(self, notice: RefusalNotice) -> None:
        refused = notice.refused
        fields: dict[str, object] = {
            "reason": refused.reason,
            "count": notice.count,
            "within_s": round(notice.within_s),
            "peer": refused.peer,
            "protocol": refused.protocol,
            "signal": refused.signal,
            "scheme": refused.scheme,
            "key_id": refused.key_id,
            "key_name": self._key_name(refused.key_id),
            "owner": self._owner(refused.key_id),
            "digest": refused.digest_prefix,
        }
        is_first = notice.within_s == 0
        _log.warning(
            "refused" if is_first else "refused, summary since the last line",
            **{name: value for name, value in fields.items() if value not in ("", 0)},
        )
