from __future__ import annotations

from gateway.channel import Usage
from gateway.control.metrics.busiest_keys import BusiestKeys


def usage(key_id: str, requests: int = 1, outcome: str = "allowed") -> Usage:
    return Usage(key_id, outcome, requests, requests * 10, last_used_ms=0)


def everything(traffic: BusiestKeys) -> int:
    all_traffic = [*traffic.keys.values(), traffic.other]
    return sum(count for each in all_traffic for count in each.requests.values())


def test_a_key_s_requests_and_bytes_are_summed_by_outcome() -> None:
    traffic = BusiestKeys()
    traffic.add([usage("1", 2), usage("1", 3), usage("1", 4, "key_expired")])
    assert traffic.keys["1"].requests == {"allowed": 5, "key_expired": 4}
    assert traffic.keys["1"].bytes == {"allowed": 50, "key_expired": 40}


def test_keys_beyond_the_busiest_are_counted_as_other() -> None:
    traffic = BusiestKeys(busiest=2)
    traffic.add([usage("1"), usage("2"), usage("3", 5), usage("4", 6)])
    assert set(traffic.keys) == {"1", "2"}
    assert traffic.other.requests == {"allowed": 11}


def test_an_election_gives_a_quiet_key_s_series_to_a_busier_one() -> None:
    traffic = BusiestKeys(busiest=2)
    traffic.add([usage("quiet"), usage("busy", 100), usage("late", 50)])
    traffic.elect()
    assert set(traffic.keys) == {"busy", "late"}
    traffic.add([usage("quiet"), usage("late", 3)])
    assert traffic.keys["late"].requests == {"allowed": 3}
    assert traffic.other.requests == {"allowed": 51}


def test_keys_that_are_about_as_busy_do_not_take_each_other_s_series() -> None:
    traffic = BusiestKeys(busiest=1)
    traffic.add([usage("first", 10), usage("second", 19)])
    traffic.elect()
    assert set(traffic.keys) == {"first"}


def test_what_was_busy_long_ago_counts_less_than_what_is_busy_now() -> None:
    traffic = BusiestKeys(busiest=1)
    traffic.add([usage("past", 1000)])
    for _ in range(12):
        traffic.elect()
    traffic.add([usage("present", 10)])
    traffic.elect()
    assert set(traffic.keys) == {"present"}


def test_other_never_goes_down() -> None:
    traffic = BusiestKeys(busiest=3, candidates=5)
    highest = 0
    for turn in range(50):
        traffic.add([usage(str(key), (key * turn) % 17 + 1) for key in range(20)])
        if turn % 3 == 0:
            traffic.elect()
        now = traffic.other.requests.get("allowed", 0)
        assert now >= highest
        highest = now


def test_no_request_is_lost_while_no_series_moves() -> None:
    traffic = BusiestKeys(busiest=3)
    for _ in range(5):
        traffic.add([usage(str(key)) for key in range(10)])
    assert everything(traffic) == 50


def test_memory_is_bounded_whatever_the_number_of_keys() -> None:
    traffic = BusiestKeys(busiest=3, candidates=5)
    traffic.add([usage(str(key)) for key in range(1000)])
    assert len(traffic.keys) == 3
    assert len(traffic._recent) == 8
