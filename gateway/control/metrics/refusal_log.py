"""Refused requests in the log: sender, reason, name of the key; never the key itself.

Workers report refusals summed up per (who, reason), and `log.RefusalLimiter` decides when they
become a line. Names of keys are added here, because only control knows them. A flood of made-up
keys makes a thousand lines of one report: they are written a few in each turn of the loop, which
has probes to answer, too.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from gateway.channel import Refused
from gateway.log import RefusalLimiter, RefusalNotice

SWEEP_S: Final = 1.0
LINES_A_TURN: Final = 16
"""Lines that are written in a turn of the loop; one takes about 0.1 ms."""

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
        self._room = LINES_A_TURN
        """How many lines may still be written at once until the next sweep."""
        self._waiting: deque[RefusalNotice] = deque()

    def take(self, refused: Refused) -> None:
        """Take what a worker reports."""
        notice = self._limiter.add(refused, self._clock())
        if notice is not None:
            self._tell(notice)
        self._on_refusal(refused)

    def sweep(self) -> bool:
        """Write what waits and the summaries that are due; return whether some must wait again."""
        self._room = LINES_A_TURN
        while self._waiting and self._room:
            self._room -= 1
            self._write(self._waiting.popleft())
        for notice in self._limiter.due(self._clock()):
            self._tell(notice)
        return bool(self._waiting)

    def close(self) -> None:
        """Write all that is left."""
        while self._waiting:
            self._write(self._waiting.popleft())
        for notice in self._limiter.rest(self._clock()):
            self._write(notice)

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            while self.sweep():  # noqa: ASYNC110 - nothing is waited for: others have their turn
                await asyncio.sleep(0)

    def _tell(self, notice: RefusalNotice) -> None:
        """Write it, behind those that wait already."""
        if self._waiting or not self._room:
            self._waiting.append(notice)
        else:
            self._room -= 1
            self._write(notice)

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
