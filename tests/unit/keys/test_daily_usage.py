from __future__ import annotations

import math
import random

import pytest

from gateway.keys.daily_usage import (
    DailyUsage,
    DayTraffic,
    ItemSums,
    day_of,
    estimate,
    plus,
)


def _sums(requests: list[tuple[int, int]], weights: list[float]) -> ItemSums:
    """Sum up requests (bytes, items); a weight of 0 = it was no sample."""
    sums = ItemSums(len(requests), sum(size for size, _ in requests))
    for (size, items), weight in zip(requests, weights, strict=True):
        if weight:
            sums = plus(sums, ItemSums.of_sample(size, items, weight))
    return sums


def test_items_are_exact_where_each_request_was_a_sample() -> None:
    requests = [(100, 3), (5_000, 700), (80, 1)]

    found = estimate(_sums(requests, [1.0, 1.0, 1.0]))

    assert found is not None
    assert found.items == pytest.approx(704)
    assert found.error == 0


def test_one_request_that_was_a_sample_is_exact() -> None:
    found = estimate(_sums([(100, 3)], [1.0]))

    assert found is not None
    assert (found.items, found.error) == (3, 0)


def test_nothing_is_estimated_without_a_sample() -> None:
    assert estimate(_sums([(100, 3)], [0.0])) is None
    assert estimate(ItemSums()) is None


def test_one_sample_of_many_requests_says_nothing_about_its_error() -> None:
    found = estimate(_sums([(100, 3), (200, 6)], [2.0, 0.0]))

    assert found is not None
    assert found.items == pytest.approx(9)
    assert found.error is None


def test_samples_that_got_lost_leave_an_error() -> None:
    requests = [(100, 3), (100, 9), (100, 3)]

    found = estimate(_sums(requests, [1.0, 1.0, 0.0]))

    assert found is not None
    assert found.items == pytest.approx(18)
    assert found.error


def test_the_error_is_as_large_as_estimates_really_scatter() -> None:
    """A mixed sender: tiny batches and large ones, with very different items per byte."""
    choose = random.Random(17)
    requests = [
        (choose.randint(80, 120), 1)
        if choose.random() < 0.7
        else (choose.randint(4_000, 9_000), 400)
        for _ in range(2_000)
    ]
    total = sum(items for _, items in requests)
    estimates = []
    for _ in range(300):
        weights = [20.0 if choose.random() < 1 / 20 else 0.0 for _ in requests]
        found = estimate(_sums(requests, weights))
        assert found is not None
        assert found.error is not None
        estimates.append((found.items, found.error))

    scatter = math.sqrt(sum((items - total) ** 2 for items, _ in estimates) / len(estimates))
    mean_error = sum(error for _, error in estimates) / len(estimates)
    within_two = sum(abs(items - total) <= 2 * error for items, error in estimates)

    assert mean_error == pytest.approx(scatter, rel=0.25)
    assert within_two / len(estimates) > 0.9


def test_a_day_is_that_of_utc() -> None:
    assert day_of(1_900_000_000_000) == "2030-03-17"
    assert day_of(1_899_935_999_999) == "2030-03-16"
    assert day_of(1_899_936_000_000) == "2030-03-17"


def test_what_was_written_of_a_day_is_taken_away() -> None:
    all_of_it, part = DailyUsage(), DailyUsage()
    for _ in range(2):
        all_of_it.add_traffic("2030-03-17", "1", DayTraffic(1, 10, 1))
    all_of_it.add_traffic("2030-03-18", "1", DayTraffic(4))
    part.add_traffic("2030-03-17", "1", DayTraffic(1, 10))

    rest = all_of_it.less(part)

    assert rest.traffic == {
        ("2030-03-17", "1"): DayTraffic(1, 10, 2),
        ("2030-03-18", "1"): DayTraffic(4),
    }
