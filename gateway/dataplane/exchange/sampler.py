"""A sample of requests that control exports as spans, told as they end.

A request whose sender traces it, with a key that may send, is in the sample if the sender has
sampled it; of the others a part is. What a second may bring is bounded. The requests by which
gateways export their own telemetry are never in it: each would bring about the next.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

from gateway.channel import Sampled, SampledRequest
from gateway.dataplane.core.heads import RequestHead
from gateway.dataplane.exchange.record import RequestObserver, RequestRecord
from gateway.dataplane.exchange.tracer import Parent, describe, parent_of
from gateway.outcome import AuthOutcome
from gateway.settings import OWN_TELEMETRY_FIELD, TelemetrySettings

FLUSH_S: Final = 1.0
_random: Final = random.random
_ALLOWED: Final[str] = AuthOutcome.ALLOWED.value
_OWN: Final = OWN_TELEMETRY_FIELD.encode()


class Sampler(RequestObserver):
    """See the module. `send` passes a message to control, or returns False: it does not keep up."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        send: Callable[[Sampled], bool],
        settings: TelemetrySettings,
    ) -> None:
        self._loop = loop
        self._send = send
        self._ratio = settings.sample_ratio
        self._most = settings.requests_per_second
        self._held: list[SampledRequest] = []
        self._dropped = 0
        self._flushing: asyncio.TimerHandle | None = None

    def on_end(self, record: RequestRecord) -> None:
        """See `RequestObserver`."""
        parent = parent_of(record.head)
        if parent is not None and record.auth_outcome == _ALLOWED:
            if not parent.is_sampled:
                return
        elif _random() >= self._ratio:
            return
        if is_own_telemetry(record.head):
            return
        if self._flushing is None:
            self._flushing = self._loop.call_later(FLUSH_S, self.flush)
        if len(self._held) >= self._most:
            self._dropped += 1
        else:
            self._held.append(_describe(record, parent))

    def flush(self) -> None:
        """Tell control what has been taken down."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        held, dropped = self._held, self._dropped
        self._held, self._dropped = [], 0
        if (held or dropped) and not self._send(Sampled(held, dropped)):
            self._dropped = dropped + len(held)


def is_own_telemetry(head: RequestHead) -> bool:
    """Return whether a gateway exports its own telemetry by this request."""
    return any(name.lower() == _OWN for name, _ in head.fields)


def _describe(record: RequestRecord, parent: Parent | None) -> SampledRequest:
    is_forwarded = bool(record.backend_address)
    return SampledRequest(
        request=describe(record),
        ended_at_ns=time.time_ns(),
        path=record.route.target.decode("latin-1"),
        response_bytes=record.response_bytes,
        backend_name=record.route.backend if is_forwarded else "",
        backend_after_s=record.backend_started - record.started if is_forwarded else 0.0,
        parent_id="" if parent is None else parent.span_id,
    )
