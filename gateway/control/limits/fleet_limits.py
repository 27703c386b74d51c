"""Limits of keys that hold for all gateways that share a store (`limits.scope: fleet`).

About once a second this gateway writes what its senders want of each limited key in use, reads what
others have written, and sets its own share of each limit in the tables that its workers count in.
Workers go by the share that stands there; none of them waits for it.

While the store is away, shares lapse: step by step each becomes an equal part by the number of
gateways that were last known. So nobody is refused everything, and no limit is gone.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from gateway import metrics
from gateway.control.core.current_config import CurrentConfig
from gateway.control.limits.demand import Demand, KeyDemand
from gateway.control.limits.known_gateways import KnownGateways
from gateway.control.limits.reports import Triple, Wanted, decode, encode, nearer, shares
from gateway.control.workers.quota_tables import QuotaTables
from gateway.keys.errors import StoreError
from gateway.keys.limit_board import LimitBoard
from gateway.quota_layout import SLOTS_PER_S

PERIOD_S: Final = 1.0
IDLE_S: Final = 60.0
"""A key of which nobody has heard for so long has no share of its own any more."""
LAPSE: Final = 0.25
"""In each period without an answer a share comes by this part nearer to an equal one."""
_LONGEST_HOST: Final = 40
_ALL: Final = (1.0, 1.0, 1.0)

_log = structlog.get_logger("gateway.control")


class FleetLimits:
    """Shares limits over `board`, as long as the configuration says so. `run` must run beside it.

    `clock` returns monotonic seconds, as workers have them.
    """

    def __init__(
        self,
        config: CurrentConfig,
        tables: QuotaTables,
        board: LimitBoard,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        host = re.sub(r"[^A-Za-z0-9._-]", "?", socket.gethostname())[:_LONGEST_HOST]
        self.name = f"{host} {os.getpid()}-{secrets.token_hex(4)}"
        """What others call this gateway."""
        self.board = board
        self._config = config
        self._tables = tables
        self._clock = clock
        self._known = KnownGateways(config.config.state_dir, _log.warning)
        self._demand = Demand()
        self._shares: dict[bytes, Triple] = {}
        self._gateways = 0
        """How many share the limits; 0 = this host does not share."""
        self._is_up = False
        self._problem = ""
        self._unreadable: set[str] = set()

    @property
    def is_shared(self) -> bool:
        """Whether the configuration has limits hold for all gateways."""
        return self._config.config.limits.scope == "fleet"

    def series(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Return metric name → labels → value."""
        is_alone = not self._gateways
        return {
            metrics.LIMIT_GATEWAYS.name: {(): float(max(1, self._gateways))},
            metrics.LIMIT_SHARES_UP.name: {(): float(is_alone or self._is_up)},
        }

    async def run(self) -> None:
        """Share for ever."""
        while True:
            await self.step()
            await asyncio.sleep(PERIOD_S)

    async def step(self) -> None:
        """Write, read, and set the shares once."""
        if not self.is_shared:
            if self._gateways:
                await self._stop()
            return
        if not self._gateways:
            self._gateways = await asyncio.to_thread(self._known.read)
        since = (self._clock() - IDLE_S) * SLOTS_PER_S
        keys = await self._demand.measure(self._tables.views(), self._clock(), since)
        report = encode({key: each.wanted for key, each in keys.items()})
        try:
            found = await self.board.exchange(self.name, report)
        except StoreError as error:
            self._lapse(keys, str(error))
        else:
            await self._divide(keys, self._read(found))

    async def close(self) -> None:
        """Leave the others the limits, if that is possible now, and release the board."""
        await self._leave()
        await self.board.close()

    def _read(self, reports: Mapping[str, bytes]) -> list[tuple[str, Wanted]]:
        found: list[tuple[str, Wanted]] = []
        for name, report in reports.items():
            try:
                found.append((name, decode(report)))
            except ValueError as error:
                found.append((name, {}))
                if name not in self._unreadable:
                    self._unreadable.add(name)
                    _log.warning(
                        "the report of another gateway cannot be read: it counts as a gateway that"
                        " needs nothing of the keys' limits; run the same version on both",
                        gateway=name,
                        error=str(error),
                    )
        return found

    async def _divide(
        self, keys: Mapping[bytes, KeyDemand], others: list[tuple[str, Wanted]]
    ) -> None:
        number = 1 + len(others)
        if not self._is_up:
            _log.info("keys' limits are shared with other gateways", gateways=number)
        self._is_up, self._problem = True, ""
        self._shares = {
            key: shares(key, each.limits, (self.name, each.wanted), others)
            for key, each in keys.items()
        }
        self._gateways = number
        self._write(keys)
        await asyncio.to_thread(self._known.write, number)

    def _lapse(self, keys: Mapping[bytes, KeyDemand], problem: str) -> None:
        if self._is_up or problem != self._problem:
            _log.warning(
                "keys' limits cannot be shared with other gateways now: within seconds this one has"
                " an equal part of each, by the number of gateways that it last knew",
                gateways=self._gateways,
                error=problem,
            )
        self._is_up, self._problem = False, problem
        equal = 1.0 / self._gateways
        for key, (requests, size, concurrent) in self._shares.items():
            self._shares[key] = (
                nearer(requests, equal, LAPSE),
                nearer(size, equal, LAPSE),
                nearer(concurrent, equal, LAPSE),
            )
        self._write(keys)

    def _write(self, keys: Mapping[bytes, KeyDemand]) -> None:
        equal = 1.0 / self._gateways
        for view in self._tables.views():
            view.set_default(equal)
        for key, demand in keys.items():
            share = self._shares.get(key, (equal, equal, equal))
            for view, row in demand.rows:
                view.set_shares(row, share)

    async def _stop(self) -> None:
        """Use all of each limit on this host from now on."""
        await self._leave()
        for view in self._tables.views():
            view.set_default(1.0)
            for row in view.rows(0.0):
                view.set_shares(row, _ALL)
        self._gateways, self._is_up, self._shares = 0, False, {}
        _log.info("keys' limits hold for this host alone")

    async def _leave(self) -> None:
        if self._is_up:
            try:
                await self.board.leave(self.name)
            except StoreError as error:
                _log.info(
                    "the other gateways learn only after some seconds that this one has left",
                    error=str(error),
                )
