"""Quotas, the memory account, counters: what bounds and what counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gateway import metrics
from gateway.dataplane.budget import Budget
from gateway.dataplane.counters import Counters, Histogram
from gateway.dataplane.quotas import Quotas
from gateway.model import KeyLimits, Protocol, Signal
from gateway.settings import PerKey


class _Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def _request(length: int = 0) -> Any:
    """What quotas know of an exchange."""
    return SimpleNamespace(is_counted=False, request_bytes=length)


def test_requests_per_second_are_a_bucket_that_refills() -> None:
    clock = _Clock()
    quotas = Quotas(PerKey(requests=10), clock)
    admitted = [quotas.admit("a", _request()) is None for _ in range(12)]
    assert admitted == [True] * 10 + [False] * 2
    assert quotas.admit("b", _request()) is None, "another key has its own"
    clock.now += 0.5
    assert [quotas.admit("a", _request()) is None for _ in range(6)] == [True] * 5 + [False]


def test_requests_at_once_are_given_back_when_done() -> None:
    quotas = Quotas(PerKey(concurrent=1), _Clock())
    first, second = _request(), _request()
    assert quotas.admit("a", first) is None
    refusal = quotas.admit("a", second)
    assert refusal is not None
    assert refusal.reason == "QUOTA"
    quotas.done("a", second)
    assert quotas.admit("a", _request()) is not None, "a refused one gives nothing back"
    quotas.done("a", first)
    assert quotas.admit("a", _request()) is None


def test_bytes_are_paid_back_before_the_next_request() -> None:
    clock = _Clock()
    quotas = Quotas(PerKey(bytes=1_000), clock)
    large = _request(5_000)
    assert quotas.admit("a", large) is None
    quotas.done("a", large)
    assert quotas.admit("a", _request()) is not None
    clock.now += 3.9
    assert quotas.admit("a", _request()) is not None
    clock.now += 0.2
    assert quotas.admit("a", _request()) is None


def test_a_keys_own_limits_win() -> None:
    quotas = Quotas(PerKey(requests=2, concurrent=1, workers=2), _Clock())

    def admitted(key_id: str, own: KeyLimits | None) -> int:
        return sum(quotas.admit(key_id, _request(), own) is None for _ in range(20))

    assert admitted("plain", None) == 1
    assert admitted("generous", KeyLimits(requests=10, concurrent=0)) == 5, "its share of the host"
    assert admitted("half", KeyLimits(concurrent=3)) == 2, "the default rate, two at once"
    assert admitted("free", KeyLimits(0, 0, 0)) == 20
    assert quotas.has_default
    assert not Quotas(PerKey()).has_default


def test_changed_limits_are_in_force_at_once_and_open_requests_still_count() -> None:
    quotas = Quotas(PerKey(), _Clock())
    before, after = KeyLimits(requests=0), KeyLimits(requests=3, concurrent=2)
    opened = [_request() for _ in range(1_000)]
    assert all(quotas.admit("a", each, before) is None for each in opened)

    assert quotas.admit("a", _request(), after) is not None, "a thousand are open"
    for each in opened:
        quotas.done("a", each)

    done = [_request() for _ in range(5)]
    refusals = []
    for each in done:
        refusals.append(quotas.admit("a", each, after))
        quotas.done("a", each)
    assert [each is None for each in refusals] == [True] * 3 + [False] * 2


@pytest.mark.parametrize("limits", [PerKey(requests=1), PerKey(bytes=10)])
def test_idle_keys_are_forgotten_though_they_sent_much(limits: PerKey) -> None:
    clock = _Clock()
    quotas = Quotas(limits, clock)
    quotas.admit("old", done := _request(1_000))
    quotas.done("old", done)
    clock.now += 110
    quotas.admit("new", _request())
    assert set(quotas._accounts) == {"new"}


def test_idle_keys_are_forgotten() -> None:
    clock = _Clock()
    quotas = Quotas(PerKey(requests=1), clock)
    for number in range(100):
        quotas.admit(str(number), done := _request())
        quotas.done(str(number), done)
    clock.now += 200
    quotas.admit("new", _request())
    assert set(quotas._accounts) == {"new"}


def test_the_account_wakes_readers_only_when_there_is_room_again() -> None:
    budget = Budget(1_000)
    woken: list[str] = []
    budget.charge(1_000)
    assert budget.is_full
    budget.wait("one", lambda: woken.append("one"))
    budget.wait("two", lambda: woken.append("two"))
    budget.forget("two")
    budget.release(50)
    assert woken == []
    budget.release(60)
    assert woken == ["one"]
    budget.release(200)
    assert woken == ["one"]
    assert not budget.is_near


@pytest.mark.parametrize("bound", [0, 1, 10, 20, len(metrics.BUCKETS_S) - 1])
def test_a_duration_falls_into_the_bucket_of_its_bound(bound: int) -> None:
    histogram = Histogram()
    below = metrics.BUCKETS_S[bound] * 0.99
    above = metrics.BUCKETS_S[bound] * 1.01
    histogram.observe(below)
    histogram.observe(above)
    taken = histogram.take()
    assert taken is not None
    assert len(taken) == len(metrics.BUCKETS_S) + 2, "the buckets, +Inf, and the sum"
    assert [place for place, count in enumerate(taken[:-1]) if count] == [bound, bound + 1]
    assert taken[-1] == pytest.approx(below + above)
    assert histogram.take() is None


def test_a_report_holds_each_change_once() -> None:
    counters = Counters()
    route = counters.route(Protocol.GRPC, Signal.TRACES)
    route.requests["OK", "accepted"] += 2
    route.request_bytes += 10
    counters.count(metrics.INTERNAL_ERRORS, "exchange")
    counters.usage["7", "allowed"] = [2, 10, 5]
    deltas = {(series.metric, series.labels): series.value for series in counters.take_deltas()}
    assert deltas[metrics.REQUESTS.name, ("grpc", "traces", "OK", "accepted")] == 2
    assert deltas[metrics.REQUEST_BYTES.name, ("grpc", "traces")] == 10
    assert deltas[metrics.INTERNAL_ERRORS.name, ("exchange",)] == 1
    assert counters.take_deltas() == []
    assert [(usage.key_id, usage.requests) for usage in counters.take_usage()] == [("7", 2)]
    assert counters.take_usage() == []
