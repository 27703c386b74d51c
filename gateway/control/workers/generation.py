"""A generation: the workers that share one plan and one map of connection counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.control.workers.connection_counts import ConnectionCounts
from gateway.control.workers.slot import Slot, SlotContext
from gateway.control.workers.worker_handle import WorkerHandle
from gateway.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What a generation of workers is started with."""

    workers: int
    settings: Callable[[int, int], WorkerSettings]
    """(index, descriptor of the connection counts) → settings of that worker."""
    drain_timeout_s: float


Spawn = Callable[[WorkerSettings], Awaitable[WorkerHandle]]
"""Starts a worker process with these settings, or raises `OSError`."""


class Generation:
    """The slots of one plan, their connection counts, and the workers started for them."""

    def __init__(self, plan: WorkerPlan, spawn: Spawn, context: SlotContext) -> None:
        self.plan = plan
        self.counts = ConnectionCounts(plan.workers)
        self.slots = [Slot(index, self._spawn, context) for index in range(plan.workers)]
        self.workers: set[WorkerHandle] = set()
        """Those that are not gone."""
        self.is_over = False
        """Whether all its slots are retired."""
        self._start_process = spawn

    def retire(self, timeout_s: float, *, is_replaced: bool) -> None:
        """Start no more workers; have the present ones finish within `timeout_s` seconds.

        `is_replaced`: see `channel.Drain`.
        """
        self.is_over = True
        for slot in self.slots:
            slot.retire(timeout_s, is_replaced=is_replaced)

    async def _spawn(self, index: int) -> WorkerHandle:
        worker = await self._start_process(self.plan.settings(index, self.counts.fd))
        self.workers.add(worker)
        return worker
