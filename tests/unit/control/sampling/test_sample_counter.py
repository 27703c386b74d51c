"""What waits for the decoder is bounded. The decoder itself: tests/integration/test_samples.py."""

from __future__ import annotations

from gateway import metrics
from gateway.channel import BodySampled, ItemTraffic, Report
from gateway.control.metrics.metric_totals import MetricTotals
from gateway.control.sampling.item_totals import ItemTotals
from gateway.control.sampling.sample_counter import (
    MOST_WAITING,
    MOST_WAITING_BYTES,
    SampleCounter,
)
from gateway.keys.daily_usage import ItemSums
from gateway.samples import MAX_SAMPLE_BYTES, Sample


class _Keys:
    def __init__(self) -> None:
        self.noted: list[tuple[str, str, ItemSums]] = []

    def note_items(self, key_id: str, signal: str, sums: ItemSums) -> None:
        self.noted.append((key_id, signal, sums))


def _sampled(size: int) -> BodySampled:
    body = bytes(size)
    return BodySampled(
        "1", 1, Sample("logs", is_grpc=True, content_type="", encoding="", body=body)
    )


def _counter() -> tuple[SampleCounter, MetricTotals, _Keys]:
    totals, keys = MetricTotals(), _Keys()
    return SampleCounter(keys, ItemTotals(set(), lambda _: ""), totals), totals, keys


async def test_few_samples_wait() -> None:
    counter, totals, _ = _counter()
    for _ in range(MOST_WAITING + 3):
        counter.worker_sent(None, _sampled(1))

    assert totals.counters(metrics.USAGE_SAMPLES)["dropped",] == 3


async def test_the_bytes_of_samples_that_wait_are_bounded() -> None:
    counter, totals, _ = _counter()
    for _ in range(MOST_WAITING_BYTES // MAX_SAMPLE_BYTES + 2):
        counter.worker_sent(None, _sampled(MAX_SAMPLE_BYTES))

    assert totals.counters(metrics.USAGE_SAMPLES)["dropped",] == 2


async def test_the_requests_of_a_report_are_passed_on() -> None:
    counter, _, keys = _counter()
    counter.worker_reported(None, Report([], [], [], [], [ItemTraffic("1", "logs", 3, 90)]))

    assert keys.noted == [("1", "logs", ItemSums(3, 90))]
