"""What is counted of every request when it has ended: traffic by route, usage by key."""

from __future__ import annotations

from gateway.dataplane.core.counters import Counters
from gateway.dataplane.exchange.record import RequestRecord


class TrafficObserver:
    """Counts requests, bytes and durations by route; requests and bytes by key, also of refused
    keys that are known.
    """

    __slots__ = ("_usage",)

    def __init__(self, counters: Counters) -> None:
        self._usage = counters.usage

    def on_end(self, record: RequestRecord) -> None:
        """See `RequestObserver`."""
        counters = record.route.counters
        counters.requests[record.code, record.result] += 1
        counters.request_bytes += record.request_bytes
        counters.response_bytes += record.response_bytes
        counters.duration.observe(record.duration_s)
        principal = record.principal
        if principal is not None:
            key = principal.key_id, record.auth_outcome
            usage = self._usage.get(key)
            if usage is None:
                usage = self._usage[key] = [0, 0, 0]
            usage[0] += 1
            usage[1] += record.request_bytes
            usage[2] = record.decided_at_ms
