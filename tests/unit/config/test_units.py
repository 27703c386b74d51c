from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.units import (
    duration_text,
    parse_byte_rate,
    parse_duration,
    parse_rate,
    parse_size,
    rate_text,
    size_text,
)


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("250ms", 0.25),
        ("5s", 5),
        ("10m", 600),
        ("24h", 86_400),
        ("30d", 30 * 86_400),
        ("1h30m", 5_400),
        ("1.5s", 1.5),
        (" 5s ", 5),
        ("0s", 0),
        (0, 0),
        ("0", 0),
    ],
)
def test_a_time_is_read_as_seconds(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", [5, "5", "5 s", "s", "", "-1s", "5S", "5w", "1e3s", True, None, 0.5]
)
def test_a_time_without_a_known_unit_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="write a time with its unit"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text, size",
    [
        ("64MiB", 64 * 2**20),
        ("256KiB", 256 * 2**10),
        ("2GiB", 2 * 2**30),
        ("1kB", 1000),
        ("3MB", 3_000_000),
        ("1GB", 10**9),
        ("7B", 7),
        ("1.5KiB", 1536),
        ("12", 12),
        (12, 12),
        (0, 0),
    ],
)
def test_a_size_is_read_as_bytes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["64Mi", "64mib", "-1", -1, "1KB", "", "MiB", True, 1.5, None, []])
def test_a_size_with_an_unknown_unit_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="write a size such as 64MiB"):
        parse_size(text)


def test_a_size_that_is_no_whole_number_of_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a whole number of bytes"):
        parse_size("1.3B")


@pytest.mark.parametrize(
    "text, rate",
    [("50/s", 50), ("600/m", 10), ("3600/h", 1), ("20", 20), (20, 20), (0.5, 0.5), (0, 0)],
)
def test_a_rate_is_read_as_events_per_second(text: object, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["50/d", "fast", "/s", -1, True, None])
def test_a_rate_that_is_none_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="write a rate such as"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["1MiB/s", "1MiB", 2**20])
def test_bytes_per_second_may_leave_out_the_second(text: object) -> None:
    assert parse_byte_rate(text) == 2**20


@given(st.integers(min_value=0, max_value=10**9))
def test_a_time_that_was_written_is_read_again(milliseconds: int) -> None:
    assert parse_duration(duration_text(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.integers(min_value=0, max_value=2**50))
def test_a_size_that_was_written_is_read_again(size: int) -> None:
    assert parse_size(size_text(size)) == size


@pytest.mark.parametrize(
    "written, text",
    [(90, "90s"), (60, "1m"), (0.25, "250ms"), (0, "0s"), (86_400, "1d"), (5_400, "90m")],
)
def test_a_time_is_written_with_its_largest_whole_unit(written: float, text: str) -> None:
    assert duration_text(written) == text


def test_a_rate_is_written_per_second() -> None:
    assert rate_text(50.0) == "50/s"
