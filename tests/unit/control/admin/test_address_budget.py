"""Time stands still unless a test moves it."""

from __future__ import annotations

import pytest

from gateway.control.admin.address_budget import MOST_ADDRESSES, AddressBudget

SENDER, OTHER = "192.0.2.1", "192.0.2.2"


class Clock:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> AddressBudget:
    return AddressBudget(at_once=10, per_second=2, clock=clock)


def taken(budget: AddressBudget, remote: str) -> int:
    """Take until there is no more; return how many there were."""
    count = 0
    while not budget.take(remote):
        count += 1
    return count


def test_an_address_has_so_many_at_once_and_then_is_told_to_wait(budget: AddressBudget) -> None:
    assert taken(budget, SENDER) == 10
    assert budget.take(SENDER) == 1


def test_they_come_back_by_and_by_up_to_the_whole(budget: AddressBudget, clock: Clock) -> None:
    taken(budget, SENDER)
    clock.now_s += 1.5
    assert taken(budget, SENDER) == 3
    clock.now_s += 3600
    assert taken(budget, SENDER) == 10


def test_who_asks_on_while_it_has_none_does_not_wait_longer(
    budget: AddressBudget, clock: Clock
) -> None:
    taken(budget, SENDER)
    for _ in range(1000):
        assert budget.take(SENDER) == 1
    clock.now_s += 0.5
    assert budget.take(SENDER) == 0


def test_one_address_takes_nothing_of_anothers(budget: AddressBudget) -> None:
    taken(budget, SENDER)
    assert taken(budget, OTHER) == 10


def test_all_addresses_of_a_customers_network_are_one(budget: AddressBudget) -> None:
    taken(budget, "2001:db8:0:1::1")
    assert budget.take("2001:db8:0:1:ffff::2") > 0
    assert budget.take("2001:db8:0:2::1") == 0
    taken(budget, SENDER)
    assert budget.take(f"::ffff:{SENDER}") > 0


def test_only_so_many_addresses_are_remembered(budget: AddressBudget) -> None:
    taken(budget, SENDER)
    for number in range(MOST_ADDRESSES):
        budget.take(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(budget._full_again_s) == MOST_ADDRESSES
    assert taken(budget, SENDER) == 10
