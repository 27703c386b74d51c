from __future__ import annotations

from gateway.control.core.backoff import Backoff


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def delays(backoff: Backoff, clock: Clock, lives: int, life_s: float) -> list[float]:
    found = []
    for _ in range(lives):
        backoff.started()
        clock.now += life_s
        found.append(backoff.delay_s())
    return found


def test_the_first_restart_is_at_once_and_the_waits_double_up_to_half_a_minute() -> None:
    clock = Clock()
    assert delays(Backoff(clock), clock, 8, 0.5) == [0, 1, 2, 4, 8, 16, 30, 30]


def test_a_minute_of_life_makes_the_next_restart_immediate() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    delays(backoff, clock, 5, 1.0)
    assert delays(backoff, clock, 1, 60.0) == [0]
    assert delays(backoff, clock, 2, 1.0) == [1, 2]


def test_something_that_never_started_waits_longer_each_time() -> None:
    backoff = Backoff(Clock())
    assert [backoff.delay_s() for _ in range(4)] == [0, 1, 2, 4]
