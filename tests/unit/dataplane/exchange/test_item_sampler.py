"""Which requests are samples, and what they stand for, on in-memory ends."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from gateway import metrics
from gateway.channel import BodySampled, ItemTraffic
from gateway.dataplane.core.budget import Budget
from gateway.dataplane.exchange.item_sampler import MOST_STRATA, PERIOD_S, ItemSampler
from gateway.dataplane.exchange.record import RequestRecord
from gateway.dataplane.exchange.sampled import TakenBody
from gateway.samples import MAX_SAMPLE_BYTES, Sample
from gateway.settings import SamplingSettings
from tests.support.in_memory import GRPC_PATH, HTTP_PATH, Core
from tests.support.plane import KEY, entry, limits

ALL = SamplingSettings(samples_s=1_000, samples_per_key_s=1_000, workers=1)
FEW = SamplingSettings(samples_s=5, samples_per_key_s=2, workers=1)


def _core(sampling: SamplingSettings = ALL, **options: object) -> Core:
    return Core(entry(KEY), sampling=sampling, **options)  # type: ignore[arg-type] # by name


def _samples(core: Core) -> list[BodySampled]:
    return [each for each in core.sent if isinstance(each, BodySampled)]


def _dropped(core: Core, result: str) -> int:
    return core.context.counters.plain[metrics.USAGE_SAMPLES.name, (result,)]


def _sampler(core: Core) -> ItemSampler:
    assert core.item_sampler is not None
    return core.item_sampler


async def _send(core: Core, *chunks: bytes, path: bytes = GRPC_PATH, status: int = 0) -> None:
    exchange, _ = core.begin(core.head(path))
    await core.connected()
    for place, chunk in enumerate(chunks, 1):
        exchange.receive_body(chunk, place == len(chunks))
    await core.connected()
    backend = core.connector.requests[-1]
    if path == GRPC_PATH:
        backend.answer_grpc(status)
    else:
        backend.answer(200)


async def test_an_accepted_request_is_handed_over_whole() -> None:
    core = _core()
    await _send(core, b"one ", b"two")

    sample = Sample(
        "traces", is_grpc=True, content_type="application/grpc", encoding="", body=b"one two"
    )
    assert _samples(core) == [BodySampled("1", 1, sample)]
    assert _sampler(core).take_traffic() == [ItemTraffic("1", "traces", 1, 7)]
    assert _sampler(core).take_traffic() == []
    assert core.context.budget.used == 0


async def test_the_encoding_is_that_of_the_head() -> None:
    core = _core()
    head = core.head(HTTP_PATH)
    head.fields.append((b"Content-Encoding", b"gzip"))
    exchange, _ = core.begin(head)
    await core.connected()
    exchange.receive_body(b"body", True)
    await core.connected()
    core.connector.requests[-1].answer(200)

    assert [each.sample.encoding for each in _samples(core)] == ["gzip"]


async def test_what_the_backend_refuses_is_no_sample() -> None:
    core = _core()
    await _send(core, b"body", status=3)

    assert _samples(core) == []
    assert _sampler(core).take_traffic() == []
    assert core.context.budget.used == 0


async def test_a_caller_that_goes_away_leaves_nothing() -> None:
    core = _core()
    exchange, _ = core.begin()
    exchange.receive_body(b"half a bo", False)
    exchange.caller_gone()

    assert core.context.budget.used == 0
    assert _samples(core) == []


async def test_a_body_that_is_too_long_is_given_up_and_let_go_of_at_once() -> None:
    core = _core()
    half = b"x" * (MAX_SAMPLE_BYTES // 2)
    await _send(core, half, half, b"x")

    assert _samples(core) == []
    assert _dropped(core, "too_large") == 1
    assert _sampler(core).take_traffic() == [ItemTraffic("1", "traces", 1, MAX_SAMPLE_BYTES + 1)]


def test_a_body_is_charged_as_long_as_it_is_held() -> None:
    budget = Budget(1_000)
    taken = TakenBody(budget, 1)
    taken.receive(b"x" * 300)
    assert budget.used == 300
    budget.charge(500)
    taken.receive(b"x")
    assert (budget.used, taken.take()) == (500, None), "memory is short: it is given up"
    taken.release()
    assert budget.used == 500


async def test_no_body_is_taken_while_memory_is_short() -> None:
    core = _core(limits=limits(buffer_memory_bytes=1_000))
    core.context.budget.charge(740)
    exchange, _ = core.begin()
    core.context.budget.charge(20)
    exchange.receive_body(b"body", True)
    await core.connected()
    core.connector.requests[-1].answer_grpc()

    assert _samples(core) == []
    assert _dropped(core, "dropped") == 1
    assert core.context.budget.used == 760


async def test_samples_that_control_does_not_take_are_dropped() -> None:
    core = _core()
    _sampler(core)._send = lambda _: False
    await _send(core, b"body")

    assert _dropped(core, "dropped") == 1


class _Requests:
    """Requests of some keys, decided on by a item_sampler alone."""

    def __init__(self, sampling: SamplingSettings, seed: int = 1) -> None:
        self.core = _core()
        self.item_sampler = ItemSampler(
            sampling,
            self.core.context.budget,
            self.core.context.counters,
            lambda _: True,
            random.Random(seed).random,
        )
        exchange, _ = self.core.begin()
        exchange.caller_gone()
        self.route = exchange.route
        self.now = 0.0
        self.weights: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.begun: Counter[str] = Counter()

    def begin(self, key_id: str) -> None:
        record = RequestRecord(self.core.head(), "192.0.2.7:40000", self.route)
        self.item_sampler.begin(record, self.route, key_id)
        self.begun[key_id] += 1
        if record.taken is not None:
            self.taken[key_id] += 1
            self.weights[key_id] += record.taken.weight

    def pass_period(self) -> None:
        self.now += PERIOD_S
        self.item_sampler.sweep(self.now)


async def test_samples_stand_for_all_requests_and_are_few() -> None:
    requests = _Requests(FEW)
    requests.pass_period()
    for _ in range(20):
        for _ in range(500):
            requests.begin("busy")
        for _ in range(2):
            requests.begin("quiet")
        requests.pass_period()

    assert requests.taken["quiet"] == 40, "each of them"
    assert requests.weights["quiet"] == 40
    assert 300 <= requests.taken["busy"] <= 600
    assert requests.weights["busy"] == pytest.approx(10_000, rel=0.15)


async def test_many_keys_share_the_samples() -> None:
    requests = _Requests(FEW)
    requests.pass_period()
    for _ in range(4):
        for number in range(500):
            requests.begin(f"key-{number}")
        requests.pass_period()

    assert sum(requests.taken.values()) < 4 * 50 * 6
    assert sum(requests.weights.values()) == pytest.approx(2_000, rel=0.25)


async def test_samples_end_when_they_become_too_many_at_once() -> None:
    requests = _Requests(SamplingSettings(samples_s=1, samples_per_key_s=1, workers=1))
    for number in range(5_000):
        requests.begin(f"key-{number % 1_000}")

    assert sum(requests.taken.values()) <= 60


async def test_a_key_that_is_quiet_is_forgotten_and_its_last_request_counts() -> None:
    core = _core()
    exchange, _ = core.begin()
    await core.connected()
    item_sampler = _sampler(core)
    for period in range(1, 5):
        item_sampler.sweep(core.context.now() + period * PERIOD_S)
    assert item_sampler._strata == 0

    exchange.receive_body(b"body", True)
    core.connector.requests[-1].answer_grpc()

    assert item_sampler.take_traffic() == [ItemTraffic("1", "traces", 1, 4)]


async def test_keys_are_told_apart_up_to_a_bound() -> None:
    requests = _Requests(ALL)
    requests.item_sampler._strata = MOST_STRATA - 1
    requests.begin("one")
    requests.begin("another")

    assert set(requests.taken) <= {"one"}
    assert requests.item_sampler._strata == MOST_STRATA
