"""Which versions count as the lowest ones that pyproject.toml declares."""

from __future__ import annotations

import pytest

from tools.lowest import lowest


@pytest.mark.parametrize(
    "bound, available, expected",
    [
        ("6", ["7.0.0", "6.1.0", "6.0.0", "5.9.9"], "6.0.0"),
        ("0.7", ["0.7.1", "0.6.4"], "0.7.1"),  # there is no 0.7.0
        ("3.12", ["3.12.10", "3.12.9", "3.12.0"], "3.12.0"),
        ("1.0.1", ["1.0.10", "1.0.2", "1.0"], "1.0.2"),
        ("2.0", ["2.0rc1", "2.0.post1", "2.1"], "2.1"),
    ],
)
def test_the_lowest_release_at_or_above_the_bound_is_taken(
    bound: str, available: list[str], expected: str
) -> None:
    assert lowest(bound, available) == expected
