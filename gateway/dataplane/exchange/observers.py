"""What is counted of every request when it has ended: traffic by route, usage by key."""

from __future__ import annotations

from gateway.dataplane.core.counters import Counters
from gateway.dataplane.exchange.record import RequestObserver, RequestRecord


class TrafficObserver(RequestObserver):
    """Counts requests, bytes and durations by route; requests and bytes by key, also of refused
    keys that are known.
    """

    __slots__ = ("_counters",)

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def on_end(self, record: RequestRecord) -> None:
        """See `RequestObserver`."""
        counters = record.route.counters
        counters.count(record.code, record.result)
        counters.request_bytes += record.request_bytes
        counters.response_bytes += record.response_bytes
        counters.duration.observe(record.duration_s)
        principal = record.principal
        if principal is not None:
            self._counters.use(
                principal.key_id, record.auth_outcome, record.request_bytes, record.decided_at_ms
            )
