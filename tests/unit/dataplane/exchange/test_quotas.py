"""Limits of keys in one worker: requests and bytes in a second, requests at once."""

from __future__ import annotations

import pytest

from gateway import metrics
from gateway.dataplane.core.counters import Counters
from gateway.dataplane.exchange.quotas import Lease, Quotas
from gateway.model import KeyLimits
from gateway.settings import PerKeyLimits
from tests.support.quota_host import Clock


def _quotas(limits: PerKeyLimits, clock: Clock | None = None) -> Quotas:
    return Quotas(limits, None, Counters(), clock or Clock())


def _admitted(quotas: Quotas, key_id: str, own: KeyLimits | None = None) -> Lease:
    lease = quotas.admit(key_id, own)
    assert lease is not None
    return lease


def _count(quotas: Quotas, key_id: str, attempts: int, own: KeyLimits | None = None) -> int:
    return sum(quotas.admit(key_id, own) is not None for _ in range(attempts))


def test_a_key_may_send_a_seconds_worth_at_once_and_then_not_before_the_second_is_over() -> None:
    clock = Clock()
    quotas = _quotas(PerKeyLimits(requests=10), clock)
    assert _count(quotas, "a", 12) == 10
    assert quotas.admit("b") is not None, "another key has its own"
    clock.now += 0.95
    assert _count(quotas, "a", 12) == 0
    clock.now += 0.15
    assert 10 <= _count(quotas, "a", 12) <= 11
    clock.now += 3
    assert _count(quotas, "a", 12) == 10


def test_what_was_sent_is_forgotten_bit_by_bit() -> None:
    clock = Clock()
    quotas = _quotas(PerKeyLimits(requests=10), clock)
    assert _count(quotas, "a", 6) == 6
    clock.now += 0.5
    assert _count(quotas, "a", 6) == 4
    clock.now += 0.6
    assert 6 <= _count(quotas, "a", 12) <= 7


@pytest.mark.parametrize("rate", [0.5, 1, 2.5, 3, 20, 1_000])
def test_a_key_that_sends_too_much_gets_its_rate(rate: float) -> None:
    clock = Clock()
    quotas = _quotas(PerKeyLimits(requests=rate), clock)
    seconds, step = 40, 1 / (4 * rate)
    accepted = 0
    while clock.now < 1_000 + seconds:
        accepted += quotas.admit("a") is not None
        clock.now += step
    assert 0.9 * rate * seconds <= accepted <= 1.1 * rate * seconds


def test_requests_at_once_are_given_back_when_done() -> None:
    quotas = _quotas(PerKeyLimits(concurrent=1))
    lease = _admitted(quotas, "a")
    assert quotas.admit("a") is None
    lease.end(0)
    assert quotas.admit("a") is not None


def test_bytes_are_paid_back_before_the_next_request() -> None:
    clock = Clock()
    quotas = _quotas(PerKeyLimits(bytes=1_000), clock)
    _admitted(quotas, "a").end(5_000)
    assert quotas.admit("a") is None
    clock.now += 3.9
    assert quotas.admit("a") is None
    clock.now += 0.2
    assert quotas.admit("a") is not None


def test_declared_bytes_count_at_once_and_others_as_they_come() -> None:
    quotas = _quotas(PerKeyLimits(bytes=1_000))
    declared = quotas.admit("a", None, 600)
    assert declared is not None
    undeclared = _admitted(quotas, "a")
    undeclared.receive(399)
    declared.receive(600)
    third = _admitted(quotas, "a")
    undeclared.receive(400)
    assert quotas.admit("a") is None
    declared.end(500)
    assert quotas.admit("a") is not None, "not all that was declared has come"
    for lease in (undeclared, third):
        lease.end(400)
    assert quotas.admit("a") is None


def test_a_keys_own_limits_win() -> None:
    quotas = _quotas(PerKeyLimits(requests=2, concurrent=1))
    assert _count(quotas, "plain", 20) == 1
    assert _count(quotas, "generous", 20, KeyLimits(requests=10, concurrent=0)) == 10
    assert _count(quotas, "half", 20, KeyLimits(concurrent=3)) == 2, "the default rate"
    assert _count(quotas, "free", 20, KeyLimits(0, 0, 0)) == 20
    assert quotas.has_default
    assert not _quotas(PerKeyLimits()).has_default


def test_changed_limits_are_in_force_at_once_and_open_requests_still_count() -> None:
    quotas = _quotas(PerKeyLimits())
    before, after = KeyLimits(requests=0), KeyLimits(requests=3, concurrent=2)
    opened = [_admitted(quotas, "a", before) for _ in range(1_000)]

    assert quotas.admit("a", after) is None, "a thousand are open"
    for lease in opened:
        lease.end(0)

    admitted = []
    for _ in range(5):
        lease_ = quotas.admit("a", after)
        admitted.append(lease_ is not None)
        if lease_ is not None:
            lease_.end(0)
    assert admitted == [True] * 3 + [False] * 2


def test_a_lower_limit_counts_what_was_sent_in_the_last_second_and_no_more() -> None:
    clock = Clock()
    quotas = _quotas(PerKeyLimits(), clock)
    assert _count(quotas, "a", 500, KeyLimits(requests=1_000)) == 500
    clock.now += 0.5
    assert _count(quotas, "a", 20, KeyLimits(requests=10)) == 0
    clock.now += 0.6
    assert 10 <= _count(quotas, "a", 20, KeyLimits(requests=10)) <= 11


def test_what_was_sent_while_there_was_no_limit_is_not_paid_back() -> None:
    clock = Clock()
    quotas = _quotas(PerKeyLimits(), clock)
    limited, free = KeyLimits(requests=10), KeyLimits(requests=0, concurrent=5_000)
    assert _count(quotas, "a", 20, limited) == 10
    assert _count(quotas, "a", 4_000, free) == 4_000
    clock.now += 1.1
    assert _count(quotas, "a", 20, limited) == 10


@pytest.mark.parametrize("limits", [PerKeyLimits(requests=1), PerKeyLimits(bytes=10)])
def test_idle_keys_are_forgotten_though_they_sent_much(limits: PerKeyLimits) -> None:
    clock = Clock()
    quotas = _quotas(limits, clock)
    _admitted(quotas, "old").end(1_000)
    clock.now += 110
    quotas.admit("new")
    assert set(quotas._accounts) == {"new"}


def test_a_key_that_has_to_pay_back_is_not_forgotten() -> None:
    clock = Clock()
    quotas = _quotas(PerKeyLimits(bytes=10), clock)
    _admitted(quotas, "old").end(5_000)
    clock.now += 110
    quotas.admit("new")
    assert quotas.admit("old") is None


def test_idle_keys_are_forgotten() -> None:
    clock = Clock()
    quotas = _quotas(PerKeyLimits(requests=1), clock)
    for number in range(100):
        _admitted(quotas, str(number)).end(0)
    clock.now += 200
    quotas.admit("new")
    assert set(quotas._accounts) == {"new"}


def test_without_a_table_a_worker_uses_its_share() -> None:
    counters = Counters()
    quotas = Quotas(PerKeyLimits(requests=20, workers=2), None, counters, Clock())
    assert _count(quotas, "a", 50) == 10
    assert _count(quotas, "b", 50, KeyLimits(requests=0, concurrent=3)) == 2
    assert not counters.plain[metrics.LIMITS_DIVIDED.name, ()], "nothing is full"
