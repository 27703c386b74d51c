"""Chooses a few requests whose items are counted elsewhere, and sums up what they stand for.

Off the path nothing waits for it: a chosen body is remembered as it passes, and handed to control
when the backend has accepted the request. While sampling is off there is no `ItemSampler`.

Which requests are chosen must not depend on what is in them, or the estimate is wrong: of each key
and signal one of `every` is drawn at random, and stands for so many. `every` follows the traffic,
so that there are few samples a second, whatever comes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Final

from gateway import metrics
from gateway.channel import BodySampled, ItemTraffic
from gateway.dataplane.core.budget import Budget
from gateway.dataplane.core.counters import Counters
from gateway.dataplane.core.heads import RequestHead
from gateway.dataplane.core.routes import Route
from gateway.dataplane.exchange.record import RequestObserver, RequestRecord
from gateway.dataplane.exchange.sampled import Stratum, TakenBody
from gateway.model import Signal
from gateway.outcome import Result
from gateway.samples import MAX_SAMPLE_BYTES, Sample, SampleResult
from gateway.settings import SamplingSettings

PERIOD_S: Final = 10.0
"""How often `every` follows the traffic; as many seconds' samples may come at once."""
_PERIODS: Final = 6
"""So many periods' samples may come in one: when traffic begins, or becomes much more, it takes a
few until `every` has followed.
"""
_TOO_MANY: Final = 1.5
"""How many times more samples than a period should have are too many."""
_STEP: Final = 8
"""How many times larger `every` becomes as soon as there are too many samples."""
MOST_STRATA: Final = 50_000
"""Keys and signals that are told apart; of others nothing is known."""
_MOST_BYTES_S: Final = 4 * 1024 * 1024
"""Bytes of samples in a second, of all workers."""
_SIGNALS: Final = (Signal.TRACES, Signal.METRICS, Signal.LOGS)
_ACCEPTED: Final[str] = Result.ACCEPTED.value
_DROPPED: Final[str] = SampleResult.DROPPED.value
_TOO_LARGE: Final[str] = SampleResult.TOO_LARGE.value
_GRPC_ENCODING: Final = b"grpc-encoding"
_CONTENT_ENCODING: Final = b"content-encoding"
_MOST_TEXT: Final = 200
"""Of a header's value, in bytes."""


class ItemSampler(RequestObserver):
    """See the module. `send` passes a message to control; False: it does not keep up."""

    __slots__ = (
        "_budget",
        "_bytes_left",
        "_counters",
        "_draw",
        "_left",
        "_of_signal",
        "_period_ends",
        "_send",
        "_settings",
        "_strata",
    )

    def __init__(
        self,
        settings: SamplingSettings,
        budget: Budget,
        counters: Counters,
        send: Callable[[BodySampled], bool],
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`draw` returns a random number from 0 to below 1."""
        self._settings = settings
        self._budget = budget
        self._counters = counters
        self._send = send
        self._draw = draw
        self._strata = 0
        self._of_signal: dict[int, dict[str, Stratum]] = {each.bit: {} for each in _SIGNALS}
        """A signal's bit → key id → its requests."""
        self._left = _PERIODS * self._most_samples
        self._bytes_left = self._most_bytes
        self._period_ends = 0.0

    @property
    def _most_samples(self) -> float:
        return max(1.0, self._settings.samples_s * PERIOD_S)

    @property
    def _most_bytes(self) -> float:
        return _MOST_BYTES_S * PERIOD_S / self._settings.workers

    # On the path

    def begin(self, record: RequestRecord, route: Route, key_id: str) -> None:
        """Note a request that is about to be forwarded; choose it, or not."""
        strata = self._of_signal.get(route.signal_bit)
        if strata is None:
            return
        stratum = strata.get(key_id)
        if stratum is None:
            stratum = self._new(strata, key_id)
            if stratum is None:
                return
        record.stratum = stratum
        stratum.seen += 1
        if stratum.skip:
            stratum.skip -= 1
        else:
            self._choose(record, stratum)

    def on_end(self, record: RequestRecord) -> None:
        """See `RequestObserver`."""
        stratum = record.stratum
        if stratum is None:
            return
        taken = record.taken
        if record.result == _ACCEPTED:
            if stratum.is_dropped:
                stratum = self._taken_back(stratum, record.route)
            stratum.requests += 1
            stratum.bytes += record.request_bytes
            if taken is not None:
                self._hand_over(record, stratum, taken)
        if taken is not None:
            record.taken = None
            taken.release()

    def _new(self, strata: dict[str, Stratum], key_id: str) -> Stratum | None:
        if self._strata >= MOST_STRATA:
            return None
        self._strata += 1
        stratum = strata[key_id] = Stratum(key_id)
        stratum.every = max(1, math.ceil(1 / self._allowance()))
        self._draw_next(stratum)
        return stratum

    def _taken_back(self, stratum: Stratum, route: Route) -> Stratum:
        """Return where a request counts that has lasted while no other one of its key came."""
        strata = self._of_signal[route.signal_bit]
        present = strata.get(stratum.key_id)
        if present is not None:
            return present
        stratum.is_dropped = False
        strata[stratum.key_id] = stratum
        self._strata += 1
        return stratum

    def _choose(self, record: RequestRecord, stratum: Stratum) -> None:
        weight = stratum.weight
        stratum.chosen += 1
        if stratum.chosen > _TOO_MANY * self._allowance():
            # Those that follow stand for more: none is left out.
            stratum.chosen = 0
            stratum.every *= _STEP
        self._draw_next(stratum)
        if self._left < 1 or self._bytes_left <= 0 or self._budget.is_near:
            self._counters.count(metrics.USAGE_SAMPLES, _DROPPED)
            return
        self._left -= 1
        record.taken = TakenBody(self._budget, weight)

    def _draw_next(self, stratum: Stratum) -> None:
        """Draw how many requests are passed over: each has the same chance, whatever came before
        it, so that this may be done at any time.
        """
        every = stratum.weight = stratum.every
        stratum.skip = int(math.log1p(-self._draw()) / math.log1p(-1 / every)) if every > 1 else 0

    def _allowance(self) -> float:
        """Samples of one key and signal in a period."""
        share = self._most_samples / max(1, self._strata)
        return min(self._settings.samples_per_key_s * PERIOD_S, share)

    def _hand_over(self, record: RequestRecord, stratum: Stratum, taken: TakenBody) -> None:
        body = taken.take()
        if body is None:
            result = _TOO_LARGE if record.request_bytes > MAX_SAMPLE_BYTES else _DROPPED
            self._counters.count(metrics.USAGE_SAMPLES, result)
            return
        self._bytes_left -= len(body)
        head = record.head
        is_grpc = head.is_grpc
        sample = Sample(
            signal=record.route.counters.signal,
            is_grpc=is_grpc,
            content_type=head.content_type[:_MOST_TEXT].decode("latin-1"),
            encoding=_encoding(head, _GRPC_ENCODING if is_grpc else _CONTENT_ENCODING),
            body=body,
        )
        if not self._send(BodySampled(stratum.key_id, taken.weight, sample)):
            self._counters.count(metrics.USAGE_SAMPLES, _DROPPED)

    # Once a second

    def sweep(self, now: float) -> None:
        """Have `every` follow the traffic. `now`: monotonic seconds."""
        if now < self._period_ends:
            return
        self._period_ends = now + PERIOD_S
        self._left = min(self._left + self._most_samples, _PERIODS * self._most_samples)
        self._bytes_left = self._most_bytes
        self._strata = 0
        for strata in self._of_signal.values():
            for key_id in [each for each, it in strata.items() if not (it.seen or it.requests)]:
                strata.pop(key_id).is_dropped = True
            self._strata += len(strata)
        allowance = self._allowance()
        for strata in self._of_signal.values():
            for stratum in strata.values():
                every = max(1, math.ceil(stratum.seen / allowance))
                stratum.seen = stratum.chosen = 0
                if every != stratum.every:
                    stratum.every = every
                    self._draw_next(stratum)

    def take_traffic(self) -> list[ItemTraffic]:
        """Return the requests that were accepted since the last call, samples or not."""
        traffic: list[ItemTraffic] = []
        for signal in _SIGNALS:
            for stratum in self._of_signal[signal.bit].values():
                if stratum.requests:
                    traffic.append(
                        ItemTraffic(stratum.key_id, signal.value, stratum.requests, stratum.bytes)
                    )
                    stratum.requests = stratum.bytes = 0
        return traffic


def _encoding(head: RequestHead, name: bytes) -> str:
    for field, value in head.fields:
        if field.lower() == name:
            return value[:_MOST_TEXT].decode("latin-1")
    return ""
