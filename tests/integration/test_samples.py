"""Items of keys, estimated from samples: real exporters, a real worker, a real decoder."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import cramjam
import pytest

from gateway import metrics
from gateway.channel import BodySampled, Report, Up
from gateway.control.metrics.metric_totals import MetricTotals
from gateway.control.sampling.decoder_process import DecoderProcess
from gateway.control.sampling.item_totals import ItemTotals
from gateway.control.sampling.sample_counter import SampleCounter
from gateway.keys.daily_usage import Estimate, ItemSums, estimate, plus
from gateway.samples import MAX_SAMPLE_BYTES
from gateway.settings import SamplingSettings
from tests.support.bodies import SIGNALS
from tests.support.exchange import Answer, Request, accept
from tests.support.plane import KEY, RunningWorker, entry, running_worker, sink_backends
from tests.support.polling import until
from tests.support.sdk import SDK_SIGNALS, SdkSender
from tests.support.sink import RawSink

ALL: Final = SamplingSettings(samples_s=1_000, samples_per_key_s=1_000, workers=1)
"""Each request of a test is a sample."""
KEY_ID: Final = "1"


class Accounts:
    """What the key service would keep."""

    def __init__(self) -> None:
        self.sums: defaultdict[tuple[str, str], ItemSums] = defaultdict(ItemSums)

    def note_items(self, key_id: str, signal: str, sums: ItemSums) -> None:
        self.sums[key_id, signal] = plus(self.sums[key_id, signal], sums)


class Counting:
    """A worker that samples, and control's part of it."""

    def __init__(self, gateway: RunningWorker) -> None:
        self.gateway = gateway
        self.accounts = Accounts()
        self.totals = MetricTotals()
        self.items = ItemTotals({KEY_ID}, lambda _: "name")
        self.decoder = DecoderProcess()
        self.counter = SampleCounter(self.accounts, self.items, self.totals, self.decoder)
        gateway.send_to(self._take)

    def _take(self, message: Up) -> bool:
        assert isinstance(message, BodySampled)
        self.counter.worker_sent(None, message)
        return True

    def results(self) -> dict[str, float]:
        """Return what became of samples: result → count."""
        counted = {labels[0]: n for labels, n in self._control().items()}
        for labels, n in self.gateway.counted(metrics.USAGE_SAMPLES).items():
            counted[labels[0]] = counted.get(labels[0], 0) + n
        return counted

    def _control(self) -> dict[tuple[str, ...], float]:
        return dict(self.totals.counters(metrics.USAGE_SAMPLES))

    async def finish(self, samples: int) -> None:
        """Wait until so many samples were dealt with, and take the worker's report."""
        await until(lambda: sum(self._control().values()) >= samples, "all samples dealt with")
        self.gateway.collect()
        items, self.gateway.items = self.gateway.items, []
        self.counter.worker_reported(None, Report([], [], [], [], items))

    def estimate(self, signal: str, key_id: str = KEY_ID) -> Estimate | None:
        return estimate(self.accounts.sums[key_id, signal])


@asynccontextmanager
async def counting(sink: RawSink, sampling: SamplingSettings = ALL) -> AsyncIterator[Counting]:
    async with running_worker(
        backends=sink_backends(sink), keys=[entry(KEY, KEY_ID)], sampling=sampling
    ) as gateway:
        one = Counting(gateway)
        running = asyncio.create_task(one.counter.run())
        try:
            yield one
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def sink() -> AsyncIterator[RawSink]:
    async with RawSink() as sink:
        yield sink


def _sender(one: Counting, protocol: Any, compression: str) -> SdkSender:
    return SdkSender(protocol, one.gateway.port, f"StackState {KEY}", compression)


@pytest.mark.parametrize(
    "protocol, compression",
    [
        ("grpc", "none"),
        ("grpc", "gzip"),
        ("grpc", "deflate"),
        ("http", "gzip"),
        ("http", "deflate"),
    ],
)
async def test_items_are_exact_where_each_request_is_a_sample(
    sink: RawSink, protocol: str, compression: str
) -> None:
    sizes = {"traces": [3, 40], "metrics": [7, 1], "logs": [100, 2]}
    async with counting(sink) as one:
        for signal in SDK_SIGNALS:
            for size in sizes[signal]:
                assert await _sender(one, protocol, compression).send(signal, range(size))
        await one.finish(6)

        assert one.results() == {"counted": 6.0}
        for signal, sent in sizes.items():
            found = one.estimate(signal)
            assert found is not None
            assert (round(found.items), found.error) == (sum(sent), 0.0)
        series = one.items.series()
        assert series["gateway_key_items_total"][KEY_ID, "name", "logs"] == pytest.approx(102)
        assert series["gateway_key_items_error"][KEY_ID, "name", "logs"] == 0


async def _post(
    one: Counting, body: bytes, *, encoding: str = "", media: str = "application/x-protobuf"
) -> int:
    fields = {"Authorization": f"StackState {KEY}", "Content-Type": media}
    if encoding:
        fields["Content-Encoding"] = encoding
    url = f"http://127.0.0.1:{one.gateway.port}/v1/traces"
    async with (
        aiohttp.ClientSession() as client,
        client.post(url, data=io.BytesIO(body), headers=fields) as answer,
    ):
        await answer.read()
        return answer.status


async def test_the_estimate_of_a_mixed_sender_is_within_its_error(sink: RawSink) -> None:
    """Tiny requests and large ones, plain and compressed, of which few are samples."""
    choose = random.Random(7)
    small = SIGNALS["traces"].make(range(1)).SerializeToString()
    large = SIGNALS["traces"].make(range(200)).SerializeToString()
    kinds = [(small, "", 1), (large, "", 200), (gzip.compress(large), "gzip", 200)]
    sent = 0
    few = SamplingSettings(samples_s=4, samples_per_key_s=4, workers=1)
    async with counting(sink, few) as one:
        for _ in range(600):
            body, encoding, items = choose.choice(kinds)
            assert await _post(one, body, encoding=encoding) == 200
            sent += items
        dropped = one.gateway.count(metrics.USAGE_SAMPLES)
        await until(lambda: not one.counter._waiting, "samples counted")
        await one.finish(1)
        await until(lambda: _is_counted(one), "the last sample counted")

        sums = one.accounts.sums[KEY_ID, "traces"]
        found = one.estimate("traces")

    assert (sums.requests, dropped) == (600, 0)
    assert 60 < sums.samples < 300
    assert found is not None
    assert found.error is not None
    assert 0 < abs(found.items - sent) < 4 * found.error
    assert found.error < 0.35 * sent


def _is_counted(one: Counting) -> bool:
    return one.accounts.sums[KEY_ID, "traces"].samples == one.results()["counted"]


async def test_what_is_no_telemetry_is_counted_as_such_and_harms_nothing(sink: RawSink) -> None:
    good = SIGNALS["traces"].make(range(5)).SerializeToString()
    bodies = [
        (b"\xff\xff\xff no protobuf", "", "application/x-protobuf"),
        (b"no gzip", "gzip", "application/x-protobuf"),
        (gzip.compress(bytes(200_000_000)), "gzip", "application/x-protobuf"),
        (bytes(cramjam.zstd.compress(bytes(200_000_000))), "zstd", "application/x-protobuf"),
        (good, "br", "application/x-protobuf"),
        (b"[" * 900_000, "", "application/json"),
        (json.dumps({"resourceSpans": 5}).encode(), "", "application/json"),
        (bytes(MAX_SAMPLE_BYTES + 1), "", "application/x-protobuf"),
    ]
    async with counting(sink) as one:
        for body, encoding, media in bodies:
            assert await _post(one, body, encoding=encoding, media=media) == 200
        assert await _post(one, good) == 200
        await one.finish(8)

        assert one.results() == {
            "counted": 1,
            "damaged": 4,
            "too_large": 3,
            "unsupported": 1,
        }
        assert [request.body for request in sink.requests] == [*(body for body, *_ in bodies), good]
        assert not one.totals.counters(metrics.USAGE_DECODER_RESTARTS)


async def test_a_decoder_that_is_killed_is_started_again(sink: RawSink) -> None:
    body = SIGNALS["traces"].make(range(5)).SerializeToString()
    async with counting(sink) as one:
        assert await _post(one, body) == 200
        await one.finish(1)
        first = one.decoder._process
        assert first is not None
        first.kill()
        await first.wait()
        for _ in range(3):
            assert await _post(one, body) == 200
        await one.finish(4)

        assert one.decoder.pid not in {None, first.pid}
        assert one.results() == {"counted": 3, "failed": 1}
        assert one.totals.counters(metrics.USAGE_DECODER_RESTARTS)[()] == 1
        assert len(sink.requests) == 4
        found = one.estimate("traces")
        assert found is not None
        assert round(found.items) == 20


async def test_a_decoder_that_hangs_costs_one_sample(sink: RawSink) -> None:
    body = SIGNALS["traces"].make(range(5)).SerializeToString()
    async with counting(sink) as one:
        one.counter._decoder = DecoderProcess(["sleep", "1000"], answer_s=0.05)
        assert await _post(one, body) == 200
        await one.finish(1)

        assert one.results() == {"failed": 1}
        await one.counter._decoder.close()


async def test_what_a_backend_refuses_is_not_counted(sink: RawSink) -> None:
    body = SIGNALS["traces"].make(range(5)).SerializeToString()
    async with counting(sink) as one:
        assert await _post(one, body) == 200
        sink.script = refuse
        assert await _post(one, body) == 400
        sink.script = accept
        assert await _post(one, body) == 200
        await one.finish(2)

        sums = one.accounts.sums[KEY_ID, "traces"]
        assert (sums.requests, sums.bytes, sums.wy) == (2, 2 * len(body), 10)
        assert one.results() == {"counted": 2}


def refuse(_: Request) -> Answer:
    return Answer(status=400)
