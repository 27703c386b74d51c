"""How a limit is divided among gateways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.limits.division import FLOOR, HEADROOM, divide, divide_whole

WANTS = st.lists(st.floats(0, 1e9), min_size=1, max_size=20)


@given(st.floats(0.001, 1e9), WANTS)
def test_the_parts_are_the_limit_and_nobody_has_nothing(limit: float, wanted: list[float]) -> None:
    parts = divide(limit, wanted)
    assert sum(parts) == pytest.approx(limit)
    assert min(parts) >= limit * FLOOR / len(wanted) * 0.999


@given(st.integers(0, 10_000), WANTS)
def test_whole_parts_are_the_limit(limit: int, wanted: list[float]) -> None:
    parts = divide_whole(limit, wanted)
    assert sum(parts) == limit
    assert min(parts) >= 0


def test_who_wants_little_gets_it_and_the_others_get_equal_parts_of_what_is_left() -> None:
    assert divide(100, [10, 500, 70]) == pytest.approx(
        [10 * HEADROOM, (100 - 10 * HEADROOM) / 2, (100 - 10 * HEADROOM) / 2]
    )


def test_what_nobody_wants_is_divided_equally() -> None:
    assert divide(100, [0, 0, 0, 0]) == pytest.approx([25] * 4)
    busy, idle = divide(100, [50, 0])
    assert busy > 60
    assert idle > 15


def test_one_gateway_has_all() -> None:
    assert divide(100, [3]) == pytest.approx([100])
    assert divide_whole(7, [0]) == [7]
