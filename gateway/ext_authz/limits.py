"""Limits of keys for requests that another proxy forwards: counted with those of the workers.

Requests, and the bytes that they declare, count in the table that all workers of the host share.
How long such a request is open nobody tells, so requests at once are neither counted nor limited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from gateway.dataplane.core.counters import Counters
from gateway.dataplane.exchange.quota_rows import QuotaRows
from gateway.dataplane.exchange.quotas import Quotas
from gateway.model import Principal
from gateway.outcome import Refusal
from gateway.settings import PerKeyLimits, QuotaPlace

Place: TypeAlias = Callable[[], QuotaPlace | None]
"""Returns the present column of whoever counts here; None while there is none."""


class KeyQuotas:
    """`limits` are the default ones. Without a `place` this counts alone, a worker's share."""

    def __init__(self, limits: PerKeyLimits, place: Place) -> None:
        self._limits = msgspec.structs.replace(limits, concurrent=0)
        self._find_place = place
        self._place: QuotaPlace | None = None
        self._quotas = Quotas(self._limits, None, Counters())

    def admit(self, whose: Principal, declared_bytes: int) -> Refusal | None:
        """Count a request of the key; why not, where it has used up its limits or a quota.

        `declared_bytes`: -1 where the request does not say.
        """
        own = whose.limits
        if own is None and not self._quotas.has_default:
            return None
        place = self._find_place()
        if place is not self._place:
            rows = None if place is None else QuotaRows.shared(place)
            self._place, self._quotas = place, Quotas(self._limits, rows, Counters())
        if own is not None:
            own = own._replace(concurrent=0)
        lease = self._quotas.admit(whose.key_id, own, declared_bytes)
        if lease is None:
            return self._quotas.refusal(whose.key_id)
        lease.end(max(declared_bytes, 0))
        return None
