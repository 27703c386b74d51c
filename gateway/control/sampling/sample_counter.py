"""Has the items of samples counted, one after the other, and passes on what that says.

Nothing waits for it, and whatever becomes of the decoder costs samples only: the estimate's error
grows. What waits is bounded in number and bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final, Protocol

import structlog

from gateway import metrics
from gateway.channel import BodySampled, Report
from gateway.control.core.backoff import Backoff
from gateway.control.metrics.metric_totals import MetricTotals
from gateway.control.sampling.decoder_process import DecoderError, DecoderProcess
from gateway.control.sampling.item_totals import ItemTotals
from gateway.control.workers.worker_handle import Sent, WorkerObserver
from gateway.keys.daily_usage import ItemSums
from gateway.samples import SampleResult

MOST_WAITING: Final = 256
MOST_WAITING_BYTES: Final = 16 * 1024 * 1024

_log = structlog.get_logger("gateway.control")


class CountedKeys(Protocol):
    """What this needs of the key service."""

    def note_items(self, key_id: str, signal: str, sums: ItemSums) -> None:
        """Add to what is known of a key's items."""


class SampleCounter(WorkerObserver):
    """See the module. `run` must run beside it while samples are taken.

    `keys` and `items` get what is known of each key's items, `totals` what became of samples.
    """

    def __init__(
        self,
        keys: CountedKeys,
        items: ItemTotals,
        totals: MetricTotals,
        decoder: DecoderProcess | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._items = items
        self._totals = totals
        self._decoder = decoder or DecoderProcess()
        self._backoff = Backoff(clock)
        self._waiting: deque[BodySampled] = deque()
        self._waiting_bytes = 0
        self._is_waiting = asyncio.Event()

    def worker_sent(self, worker: Hashable, message: Sent) -> None:  # noqa: ARG002 - an observer's
        """Take a sample, if there is room (`WorkerObserver`)."""
        if not isinstance(message, BodySampled):
            return
        length = len(message.sample.body)
        is_full = self._waiting_bytes + length > MOST_WAITING_BYTES
        if is_full or len(self._waiting) >= MOST_WAITING:
            self._note(SampleResult.DROPPED)
            return
        self._waiting.append(message)
        self._waiting_bytes += length
        self._is_waiting.set()

    def worker_reported(self, worker: Hashable, report: Report) -> None:  # noqa: ARG002 - an observer's
        """Add the requests of which samples are taken (`WorkerObserver`)."""
        for each in report.items:
            self._add(each.key_id, each.signal, ItemSums(each.requests, each.bytes))

    async def run(self) -> None:
        """Have samples counted, for ever."""
        try:
            while True:
                await self._is_waiting.wait()
                await self._count(self._waiting.popleft())
                if not self._waiting:
                    self._is_waiting.clear()
        finally:
            await self._decoder.close()

    async def _count(self, sampled: BodySampled) -> None:
        length = len(sampled.sample.body)
        self._waiting_bytes -= length
        try:
            if self._decoder.pid is None:
                self._backoff.started()
            counted = await self._decoder.count(sampled.sample)
        except DecoderError as error:
            self._note(SampleResult.FAILED)
            self._totals.count(metrics.USAGE_DECODER_RESTARTS)
            _log.warning(
                "the process that counts the items of samples ended; it is started again",
                reason=str(error),
                key_id=sampled.key_id,
                signal=sampled.sample.signal,
            )
            await asyncio.sleep(self._backoff.delay_s())
            return
        self._note(counted.result)
        if counted.result is SampleResult.COUNTED:
            sums = ItemSums.of_sample(length, counted.items, float(sampled.weight))
            self._add(sampled.key_id, sampled.sample.signal, sums)

    def _add(self, key_id: str, signal: str, sums: ItemSums) -> None:
        self._keys.note_items(key_id, signal, sums)
        self._items.add(key_id, signal, sums)

    def _note(self, result: SampleResult) -> None:
        self._totals.count(metrics.USAGE_SAMPLES, (result.value,))
