"""Limits of keys hold for a host: several workers that count in one table."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import metrics
from gateway.control.workers.quota_view import QuotaView
from gateway.dataplane.exchange.quota_rows import PROBES, QuotaRows
from gateway.dataplane.exchange.quotas import Lease, Quotas
from gateway.model import KeyLimits
from gateway.quota_layout import (
    OWNER_CELLS,
    OWNERS_AT,
    ROWS,
    ROWS_AT,
    SHARES_AT,
    SLOTS_PER_S,
    owner_of,
    row_cells,
)
from gateway.settings import PerKeyLimits
from tests.support.quota_host import Host, quota_host

WORKERS: Final = 8
ROUNDS: Final = 300


def _try(worker: Quotas, attempts: int, own: KeyLimits | None = None) -> int:
    return sum(worker.admit("key", own) is not None for _ in range(attempts))


def _lease(worker: Quotas, key_id: str = "key", own: KeyLimits | None = None) -> Lease:
    lease = worker.admit(key_id, own)
    assert lease is not None
    return lease


@pytest.mark.parametrize("connections", [1, 3, 16])
def test_a_burst_gets_the_hosts_limit_however_its_connections_lie(connections: int) -> None:
    with quota_host(WORKERS, PerKeyLimits(requests=100)) as host:
        used = [host.workers[number % WORKERS] for number in range(connections)]
        assert sum(_try(used[number % connections], 1) for number in range(1_000)) == 100


def test_requests_at_once_count_on_all_workers() -> None:
    with quota_host(WORKERS, PerKeyLimits(concurrent=10)) as host:
        leases = [_lease(worker) for worker in host.workers]
        leases += [_lease(host.workers[0]), _lease(host.workers[0])]
        assert [_try(worker, 1) for worker in host.workers] == [0] * WORKERS
        leases.pop().end(0)
        assert _try(host.workers[5], 2) == 1


def test_bytes_count_on_all_workers_from_the_first_burst_on() -> None:
    with quota_host(WORKERS, PerKeyLimits(bytes=1_000)) as host:
        admitted = [worker.admit("key", None, 200) for worker in host.workers]
        assert sum(lease is not None for lease in admitted) == 5


def test_a_key_with_two_limits_is_refused_by_either() -> None:
    with quota_host(2, PerKeyLimits(requests=5, concurrent=3)) as host:
        first, second = host.workers
        for lease in [_lease(first), _lease(second), _lease(first)]:
            assert not _try(second, 1)
            lease.end(0)
            _lease(second).end(0)
            break
        for lease in [_lease(second)]:
            lease.end(0)
        assert _try(first, 1) == 0, "five in this second"


@settings(max_examples=40)
@given(
    limit=st.integers(1, 50),
    demand=st.integers(2, 8),
    order=st.lists(st.integers(0, WORKERS - 1), min_size=1, max_size=40),
    begin=st.floats(0, 1),
)
def test_whoever_asks_and_when_the_host_admits_the_limit(
    limit: int, demand: int, order: list[int], begin: float
) -> None:
    seconds = 5
    with quota_host(WORKERS, PerKeyLimits(requests=limit)) as host:
        host.clock.now += begin
        accepted = []
        for number in range(seconds * limit * demand):
            worker = host.workers[order[number % len(order)]]
            if _try(worker, 1):
                accepted.append(host.clock.now)
            host.clock.now += 1 / (limit * demand)
    assert 0.9 * limit * seconds <= len(accepted) + 1
    assert len(accepted) - 1 <= 1.1 * limit * seconds
    most = limit + max(1, limit // 10)
    for first, later in zip(accepted, accepted[most:], strict=False):
        assert later - first > 0.94, "within one second"


@given(
    limit=st.integers(1, 20),
    steps=st.lists(st.tuples(st.integers(0, WORKERS - 1), st.booleans()), max_size=200),
)
def test_never_more_requests_are_open_than_allowed_and_as_many_as_wanted(
    limit: int, steps: list[tuple[int, bool]]
) -> None:
    with quota_host(WORKERS, PerKeyLimits(concurrent=limit)) as host:
        leases: list[Lease] = []
        for index, ends in steps:
            if ends and leases:
                leases.pop(index % len(leases)).end(0)
                continue
            lease = host.workers[index].admit("key")
            assert (lease is not None) == (len(leases) < limit)
            if lease is not None:
                leases.append(lease)


def _send_bodies(limit: int, seconds: int, bodies: list[tuple[int, int, bool]]) -> int:
    """Have workers get bodies, in turn; return the accepted bytes. A body is (worker, thousandths
    of the limit, whether its length is declared).
    """
    accepted, number = 0, 0
    with quota_host(WORKERS, PerKeyLimits(bytes=limit)) as host:
        end = host.clock.now + seconds
        while host.clock.now < end:
            index, thousandths, is_declared = bodies[number % len(bodies)]
            length = limit * thousandths // 1_000
            lease = host.workers[index].admit("key", None, length if is_declared else -1)
            if lease is not None:
                lease.receive(length)
                lease.end(length)
                accepted += length
            number += 1
            host.clock.now += 0.004
    return accepted


def _bodies(most: int) -> st.SearchStrategy[list[tuple[int, int, bool]]]:
    body = st.tuples(st.integers(0, WORKERS - 1), st.integers(20, most), st.booleans())
    return st.lists(body, min_size=1, max_size=20)


@settings(max_examples=25)
@given(limit=st.integers(1_000, 100_000), bodies=_bodies(100))
def test_the_host_admits_the_limit_of_bytes(
    limit: int, bodies: list[tuple[int, int, bool]]
) -> None:
    assert 0.9 * limit * 6 <= _send_bodies(limit, 6, bodies) <= 1.1 * limit * 6


@settings(max_examples=25)
@given(limit=st.integers(1_000, 100_000), bodies=_bodies(3_000))
def test_large_bodies_exceed_the_limit_of_bytes_by_no_more_than_one_and_are_paid_back(
    limit: int, bodies: list[tuple[int, int, bool]]
) -> None:
    largest = max(thousandths for _, thousandths, _ in bodies) * limit / 1_000
    accepted = _send_bodies(limit, 20, bodies)
    assert 0.9 * limit * 20 - largest <= accepted <= limit * (20 + 1) + largest


@contextmanager
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("kind", ["concurrent", "requests"])
def test_workers_that_decide_at_the_same_moment_admit_not_one_too_many(
    limit: int, kind: str
) -> None:
    with quota_host(4) as host, _switching_often():
        keys = [str(number) for number in range(ROUNDS)]
        place = host.table.take()
        assert place is not None
        rows = QuotaRows.shared(place)
        for key_id in keys:  # threads of one process cannot lock each other out
            rows.find(owner_of(key_id), int(host.clock.now * SLOTS_PER_S))
        own = KeyLimits(concurrent=limit) if kind == "concurrent" else KeyLimits(requests=limit)
        admitted: list[list[str]] = [[] for _ in host.workers]
        together = threading.Barrier(len(host.workers))

        def send(worker: Quotas, mine: list[str]) -> None:
            for key_id in keys:
                together.wait()
                mine += [key_id for _ in range(3) if worker.admit(key_id, own) is not None]

        threads = [
            threading.Thread(target=send, args=each)
            for each in zip(host.workers, admitted, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts = [sum(mine.count(key_id) for mine in admitted) for key_id in keys]
        assert max(counts) == limit


def test_a_dead_workers_requests_are_not_open_any_more_and_its_rate_stays_counted() -> None:
    with quota_host(2, PerKeyLimits(requests=10, concurrent=8)) as host:
        dead, living = host.workers
        assert _try(dead, 6) == 6
        assert _try(living, 9) == 2, "eight are open"
        host.kill(dead)
        successor = host.start()
        assert _try(successor, 9) == 2, "ten in this second"


def test_a_successor_counts_on_from_its_predecessor() -> None:
    with quota_host(2, PerKeyLimits(requests=10)) as host:
        for _ in range(20):
            host.kill(host.workers[0])
            _try(host.start(), 3)
            host.clock.now += 0.5
        assert sum(_try(worker, 20) for worker in host.workers) <= 8


def test_old_and_new_workers_of_a_reload_share_the_limits() -> None:
    with quota_host(2, PerKeyLimits(requests=10, concurrent=5)) as host:
        old = host.workers
        leases = [_lease(worker) for worker in old]
        new = [host.start(), host.start()]
        host.clock.now += 1 / SLOTS_PER_S  # to start takes longer
        assert sum(_try(worker, 5) for worker in [*new, *old]) == 3
        for worker in old:
            host.kill(worker)
        leases.clear()
        assert sum(_try(worker, 20) for worker in new) == 2, "three of five are of new workers"


def test_changed_limits_count_what_old_views_and_new_views_admitted() -> None:
    before, after = KeyLimits(requests=100), KeyLimits(requests=10)
    with quota_host(2) as host:
        ahead, behind = host.workers
        assert _try(behind, 7, before) == 7
        assert _try(ahead, 20, after) == 3
        host.clock.now += 0.05
        assert _try(behind, 200, before) == 90, "as long as it does not know better"
        assert _try(ahead, 20, after) == 0
        host.clock.now += 1.1
        assert _try(behind, 9, after) + _try(ahead, 20, after) <= 11


def test_a_removed_limit_and_a_new_one_begin_anew() -> None:
    with quota_host(2) as host:
        first, second = host.workers
        assert _try(first, 20, KeyLimits(bytes=1_000, requests=10)) == 10
        assert _try(second, 50, KeyLimits(requests=0, concurrent=100)) == 50
        host.clock.now += 1.1
        assert _try(second, 20, KeyLimits(requests=10)) >= 10


def test_keys_do_not_disturb_each_other() -> None:
    with quota_host(2, PerKeyLimits(requests=3, concurrent=3)) as host:
        for key in range(500):
            worker = host.workers[key % 2]
            assert sum(worker.admit(str(key)) is not None for _ in range(5)) == 3


def _crowd(owner: tuple[float, float], number: int) -> list[str]:
    """Return ids of keys that want the same rows."""
    wanted = int(owner[0]) % (ROWS - PROBES)
    found: list[str] = []
    key = 0
    while len(found) < number:
        key_id = f"crowd-{key}"
        if int(owner_of(key_id)[0]) % (ROWS - PROBES) == wanted:
            found.append(key_id)
        key += 1
    return found


CROWD: Final = _crowd(owner_of("key"), PROBES)


def _divided(host: Host) -> int:
    return host.counters.plain[metrics.LIMITS_DIVIDED.name, ()]


def test_a_key_without_a_row_gets_each_workers_share_and_that_is_counted() -> None:
    with quota_host(2, PerKeyLimits(requests=10)) as host:
        first, second = host.workers
        for key_id in CROWD:
            _lease(first, key_id)
        assert _divided(host) == 0
        assert (_try(first, 20), _try(second, 20)) == (5, 5)
        assert _divided(host) == 40


def test_a_key_gets_a_row_that_others_do_not_need_any_more() -> None:
    with quota_host(2, PerKeyLimits(requests=10)) as host:
        first, second = host.workers
        for key_id in CROWD:
            _lease(first, key_id).end(0)
        assert _try(first, 20) == 5
        host.clock.now += 10
        assert _try(first, 20) == 10
        assert _try(second, 20) == 0, "in the same row"
        assert sum(_try(second, 1) for _ in range(3)) == 0
        taken = [key_id for key_id in CROWD if second.admit(key_id) is not None]
        assert len(taken) == len(CROWD), "who lost the row gets another, or a share"


@pytest.mark.parametrize("limits", [PerKeyLimits(concurrent=3), PerKeyLimits(bytes=10)])
def test_rows_with_open_requests_or_debts_are_kept(limits: PerKeyLimits) -> None:
    with quota_host(2, limits) as host:
        first, second = host.workers
        for key_id in CROWD:
            lease = first.admit(key_id, None, 10_000)
            assert lease is not None
            if limits.bytes:
                lease.end(10_000)
            else:
                first.admit(key_id)
        host.clock.now += 10
        _lease(first)
        assert _divided(host) == 1
        left = [sum(second.admit(key_id) is not None for _ in range(5)) for key_id in CROWD]
        assert left == [0 if limits.bytes else 1] * len(CROWD)


def test_a_host_uses_its_share_of_a_limit_at_once_and_keeps_its_count_and_its_debts() -> None:
    with quota_host(2, PerKeyLimits(requests=100, bytes=1_000, concurrent=9)) as host:
        one, other = host.workers
        view = QuotaView(0, host.table.fd, host.table.columns, host.table.cells)
        view.set_default(0.5)
        leases = [each.admit("key") for _ in range(5) for each in (one, other)]
        assert sum(lease is not None for lease in leases) == 4, "half of 9 at once, rounded down"
        for lease in leases:
            if lease is not None:
                lease.end(0)
        host.clock.now += 1.1
        owed = one.admit("key")
        assert owed is not None
        owed.end(3_000)
        (row,) = view.rows(0)
        assert row.limits == (100.0, 1_000.0, 9.0)
        assert (row.requests, row.bytes, row.open, row.refused) == (5.0, 3_000.0, 0.0, 6.0)
        view.set_shares(row, (1.0, 1.0, 0.1))
        host.clock.now += 1.0
        assert other.admit("key") is None, "2,500 were too much, and 1,000 are paid back"
        host.clock.now += 2.0
        lease = other.admit("key")
        assert lease is not None
        assert one.admit("key") is None, "one at once, though a tenth of 9 is less"


def test_a_share_is_not_the_next_keys_that_gets_the_row() -> None:
    with quota_host(1, PerKeyLimits(requests=10)) as host:
        view = QuotaView(0, host.table.fd, host.table.columns, host.table.cells)
        (worker,) = host.workers
        assert worker.admit("key") is not None
        (row,) = view.rows(0)
        host.table.cells[OWNERS_AT + row.number * OWNER_CELLS] = 1.0
        view.set_shares(row, (0.1, 0.1, 0.1))
        (unchanged,) = view.rows(0)
        assert unchanged.owner != row.owner
        at = ROWS_AT + row.number * row_cells(host.table.columns)
        assert host.table.cells[at + SHARES_AT] == 0
